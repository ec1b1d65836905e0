"""Number formats that can be trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


def calculates_bf16(device: torch.device) -> bool:
    """Whether the device has bf16 in hardware, not emulated. A CPU always counts: torch converts there."""
    if device.type == "cpu":
        return True
    if device.type == "cuda" and torch.version.hip is None:
        return torch.cuda.get_device_capability(device) >= (8, 0)
    known = {"cuda": torch.cuda, "xpu": torch.xpu}
    return device.type in known and known[device.type].is_bf16_supported()


def training_dtype(stored: torch.dtype, device: torch.device) -> torch.dtype:
    """Of the frozen weights in a training: bf16 or fp32 by the device, whatever the file or the host keeps
    them in. fp16 and fp8 have no room for gradients; on a CPU, what is bf16 or fp32 already stays so."""
    if device.type == "cpu":
        return stored if stored in (torch.bfloat16, torch.float32) else torch.float32
    return torch.bfloat16 if calculates_bf16(device) else torch.float32


@contextmanager
def as_stored(dtype: torch.dtype, device: torch.device) -> Iterator[None]:
    """Without autocast where a frozen network's weights are bf16 already: on a GPU it would only bring the
    inputs of the norms to fp32, and back."""
    on = torch.is_autocast_enabled(device.type) and dtype != torch.bfloat16
    with torch.autocast(device.type, torch.bfloat16, enabled=on):
        yield


def autocast_as_here(call: Callable[[Tensor], Tensor], device: torch.device) -> Callable[[Tensor], Tensor]:
    """The function with autocast on or off as it is now, whatever it is where it will be called."""
    on = torch.is_autocast_enabled(device.type)

    def called(x: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=on):
            return call(x)

    return called
