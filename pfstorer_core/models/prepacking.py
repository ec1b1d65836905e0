"""Convolutions on a CPU whose weights are laid out once, and not in every call.

oneDNN, by which torch calculates convolutions on CPUs, has a layout of its own for weights and brings them to
it in every call. Where many weights meet few pixels that is most of the time: three quarters of a convolution
of 2560 to 1280 channels on 8 x 8.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

PIXELS = 1024
"""Of a batch, up to which laying weights out takes a part of the time that is worth its memory."""


@contextmanager
def prepacked(network: nn.Module) -> Iterator[None]:
    """Meanwhile, convolutions of a network on a CPU that need no gradients keep their weights as oneDNN wants
    them, from the first call with few pixels on. It takes as much memory as these weights do. A weight that
    is exchanged meanwhile (`torch.func.functional_call`) is used as it is; one that is written to is not
    seen."""
    convolutions = [module for module in network.modules() if _is_plain(module)]
    for convolution in convolutions:
        convolution.forward = _Prepacked(convolution)
    try:
        yield
    finally:
        for convolution in convolutions:
            vars(convolution).pop("forward", None)


def _is_plain(module: nn.Module) -> TypeGuard[nn.Conv2d]:
    """Whether it calculates with nothing but its own weights, which oneDNN can take. Nobody else has put a
    forward pass in the place of its own: hooks that stream weights do, and another thread that restores."""
    return (
        isinstance(module, nn.Conv2d)
        and type(module).forward is nn.Conv2d.forward
        and "forward" not in vars(module)
        and isinstance(module.padding, tuple)
        and module.padding_mode == "zeros"
        and module.weight.device.type == "cpu"
        and module.weight.dtype in number_formats()
    )


def number_formats() -> tuple[torch.dtype, ...]:
    """Those in which oneDNN calculates convolutions on this machine."""
    if not torch.backends.mkldnn.is_available():
        return ()
    has_bf16 = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return (torch.float32, torch.bfloat16) if has_bf16 else (torch.float32,)


class _Prepacked:
    """The forward pass of a convolution. [B, C, H, W] -> [B, C', H', W']"""

    def __init__(self, convolution: nn.Conv2d) -> None:
        self.convolution, self.own = convolution, convolution.weight
        geometry = convolution.padding, convolution.stride, convolution.dilation
        self.geometry: Any = (*geometry, convolution.groups)
        self.packed: Tensor | None = None

    def __call__(self, input: Tensor) -> Tensor:
        convolution, x = self.convolution, input
        few = x.ndim == 4 and x[:, 0].numel() <= PIXELS
        exchanged = convolution.weight is not self.own or x.dtype != self.own.dtype
        if not few or exchanged or torch.is_grad_enabled():
            return nn.Conv2d.forward(convolution, x)
        if self.packed is None:
            self.packed = _laid_out(self.own, self.geometry, x.shape)
        # Of torch's ways to oneDNN the one that takes such weights; torch.compile goes it, too.
        convolve: Any = torch.ops.mkldnn._convolution_pointwise
        out = convolve(x, self.packed, convolution.bias, *self.geometry, "none", [], "")
        return out.contiguous() if x.is_contiguous() else out  # it comes with channels last


def _laid_out(weight: Tensor, geometry: Any, size: torch.Size) -> Tensor:
    """As oneDNN wants it for inputs of a size; others can be calculated with it, too."""
    reorder: Any = torch.ops.aten.mkldnn_reorder_conv2d_weight
    return reorder(weight.detach().to_mkldnn(), *geometry, list(size))
