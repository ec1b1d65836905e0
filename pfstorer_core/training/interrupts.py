"""Asking a caller, often, whether long work is to go on."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from .progress import OnTick


@contextmanager
def asking(on_tick: OnTick, *networks: nn.Module) -> Iterator[None]:
    """Within it these networks call `on_tick` after each of their blocks, forwards and backwards, in the
    thread that began it: so what they are used for can be stopped within a step, and no number changes."""
    thread = threading.get_ident()

    def ask(*_: Any) -> None:
        if threading.get_ident() == thread:
            on_tick()

    def after(_: nn.Module, __: Any, output: Any) -> None:
        ask()
        if isinstance(output, Tensor) and output.requires_grad:
            output.register_hook(ask)

    with ExitStack() as stack:
        for block in (block for network in networks for block in _blocks(network)):
            stack.enter_context(_removed(block.register_forward_hook(after)))
        yield


@contextmanager
def _removed(handle: Any) -> Iterator[None]:
    try:
        yield
    finally:
        handle.remove()


def _blocks(network: nn.Module) -> Iterator[nn.Module]:
    """What lies in lists: the numbered blocks of a U-Net, the levels of an autoencoder, …"""
    for part in network.modules():
        if isinstance(part, nn.ModuleList):
            yield from part
