"""A base restorer: the networks of one file and what has to be known to use them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from .checkpoint import (
    PREFIXES,
    CheckpointError,
    autoencoder_config,
    load_exactly,
    lq_encoder_config,
    part,
    read_checkpoint,
    unet_config,
)
from .files import written
from .models import Autoencoder, AutoencoderConfig, Backend, UNet, UNetConfig
from .schedule import PredictionType

FORMAT = "pfstorer.restorer"
NULL_CONTEXT = "null_context"
HEADER_TENSOR = "pfstorer.header"
"""The header as a tensor of bytes, in files that another program wrote and gave metadata of its own."""


@dataclass(frozen=True)
class RestorerHeader:
    """What the tensors do not tell. The defaults are those of StableSR on SD 2.1, whose files have no header.

    Attributes:
        prediction_type: "eps" or "v".
        scale_factor: unscaled latent × this is what the U-Net sees.
        image_size: side in pixels of the pictures that it was trained on: the tile size to use.
        num_head_channels, lq_num_heads: attention heads of the U-Net and of the LQ encoder.
        preview: rough colours of a latent: a row [r, g, b] (−1…1) for every channel and one for the
            bias, to be multiplied with the scaled latent; empty where unknown.
        training: record of how it was made.
    """

    prediction_type: PredictionType = "eps"
    scale_factor: float = 0.18215
    image_size: int = 512
    num_head_channels: int = 64
    lq_num_heads: int = 4
    preview: list[list[float]] = field(default_factory=list)
    training: Mapping[str, Any] = field(default_factory=dict)

    def to_metadata(self) -> dict[str, str]:
        return {
            "format": FORMAT,
            "format_version": "1",
            "restorer": json.dumps(asdict(self), sort_keys=True),
        }

    def to_tensor(self) -> Tensor:
        """As UTF-8 bytes, see `HEADER_TENSOR`."""
        return torch.tensor(list(self.to_metadata()["restorer"].encode()), dtype=torch.uint8)

    @classmethod
    def from_file(cls, metadata: Mapping[str, str], tensors: Mapping[str, Tensor]) -> RestorerHeader:
        """The header of a file, or the defaults where it has none; ignores what a later version added."""
        text = metadata.get("restorer")
        if text is None and HEADER_TENSOR in tensors:
            text = bytes(tensors[HEADER_TENSOR].tolist()).decode()
        fields = json.loads(text or "{}")
        return cls(**{key: value for key, value in fields.items() if key in cls.__dataclass_fields__})


@dataclass(frozen=True)
class RestorerFile:
    """An opened restorer: tensors by network, the sizes that they tell, and the header."""

    unet: dict[str, Tensor]
    autoencoder: dict[str, Tensor]
    text: dict[str, Tensor]
    null_context: Tensor | None
    unet_config: UNetConfig
    autoencoder_config: AutoencoderConfig
    header: RestorerHeader


def open_restorer(path: Path | str, prediction_type: PredictionType | None = None) -> RestorerFile:
    """Read a restorer and tell its sizes, without building the networks.

    Args:
        path: a file with the keys of StableSR's full checkpoint, ours or the published.
        prediction_type: overrides the header's.
    Raises:
        FileNotFoundError, CheckpointError: no such file; not a restorer.
    """
    tensors, metadata = read_checkpoint(path)
    header = RestorerHeader.from_file(metadata, tensors)
    if prediction_type is not None:
        header = replace(header, prediction_type=prediction_type)
    unet, lq_encoder, autoencoder = (part(tensors, name) for name in ("unet", "lq_encoder", "autoencoder"))
    config = unet_config(unet, header.num_head_channels)
    if not lq_encoder or not config.sft_channels:
        raise CheckpointError(
            f"{Path(path).name} is a diffusion model without StableSR's own weights "
            f"({PREFIXES['lq_encoder']}* and *.spade.*): it can draw pictures, but not restore them."
        )
    config = replace(config, lq_encoder=lq_encoder_config(lq_encoder, header.lq_num_heads))
    unet.update({f"lq_encoder.{key}": value for key, value in lq_encoder.items()})
    return RestorerFile(
        unet,
        autoencoder,
        part(tensors, "text"),
        tensors.get(NULL_CONTEXT),
        config,
        autoencoder_config(autoencoder),
        header,
    )


@dataclass(frozen=True)
class Restorer:
    """The networks of a base restorer.

    Attributes:
        null_context: text context of the empty prompt [1, M, context_dim].
    """

    unet: UNet
    autoencoder: Autoencoder
    null_context: Tensor
    header: RestorerHeader


def load_restorer(
    path: Path | str,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    prediction_type: PredictionType | None = None,
) -> Restorer:
    """Load a restorer for use without a host.

    Raises:
        FileNotFoundError, CheckpointError: see `open_restorer`; also where the file has no null
            context, which needs a text tower.
    """
    file = open_restorer(path, prediction_type)
    if file.null_context is None:
        raise CheckpointError(
            f"{Path(path).name} carries no {NULL_CONTEXT}: the context of the empty prompt is missing."
        )
    backend = Backend(dtype=dtype, device=device)
    unet, autoencoder = (
        UNet(file.unet_config, backend),
        Autoencoder(file.autoencoder_config, backend),
    )
    load_exactly(unet, file.unet, "U-Net")
    load_exactly(autoencoder, file.autoencoder, "autoencoder")
    null_context = file.null_context.to(device, dtype)
    return Restorer(
        unet.eval().requires_grad_(False),
        autoencoder.eval().requires_grad_(False),
        null_context,
        file.header,
    )


def save_restorer(restorer: Restorer, path: Path | str, dtype: torch.dtype = torch.float16) -> None:
    """Write a restorer as one file, under the key names of StableSR's checkpoints."""
    tensors: dict[str, Tensor] = {NULL_CONTEXT: restorer.null_context}
    for key, value in restorer.unet.state_dict().items():
        own = "lq_encoder."
        name = PREFIXES["lq_encoder"] + key[len(own) :] if key.startswith(own) else PREFIXES["unet"] + key
        tensors[name] = value
    for key, value in restorer.autoencoder.state_dict().items():
        tensors[PREFIXES["autoencoder"] + key] = value
    stored = {key: value.detach().to("cpu", dtype).contiguous() for key, value in tensors.items()}
    with written(path) as temporary:
        save_file(stored, temporary, restorer.header.to_metadata())
