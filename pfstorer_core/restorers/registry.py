"""The architectures of restorers that are there: every folder beside this file with an `ARCHITECTURE`."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from ..checkpoints.errors import CheckpointError, StateDict
from ..checkpoints.header import RestorerHeader
from ..checkpoints.layouts import Layout
from ..checkpoints.words import plain
from ..diffusion.guidance import PromptGuidance


@dataclass(frozen=True)
class Architecture:
    """What a kind of restorer can do of what a header may say.

    Attributes:
        name: in headers, and of its folder.
        condition, start, size_rule: the values of the header's fields of these names that it knows.
        published: (file name, tensors, variant) -> the header of a published file, which has none of its own;
            variant is None where nobody has said it. Raises `UnknownVariant` where nothing tells it.
        variants: of its published weights.
        guidance: by variant, of those that were made to be guided by prompts.
        notes: by variant, what has to be known before one uses it: whom its licence keeps from it, and what
            it cannot do.
    """

    name: str
    condition: tuple[str, ...]
    start: tuple[str, ...]
    size_rule: tuple[str, ...]
    published: Callable[..., RestorerHeader]
    variants: tuple[str, ...] = ()
    guidance: Mapping[str, PromptGuidance] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)


class UnknownVariant(CheckpointError):
    """Of a published file whose name does not say which one it is."""

    __module__ = "builtins"


def architectures() -> dict[str, Architecture]:
    """All architectures by their names."""
    return in_folders(__package__ or "", "ARCHITECTURE")


def variants() -> list[str]:
    """Of the published weights of all architectures."""
    return [name for each in architectures().values() for name in each.variants]


def prompt_guidance(header: RestorerHeader) -> PromptGuidance:
    """How a restorer of this header was made to be guided by prompts; not at all, as far as is known."""
    known = architectures().get(header.architecture)
    return known.guidance.get(header.variant, PromptGuidance()) if known else PromptGuidance()


def note_of(header: RestorerHeader) -> str:
    """What has to be known of a restorer of this header before one uses it; mostly nothing."""
    known = architectures().get(header.architecture)
    return known.notes.get(header.variant, "") if known else ""


def in_folders(package: str, attribute: str) -> dict[str, Any]:
    """What the folders of a package offer under this name, by its own `name`."""
    parent = importlib.import_module(package)
    folders = [folder.name for folder in pkgutil.iter_modules(parent.__path__) if folder.ispkg]
    modules = [importlib.import_module(f"{package}.{name}") for name in folders]
    offered = [getattr(module, attribute) for module in modules if hasattr(module, attribute)]
    return {each.name: each for each in offered}


def header_of(
    metadata: Mapping[str, str], tensors: StateDict, name: str, layout: Layout, variant: str | None = None
) -> RestorerHeader:
    """The header of a file of this layout, or what is known of the published file of this name.

    Raises:
        CheckpointError: see `RestorerHeader.from_file`, and where nothing tells the variant.
        ValueError: no such variant.
    """
    architecture = architectures()[layout.architecture]
    if variant is not None and variant not in architecture.variants:
        known = ", ".join(architecture.variants) or "none"
        raise ValueError(f"{architecture.name} has no variant {variant!r} (known: {known}).")
    published = partial(architecture.published, tensors=tensors, variant=variant)
    header = RestorerHeader.from_file(metadata, tensors, name, published)
    if header.architecture in architectures() and header.architecture != architecture.name:
        raise CheckpointError(
            f"{plain(name)} holds {layout.name}, but its header says {header.architecture}: it is damaged."
        )
    return header


def check_architecture(header: RestorerHeader, name: str) -> None:
    """Raise CheckpointError where nothing here can restore with what the header of a file says."""
    known = architectures()
    if header.architecture not in known:
        raise CheckpointError(
            f"{plain(name)} is a restorer of the architecture {plain(header.architecture, 40)!r}, which is "
            f"not known here (known: {', '.join(sorted(known))}): update the pack."
        )
    for entry in ("condition", "start", "size_rule"):
        found, allowed = getattr(header, entry), getattr(known[header.architecture], entry)
        if found not in allowed:
            raise CheckpointError(
                f"{plain(name)} says {entry} {found!r}, which {header.architecture} does not have here "
                f"(known: {', '.join(allowed)}): update the pack."
            )
