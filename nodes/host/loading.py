"""Weights into modules as the host wants them, streamed or not."""

from __future__ import annotations

from typing import Any

import comfy.model_management as mm
import comfy.model_patcher
import torch
from torch import Tensor

from ...pfstorer_core.checkpoints.tensors import load_exactly


def patcher_class(disable_dynamic: bool) -> type[comfy.model_patcher.ModelPatcher]:
    """The host's patcher: with DynamicVRAM, unless told otherwise, the one that streams weights."""
    return comfy.model_patcher.ModelPatcher if disable_dynamic else comfy.model_patcher.CoreModelPatcher


def load_weights(
    module: torch.nn.Module,
    tensors: dict[str, Tensor],
    what: str,
    expected: dict[str, Tensor],
    placement: dict[str, Any] | None,
) -> None:
    """Give a module that was built on the meta device its weights.

    Where the host streams weights (DynamicVRAM, its default on NVIDIA), its layers have none before they are
    loaded, and afterwards they keep the file's own mapped tensors, which it converts when it needs them.

    Args:
        expected: what the file has to hold, told by the same network of plain layers.
        placement: dtype and device of the weights; None where the host streams them.
    """
    load_exactly(module, tensors, what, expected=expected, assign=placement is None, placement=placement)
    if placement is not None and mm.force_channels_last():
        module.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
