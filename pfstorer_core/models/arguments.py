"""What a function is given: the tensors in it, and everything else."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

PLAIN = (bool, int, float, str, torch.dtype, torch.device, type(None))


class OpaqueError(Exception):
    """Something that may hold tensors which cannot be seen."""

    __module__ = "builtins"  # as errors are shown


def exchanged(value: Any, visit: Callable[[Tensor], Tensor]) -> tuple[Any, Hashable]:
    """A copy with what `visit` gives for each tensor; and what is the same in all that differ in the numbers
    of their tensors alone.

    Args:
        value: tensors, networks, numbers and words, in lists, mappings and dataclasses. Networks stay the
            same objects: what is in them is no part of it.
    Raises:
        OpaqueError: anything else, such as a function.
    """
    if isinstance(value, Tensor):
        if value.requires_grad and torch.is_grad_enabled():
            raise OpaqueError("gradients flow through what it is given")
        return visit(value), (Tensor, value.shape, value.dtype, value.device)
    if isinstance(value, PLAIN):
        return value, (type(value), value)
    if isinstance(value, nn.Module):
        return value, value
    if isinstance(value, Mapping):
        parts = {key: exchanged(part, visit) for key, part in value.items()}
        copy = {key: part for key, (part, _) in parts.items()}
        return copy, (Mapping, *((key, same) for key, (_, same) in parts.items()))
    if isinstance(value, list | tuple):
        members = [exchanged(part, visit) for part in value]
        return type(value)([part for part, _ in members]), (list, *(same for _, same in members))
    if is_dataclass(value) and not isinstance(value, type):
        given = {field.name: getattr(value, field.name) for field in fields(value) if field.init}
        copy, same = exchanged(given, visit)
        return type(value)(**copy), (type(value), same)
    raise OpaqueError(f"it is given a hook ({type(value).__name__})")


def tensors_in(value: Any) -> list[Tensor]:
    """All of them, in their order; raises OpaqueError, see `exchanged`."""
    found: list[Tensor] = []
    exchanged(value, lambda tensor: found.append(tensor) or tensor)
    return found
