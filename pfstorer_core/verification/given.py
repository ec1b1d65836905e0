"""The files that are given: what each of them is, told without loading it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..checkpoints.errors import CheckpointError, StateDict
from ..checkpoints.layouts import (
    CFW,
    CLEANER,
    CONTROL_NETWORK,
    DIFFBIR_MODEL,
    FIRST_STAGE,
    LAYOUTS,
    MODEL,
    OWN_WEIGHTS,
    UPSCALER,
    Layout,
    foreign,
    with_prefixes,
)
from ..checkpoints.parts import PARTS, TEXT
from ..checkpoints.reading import read_checkpoint
from ..checkpoints.tensors import is_finite
from ..checkpoints.words import bytes_in_words
from ..personalization.header import FORMAT
from ..personalization.registry import load_identity_adapter, method_named, methods
from ..restorers.inspection import inspect_checkpoint
from ..training.progress import OnTick, never

CHECKPOINT, ADDON, CLEANS, PERSON, UNKNOWN = "checkpoint", "add-on", "cleaner", "adapter", "unknown"
"""What a file is to the others."""

ADDONS = (OWN_WEIGHTS, MODEL, CONTROL_NETWORK, DIFFBIR_MODEL, FIRST_STAGE, CFW)
DIGITS = 16
"""Of SHA-256, by which a file is told from others of its name."""
PIECE = 2**24
MAPPED = 2**30
"""Bytes of a file that are looked at before it is mapped anew: what was read of it stays in memory."""


@dataclass(frozen=True)
class GivenFile:
    """One of the files.

    Attributes:
        role: what it is to the others: see above.
        kind: what it is, in words; of an unknown one why it cannot be loaded.
        facts: more of it, a line each, without a name or a path.
        faults: what does not fit the architecture.
    """

    path: Path
    role: str
    kind: str
    bytes: int
    digest: str
    layout: Layout | None = None
    facts: Sequence[str] = ()
    faults: Sequence[str] = field(default=())

    @property
    def title(self) -> str:
        return f"{bytes_in_words(self.bytes)}, sha256 {self.digest}…: {self.kind}"


def read_given(path: Path, on_tick: OnTick = never) -> GivenFile:
    """Tell what a file is.

    Args:
        on_tick: called every little while; raise in it to stop.
    Raises:
        FileNotFoundError, PermissionError: see `read_checkpoint`.
    """
    try:
        tensors, metadata = read_checkpoint(path)
        digest, size = _digest(path, on_tick), path.stat().st_size
        if metadata.get("format") == FORMAT or any(m.recognizes(tensors) for m in methods().values()):
            return _adapter(path, len(tensors), size, digest)
        found = foreign(with_prefixes(tensors))
        if found is UPSCALER:
            facts = [f"{len(tensors)} tensors"]
            return GivenFile(path, CLEANS, "a cleaner of another architecture", size, digest, facts=facts)
        return _checkpoint(path, len(tensors), size, digest)
    except CheckpointError as error:
        is_file = path.is_file()
        digest, size = (_digest(path, on_tick), path.stat().st_size) if is_file else ("", 0)
        return GivenFile(path, UNKNOWN, str(error), size, digest)


def _adapter(path: Path, count: int, size: int, digest: str) -> GivenFile:
    """Of a person nothing is told, not even how they are called."""
    header = load_identity_adapter(path).header
    title = method_named(header.method, "the file").title
    facts = [
        f"{title}, {count} tensors, {header.steps} steps, predicts {header.prediction_type or 'unknown'}, "
        f"base {header.base or 'unknown'}"
    ]
    return GivenFile(path, PERSON, "an identity adapter", size, digest, facts=facts)


def _checkpoint(path: Path, count: int, size: int, digest: str) -> GivenFile:
    found = inspect_checkpoint(path)
    layout = next(known for known in (*LAYOUTS, CLEANER) if known.name == found.kind)
    facts = [f"{count} tensors, {found.ignored} of them not used"]
    for network in found.networks:
        dtypes = ", ".join(f"{dtype} x {n}" for dtype, n in network.dtypes.items())
        facts.append(f"{network.name}: {network.parameters:,} parameters, {dtypes}")
    if found.note:
        facts.append(found.note)
    if found.fingerprint:
        facts.append(f"fingerprint {found.fingerprint}")
    facts += [f"missing: {missing}" for missing in found.missing]
    role = CLEANS if layout is CLEANER else ADDON if layout in ADDONS else CHECKPOINT
    faults = [network.faults for network in found.networks if network.faults]
    return GivenFile(path, role, found.kind, size, digest, layout, facts, faults)


def not_finite(path: Path, on_tick: OnTick = never) -> tuple[int, list[str]]:
    """How many tensors that are used were looked at, and the names of those with NaN or infinity."""
    names, found = list(_used(with_prefixes(read_checkpoint(path)[0]))), []
    for names_at_once in _pieces(path, names):
        tensors = with_prefixes(read_checkpoint(path)[0])
        for name in names_at_once:
            on_tick()
            if not is_finite(tensors[name]):
                found.append(name)
    return len(names), found


def _used(tensors: StateDict) -> Iterator[str]:
    """Keys that a network has a use for: all of what is none of ours. A causal mask, which some text towers
    have stored, is infinite by nature."""
    parts = [part for part in PARTS if part.of(tensors)]
    for key in tensors:
        part = next((part for part in parts if key.startswith(part.prefix)), None)
        if (part is None and parts) or (part is TEXT and key.endswith(TEXT.unused)):
            continue
        yield key


def _pieces(path: Path, names: Sequence[str]) -> Iterator[list[str]]:
    tensors = with_prefixes(read_checkpoint(path)[0])
    sizes = {name: tensors[name].numel() * tensors[name].element_size() for name in names}
    del tensors
    piece, size = list[str](), 0
    for name in names:
        piece.append(name)
        size += sizes[name]
        if size >= MAPPED:
            yield piece
            piece, size = [], 0
    yield piece


def _digest(path: Path, on_tick: OnTick) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            digest.update(piece)
            on_tick()
    return digest.hexdigest()[:DIGITS]
