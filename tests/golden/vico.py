"""ViCo's golden weights, under our names."""

import torch
from torch import Tensor

from pfstorer_core.personalization.pfstorer.block import PersonalizationBlock

from . import golden

IMAGE = "image_cross_attention."


def weights(name: str) -> dict[str, Tensor]:
    found = {key: value.float() for key, value in golden.group(name, "weights").items()}
    # ViCo projects by 1x1 convolutions (SD 1.x), which linear layers are.
    flat = ("proj_in.weight", "proj_out.weight")
    return {key: value.flatten(1) if key.endswith(flat) else value for key, value in found.items()}


def block_of(tensors: dict[str, Tensor], heads: int) -> PersonalizationBlock:
    block = PersonalizationBlock(len(tensors["norm1.weight"]), heads)
    block.load_state_dict({"gamma": torch.ones_like(block.gamma), **tensors})
    return block.requires_grad_(False)


def split(tensors: dict[str, Tensor], prefix: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(those under `prefix`, without it; the others)"""
    inside = {key[len(prefix) :]: value for key, value in tensors.items() if key.startswith(prefix)}
    return inside, {key: value for key, value in tensors.items() if not key.startswith(prefix)}
