"""A start for adapters: blocks that have learned from many people to read photos of one.

By itself an adapter's blocks begin with random weights and γ = 0, and the few photos of a person are too few
for them to learn what to look for in photos: what they learn is the person. Blocks that were trained over
many people, each with photos of their own, know that already; a new person's begin there.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ...checkpoints.errors import CheckpointError
from ...checkpoints.fields import Rules, anything, check_version, one_of, read_header, text, whole
from ...checkpoints.reading import DamagedFile
from ...checkpoints.tensors import read_checkpoint, write_safetensors
from ...checkpoints.words import plain
from ...models import UNet
from ...restorers.fingerprint import same_base
from ..references import REFERENCE_TIMESTEPS
from .block import PersonalizationBlock
from .files import block_tensors, read_blocks
from .header import HEADS, NULL_LQ, SITES, check_blocks
from .settings import AdapterTraining
from .sites import site_faults

FORMAT, VERSION, ENTRY = "pfstorer.adapter_start", "1", "start"
SUFFIX = ".start.safetensors"
"""What takes the place of the ending of a restorer's name, beside which its start lies."""

RULES: Rules = {
    "base": text(16, "[0-9a-f]{16}"),
    "sites": SITES,
    "heads": HEADS,
    "init_word": text(100),
    "null_lq": one_of(*NULL_LQ),
    "reference_timestep": one_of(*REFERENCE_TIMESTEPS),
    "steps": whole(0, 10**7),
    "people": whole(0, 10**9),
    "training": anything(dict, "fields by their names"),
}
REQUIRED = ("base", "sites", "heads", "init_word", "reference_timestep")


@dataclass(frozen=True, kw_only=True)
class StartHeader:
    """What the tensors do not tell.

    Attributes:
        base: fingerprint of the restorer that it was trained on.
        sites, heads: see `PFStorerHeader`.
        init_word: stood for everybody, and stands for a person before they are learned.
        null_lq, reference_timestep: see `AdapterTraining`.
        steps, people: of its training. training: its settings.
    """

    base: str
    sites: list[str]
    heads: list[int]
    init_word: str
    reference_timestep: str
    null_lq: str = "drop"
    steps: int = 0
    people: int = 0
    training: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class AdapterStart:
    """Blocks of each site, in fp32 on the CPU, with which adapters begin."""

    header: StartHeader
    blocks: dict[str, PersonalizationBlock]

    @property
    def fingerprint(self) -> str:
        """Tells it from others: 64 bits of a digest of its weights as its file has them, in fp16."""
        digest = hashlib.sha256()
        for key, value in sorted(block_tensors(self.blocks).items()):
            digest.update(f"{key} {list(value.shape)}".encode())
            digest.update(value.cpu().half().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    def save(self, path: Path | str) -> None:
        """Write it in fp16; see `write_safetensors` for the errors."""
        metadata = {"format": FORMAT, "format_version": VERSION, ENTRY: json.dumps(asdict(self.header))}
        write_safetensors(path, block_tensors(self.blocks), metadata, torch.float16)

    def fault(self, base: str, settings: AdapterTraining) -> str:
        """Why adapters of these settings, on the base of that fingerprint, cannot begin here; "" where they
        can."""
        header = self.header
        if not same_base(header.base, base):
            return f"it was trained on another base ({header.base}, this one is {base})"
        if not (settings.gamma and settings.blocks):
            return "these settings learn no γ, or no blocks"
        if settings.sites and sorted(settings.sites) != sorted(header.sites):
            return f"its sites are {', '.join(header.sites)}"
        for name in ("reference_timestep", "init_word"):
            if getattr(header, name) != getattr(settings, name):
                return f"its {name.replace('_', ' ')} is {getattr(header, name)}"
        return ""

    def misfit(self, unet: UNet) -> str:
        """Which of its sites a U-Net has not, or of another width; "" where there is none."""
        return next(iter(site_faults(unet, self.blocks, "this restorer")), "")


class FoundStart(NamedTuple):
    """The start that adapters are to begin with, or none; and what is to be said of it, a sentence each."""

    start: AdapterStart | None
    notes: list[str]


def load_start(path: Path | str) -> AdapterStart:
    """Read a start.

    Raises:
        FileNotFoundError, PermissionError: see `read_checkpoint`.
        CheckpointError: no start, or a damaged one.
    """
    name = Path(path).name
    try:
        tensors, metadata = read_checkpoint(path)
    except DamagedFile as error:
        raise CheckpointError(f"{error} Take it from a copy, or delete it: adapters do without.") from error
    if metadata.get("format") != FORMAT:
        raise CheckpointError(
            f"{plain(name)} is no start for adapters (its format is "
            f"{plain(metadata.get('format', 'not named'))}): choose a file that train-start wrote."
        )
    check_version(metadata.get("format_version"), VERSION, name, "start for adapters")
    header = StartHeader(**read_header(metadata, ENTRY, RULES, f"The header of {name}", REQUIRED))
    check_blocks(header.sites, header.heads, tensors, f"The start for adapters {name}")
    return AdapterStart(header, read_blocks(tensors, header.sites, header.heads))


def is_start(path: Path | str) -> bool:
    """Whether a file says that it is one; raises as `read_checkpoint` does."""
    return read_checkpoint(path)[1].get("format") == FORMAT


def start_beside(restorer: Path | str) -> Path:
    """Where the start for the adapters of a restorer's file lies, where it has one: x.start.safetensors
    beside x.safetensors."""
    return Path(restorer).with_suffix(SUFFIX)


def find_start(files: Sequence[Path | str], base: str, settings: Any) -> FoundStart:
    """The start beside one of a restorer's files, where adapters of these settings can begin there; nothing
    is said where there is none, or where another method than PFStorer learns.

    Args:
        base: fingerprint of the restorer.
    Raises:
        CheckpointError, OSError: see `load_start`.
    """
    notes: list[str] = []
    if isinstance(settings, AdapterTraining):
        for path in filter(Path.is_file, map(start_beside, files)):
            start = load_start(path)
            if not (fault := start.fault(base, settings)):
                return FoundStart(start, [*notes, f"It began from {path.name}, which was learned of others."])
            notes.append(f"{path.name} was left out: {fault}.")
    return FoundStart(None, notes)
