"""What the benchmarks of speed share."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from pfstorer_core.models import UNet

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def stopwatch(call: Callable[[], object], device: torch.device) -> float:
    """Seconds of a call, what it left to do on the device included."""
    started = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def randomized(module: torch.nn.Module) -> UNet:
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    return module.eval()  # type: ignore[return-value]


def busy(call: Callable[[], object]) -> float:
    """Seconds that a call calculates on the CPU, which other work on the machine changes less than those that
    it takes. Only for one thread: others count while they wait."""
    started = time.process_time()
    call()
    return time.process_time() - started
