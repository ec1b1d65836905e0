"""The architectures of restorers that are there: every folder beside this file with an `ARCHITECTURE`."""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass
from typing import Any

from ..checkpoints.errors import CheckpointError
from ..checkpoints.header import RestorerHeader
from ..checkpoints.words import plain


@dataclass(frozen=True)
class Architecture:
    """What a kind of restorer can do of what a header may say.

    Attributes:
        name: in headers, and of its folder.
        condition, start, size_rule: the values of the header's fields of these names that it knows.
    """

    name: str
    condition: tuple[str, ...]
    start: tuple[str, ...]
    size_rule: tuple[str, ...]


def architectures() -> dict[str, Architecture]:
    """All architectures by their names."""
    return in_folders(__package__ or "", "ARCHITECTURE")


def in_folders(package: str, attribute: str) -> dict[str, Any]:
    """What the folders of a package offer under this name, by its own `name`."""
    parent = importlib.import_module(package)
    folders = [folder.name for folder in pkgutil.iter_modules(parent.__path__) if folder.ispkg]
    modules = [importlib.import_module(f"{package}.{name}") for name in folders]
    offered = [getattr(module, attribute) for module in modules if hasattr(module, attribute)]
    return {each.name: each for each in offered}


def check_architecture(header: RestorerHeader, name: str) -> None:
    """Raise CheckpointError where nothing here can restore with what the header of a file says."""
    known = architectures()
    if header.architecture not in known:
        raise CheckpointError(
            f"{plain(name)} is a restorer of the architecture {plain(header.architecture, 40)!r}, which is "
            f"not known here (known: {', '.join(sorted(known))}): update the pack."
        )
    for field in ("condition", "start", "size_rule"):
        found, allowed = getattr(header, field), getattr(known[header.architecture], field)
        if found not in allowed:
            raise CheckpointError(
                f"{plain(name)} says {field} {found!r}, which {header.architecture} does not have here "
                f"(known: {', '.join(allowed)}): update the pack."
            )
