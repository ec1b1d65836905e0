"""The moving average of the weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@torch.no_grad()
def follow(average: Mapping[str, Tensor], trained: Mapping[str, Tensor], decay: float) -> None:
    """Take a step of the moving average: in place, of what is trained, by name."""
    averages = [average[name] for name in trained]
    torch._foreach_lerp_(averages, list(trained.values()), 1 - decay)  # pyright: ignore[reportPrivateImportUsage]


@contextmanager
def lent(trained: Mapping[str, nn.Parameter], average: Mapping[str, Tensor]) -> Iterator[None]:
    """The averaged weights in place of the trained ones."""
    own = {name: parameter.data for name, parameter in trained.items()}
    for name, parameter in trained.items():
        parameter.data = average[name]
    try:
        yield
    finally:
        for name, parameter in trained.items():
            parameter.data = own[name]
