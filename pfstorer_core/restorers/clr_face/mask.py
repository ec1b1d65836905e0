"""Files of learned masks, and a mask as a picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...checkpoints.errors import CheckpointError
from ...checkpoints.fields import check_version
from ...checkpoints.parts.identity_mask import IDENTITY_MASK
from ...checkpoints.reading import read_checkpoint
from ...checkpoints.tensors import load_exactly, write_safetensors
from ...imaging.resizing import resize
from ...models.identity_mask import IdentityMask

MASKS = ("none", "landmarks")
"""What can be chosen in place of a learned one: all of the latent, or eyes, nose and mouth."""
FORMAT, VERSION = "pfstorer.identity_mask", "1"


def save_mask(mask: IdentityMask, path: Path | str, record: dict[str, Any]) -> None:
    """Write a file that `load_mask` loads, with the record of how it was made. See `write_safetensors` for
    the errors."""
    metadata = {"format": FORMAT, "format_version": VERSION, "training": json.dumps(record)}
    write_safetensors(path, mask.state_dict(), metadata, torch.float16)


def load_mask(path: Path | str) -> IdentityMask:
    """The mask in a file, in fp32.

    Raises:
        FileNotFoundError, PermissionError, CheckpointError: not readable, damaged or of another kind.
    """
    path = Path(path)
    tensors, metadata = read_checkpoint(path)
    if metadata.get("format") != FORMAT:
        raise CheckpointError(
            f"{path.name} holds no mask of identity guidance: choose a file that train-mask wrote."
        )
    check_version(metadata.get("format_version"), VERSION, path.name, "mask")
    config = IDENTITY_MASK.config_from(tensors)
    IDENTITY_MASK.check_fit(tensors, config)  # before there is memory for what it claims
    mask = IDENTITY_MASK.build(config, None)  # type: ignore[arg-type]
    load_exactly(mask, tensors, IDENTITY_MASK.title)
    return mask.float().eval().requires_grad_(False)


def check_mask(mask: IdentityMask, channels: int) -> None:
    """Raise ValueError where a mask is of latents of another number of channels."""
    if mask.config.channels != channels:
        raise ValueError(
            f"This mask is of latents of {mask.config.channels} channels, this restorer's have {channels}: "
            "take one that was trained on it (train-mask)."
        )


def as_picture(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """A mask [B, C, h, w] as grey pictures [B, 3, H, W] in [0, 1]: the mean of its channels, white where all
    of a step is taken."""
    return resize(mask.mean(1, keepdim=True), size).clamp(0, 1).expand(-1, 3, -1, -1)
