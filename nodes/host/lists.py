"""Inputs of nodes that all of a list comes into."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor


def as_list(values: Any) -> Sequence[Any]:
    """Of a node that all of a list comes into: what is no list is one value."""
    return values if isinstance(values, list) else [values]


def rounds(given: Sequence[Sequence[Any]]) -> list[list[Any]]:
    """A value of each list, round by round, as the host does it where it calls a node for each: the last
    value of a short list stands for those that it lacks."""
    return [[values[min(n, len(values) - 1)] for values in given] for n in range(max(map(len, given)))]


def single_value(name: str, values: Sequence[Any]) -> Any:
    """The value of an input that takes one, where all of a list come in.

    Raises:
        ValueError: several different ones.
    """
    first, *others = values
    if any(other is not first and (isinstance(other, Tensor) or other != first) for other in others):
        raise ValueError(
            f"The input {name} got a list of {len(values)} different values, and all photos together are one "
            "person: give it one value, or queue the node once for each."
        )
    return first


def single_values(inputs: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """Of a node that all photos come into as a list, and all else, too; raises ValueError for several."""
    return {name: single_value(name, values) for name, values in inputs.items()}
