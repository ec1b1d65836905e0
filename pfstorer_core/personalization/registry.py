"""The methods that are there: every folder beside this file with a `METHOD`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ..checkpoints.errors import CheckpointError, StateDict
from ..checkpoints.reading import DamagedFile
from ..checkpoints.tensors import read_checkpoint
from ..checkpoints.words import plain
from ..restorers.registry import in_folders
from .base import Adapter
from .header import FORMAT, method_of


@dataclass(frozen=True)
class Method:
    """One way to know a person.

    Attributes:
        name: in headers, of its folder, and in the nodes.
        title: for people.
        load: makes an adapter, in fp32 on the CPU, of a file's tensors, its metadata and what errors call it.
        settings: class of its training's settings, a `training.PersonTraining`; None where there is nothing
            to train.
        objective: (restorer, photos, settings) -> the `training.PersonObjective` that learns it.
        recognizes: whether a file that does not say what it is, such as one that was made elsewhere, is of
            this method, by its tensors.
    """

    name: str
    title: str
    load: Callable[[StateDict, Mapping[str, str], str], Adapter]
    settings: type[Any] | None = None
    objective: Callable[..., Any] | None = None
    recognizes: Callable[[Mapping[str, Tensor]], bool] = lambda tensors: False


def methods() -> dict[str, Method]:
    """All methods by their names."""
    return in_folders(__package__ or "", "METHOD")


def method_named(name: str, what: str) -> Method:
    """The method of that name; raises CheckpointError where there is none; `what` names it asks."""
    known = methods()
    if name not in known:
        raise CheckpointError(
            f"{what} is of the method {plain(name, 40)!r}, which is not known here (known: "
            f"{', '.join(sorted(known))}): update the pack."
        )
    return known[name]


def load_identity_adapter(path: Path | str) -> Adapter:
    """Read an adapter of whatever method, in fp32 on the CPU.

    Raises:
        FileNotFoundError, PermissionError: see `read_checkpoint`.
        CheckpointError: no adapter, a damaged one, or one of a method or version that is not known here.
    """
    try:
        tensors, metadata = read_checkpoint(path)
    except DamagedFile as error:
        raise CheckpointError(f"{error} Take it from a copy, or learn the person anew.") from error
    name = Path(path).name
    if metadata.get("format") != FORMAT:
        for method in methods().values():
            if method.recognizes(tensors):
                return method.load(tensors, metadata, name)
    return method_named(method_of(metadata, name), name).load(tensors, metadata, name)


def is_adapter(path: Path | str) -> bool:
    """Whether a file says that it is one; raises as `read_checkpoint` does."""
    return read_checkpoint(path)[1].get("format") == FORMAT
