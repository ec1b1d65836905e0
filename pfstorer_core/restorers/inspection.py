"""What a checkpoint file is and holds, for people who wonder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ..checkpoints.header import HEADER_ENTRY, HEADER_TENSOR, RestorerHeader
from ..checkpoints.layouts import (
    BASE,
    CFW,
    MODEL,
    OWN_WEIGHTS,
    PREFIXES,
    RESTORER,
    CheckpointError,
    Layout,
    StateDict,
    part,
)
from ..checkpoints.sizes import autoencoder_config, lq_encoder_config, text_config, text_weights, unet_config
from ..checkpoints.tensors import check_fit, read_layout
from ..models import Autoencoder, Backend, LQEncoder, TextTower, UNet
from .base import NULL_CONTEXT
from .fingerprint import fingerprint

META = Backend(device="meta")
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
        header: what is known besides the tensors; None of an autoencoder. `header_source` says whence:
            "header" or "file name".
        missing: what has to come from elsewhere, and what cannot be done without it.
        fingerprint: what identity adapters call a restorer by; empty of other files.
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


def inspect_checkpoint(path: Path | str) -> Inspection:
    """Tell what a file is without loading it: only keys, shapes and the header are read.

    Raises:
        FileNotFoundError, PermissionError, CheckpointError: not readable, or of another kind.
    """
    path = Path(path)
    tensors, metadata, layout = read_layout(path)
    header = RestorerHeader.from_file(metadata, tensors, path.name)
    networks = _networks(tensors, header)
    used = sum(len(part(tensors, name)) for name in PREFIXES) + len(tensors.keys() & OWN_TENSORS)
    return Inspection(
        str(path),
        path.stat().st_size,
        layout.name,
        networks,
        None if layout is CFW else header,
        "header" if HEADER_ENTRY in metadata or HEADER_TENSOR in tensors else "file name",
        _missing(layout, tensors),
        len(tensors) - used,
        _fingerprint(tensors) if layout is RESTORER and not any(n.faults for n in networks) else "",
    )


def _fingerprint(tensors: StateDict) -> str:
    lq_encoder = {f"lq_encoder.{key}": value for key, value in part(tensors, "lq_encoder").items()}
    return fingerprint(part(tensors, "unet") | lq_encoder)


def _networks(tensors: StateDict, header: RestorerHeader) -> list[Network]:
    unet, lq_encoder, autoencoder, text = (part(tensors, name) for name in PREFIXES)
    sft = {key: value for key, value in unet.items() if ".spade." in key}
    fusion = {key: value for key, value in autoencoder.items() if ".fusion_layer_" in key}
    rest = {key: value for key, value in unet.items() if key not in sft}
    plain = {key: value for key, value in autoencoder.items() if key not in fusion}

    def whole_unet() -> UNet:
        return UNet(unet_config(unet, header.num_head_channels, header.norm_groups), META)

    def encoder() -> LQEncoder:
        return LQEncoder(lq_encoder_config(lq_encoder, header.lq_num_heads, header.norm_groups), META)

    builders: dict[str, tuple[StateDict, StateDict, Callable[[], Any] | None]] = {
        "U-Net": (rest, unet, whole_unet),
        "SFT layers": (sft, {}, None),
        "LQ encoder": (lq_encoder, lq_encoder, encoder),
        "autoencoder": (
            plain,
            autoencoder,
            lambda: Autoencoder(autoencoder_config(autoencoder, header.norm_groups), META),
        ),
        "CFW layers": (fusion, {}, None),
        "text tower": (text, text_weights(text), lambda: TextTower(text_config(text), META)),
    }
    return [
        _network(name, counted, fitted, build)
        for name, (counted, fitted, build) in builders.items()
        if counted
    ]


def _network(
    name: str, counted: StateDict, fitted: Mapping[str, Tensor], build: Callable[[], Any] | None
) -> Network:
    sizes: dict[str, Any] = {}
    faults = ""
    if build is not None:
        try:
            model = build()
            sizes = {key: value for key, value in asdict(model.config).items() if value is not None}
            check_fit(model.state_dict(), fitted, name)
        except CheckpointError as error:
            faults = str(error)
    dtypes = Counter(str(value.dtype).removeprefix("torch.") for value in counted.values())
    parameters = sum(value.numel() for value in counted.values())
    return Network(name, parameters, dict(dtypes.most_common()), sizes, faults)


def _missing(layout: Layout, tensors: StateDict) -> list[str]:
    if layout is OWN_WEIGHTS:
        return ["everything of Stable Diffusion 2.1: it goes on top of such a checkpoint"]
    if layout is MODEL:
        return ["the autoencoder: it goes on top of the restorer that it was saved from"]
    if layout is CFW:
        return ["everything but the autoencoder: it goes on top of a StableSR checkpoint"]
    missing = []
    if layout is BASE:
        missing.append("StableSR's own weights: without them it cannot restore")
    if not any(".fusion_layer_" in key for key in tensors):
        missing.append("CFW layers: fidelity has to stay at 0")
    if not part(tensors, "text"):
        missing.append("text tower: prompts cannot be read")
        if NULL_CONTEXT not in tensors:
            missing.append("the empty prompt's context: it cannot restore without a text tower")
    return missing
