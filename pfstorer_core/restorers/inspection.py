"""What a checkpoint file is and holds, for people who wonder."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..checkpoints.errors import CheckpointError, StateDict
from ..checkpoints.header import HEADER_ENTRY, HEADER_TENSOR, RestorerHeader
from ..checkpoints.layouts import (
    BASE,
    CFW,
    CLEANER,
    CONTROL_NETWORK,
    DIFFBIR_MODEL,
    FIRST_STAGE,
    MODEL,
    OWN_WEIGHTS,
    PRIOR,
    PRIOR_MODEL,
    RESTORERS,
    Layout,
)
from ..checkpoints.parts import AUTOENCODER, PARTS, TEXT, Part
from ..checkpoints.tensors import read_layout
from .fingerprint import fingerprint
from .keys import NULL_CONTEXT, unet_weights
from .registry import UnknownVariant, header_of, note_of

OWN_TENSORS = {NULL_CONTEXT, HEADER_TENSOR}
"""Tensors of a restorer that belong to none of its networks."""


@dataclass(frozen=True)
class Network:
    """One network of a file.

    Attributes:
        dtypes: number formats with the number of tensors in each, the most frequent first.
        sizes: the network's configuration, as told from the tensors; empty of a part of a network.
        faults: what does not fit the architecture; empty where all is well.
    """

    name: str
    parameters: int
    dtypes: dict[str, int]
    sizes: dict[str, Any]
    faults: str = ""


@dataclass(frozen=True)
class Inspection:
    """What a file is.

    Attributes:
        kind: the layout's name.
        header: what is known besides the tensors; None of an autoencoder or a cleaner. `header_source` says
            whence: "header" or "file name".
        missing: what has to come from elsewhere, and what cannot be done without it.
        fingerprint: what identity adapters call a restorer by; empty of other files.
        note: who may not use it, and what it cannot do; mostly empty.
        ignored: keys that nothing here uses, such as buffers that are recomputed.
    """

    path: str
    bytes: int
    kind: str
    networks: list[Network]
    header: RestorerHeader | None
    header_source: str
    missing: list[str]
    ignored: int
    fingerprint: str = ""
    note: str = ""


def inspect_checkpoint(path: Path | str) -> Inspection:
    """Tell what a file is without loading it: only keys, shapes and the header are read.

    Raises:
        FileNotFoundError, PermissionError, CheckpointError: not readable, or of another kind.
    """
    path = Path(path)
    tensors, metadata, layout = read_layout(path, (CLEANER,))
    try:
        header, unknown = header_of(metadata, tensors, path.name, layout), []
    except UnknownVariant as error:
        header, unknown = RestorerHeader(), [str(error)]
    networks = _networks(tensors, header)
    sound = not any(network.faults for network in networks)
    used = sum(len(part.of(tensors)) for part in PARTS) + len(tensors.keys() & OWN_TENSORS)
    return Inspection(
        str(path),
        path.stat().st_size,
        layout.name,
        networks,
        None if unknown or layout in (CFW, CLEANER, FIRST_STAGE) else header,
        "header" if HEADER_ENTRY in metadata or HEADER_TENSOR in tensors else "file name",
        [*unknown, *_missing(layout, tensors)],
        len(tensors) - used,
        fingerprint(unet_weights(tensors)) if layout in RESTORERS and sound else "",
        note_of(header),
    )


def _networks(tensors: StateDict, header: RestorerHeader) -> list[Network]:
    found = []
    for part in PARTS:
        weights, (addition, infix) = part.of(tensors), part.addition
        added = {key: value for key, value in weights.items() if addition and infix in key}
        own = {key: value for key, value in weights.items() if key not in added}
        if own:
            found.append(_network(part.title, own, *_sizes(part, weights, header)))
        if added:
            found.append(_network(addition, added))
    return found


def _sizes(part: Part, weights: StateDict, header: RestorerHeader) -> tuple[dict[str, Any], str]:
    """What the tensors tell, and what is wrong with them."""
    sizes: dict[str, Any] = {}
    try:
        config = part.config_from(weights, header)
        sizes = {key: value for key, value in asdict(config).items() if value is not None}
        part.check_fit(weights, config)
    except CheckpointError as error:
        return sizes, str(error)
    return sizes, ""


def _network(name: str, tensors: StateDict, sizes: dict[str, Any] | None = None, faults: str = "") -> Network:
    dtypes = Counter(str(value.dtype).removeprefix("torch.") for value in tensors.values())
    parameters = sum(value.numel() for value in tensors.values())
    return Network(name, parameters, dict(dtypes.most_common()), sizes or {}, faults)


def _missing(layout: Layout, tensors: StateDict) -> list[str]:
    if layout is OWN_WEIGHTS:
        return ["everything of Stable Diffusion 2.1: it goes on top of such a checkpoint"]
    if layout is CONTROL_NETWORK:
        return ["everything of Stable Diffusion 2.1, or the restorer that it was trained on: it goes on top"]
    if layout in (MODEL, DIFFBIR_MODEL):
        return ["the autoencoder: it goes on top of the restorer that it was saved from"]
    if layout is CFW:
        return ["everything but the autoencoder: it goes on top of a StableSR checkpoint"]
    if layout is CLEANER:
        return ["everything but the cleaner: it goes with a DiffBIR or CLR-Face restorer"]
    if layout is FIRST_STAGE:
        return ["everything but the first stage: it goes with a latent diffusion model"]
    if layout is PRIOR_MODEL:
        return ["the first stage, such as vqgan.ckpt: it comes as an add-on"]
    if layout is PRIOR:
        return []
    missing = []
    if layout is BASE:
        missing.append("StableSR's own weights or DiffBIR's control network: without them it cannot restore")
    if not any(AUTOENCODER.addition[1] in key for key in tensors):
        missing.append("CFW layers: fidelity has to stay at 0")
    if not TEXT.of(tensors):
        missing.append("text tower: prompts cannot be read")
        if NULL_CONTEXT not in tensors:
            missing.append("the empty prompt's context: it cannot restore without a text tower")
    return missing
