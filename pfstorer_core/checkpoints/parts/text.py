"""OpenCLIP's text tower in a checkpoint."""

from __future__ import annotations

from ...models import TextTower, TextTowerConfig
from ..header import RestorerHeader
from .base import Part, Tensors

SHORTEST_TEXT, LONGEST_TEXT = 3, 512
"""Tokens: the memory of attention grows with their square."""

HEAD_CHANNELS = 64
"""Width of all CLIP's heads, which neither tensors nor headers tell."""


def sizes(tensors: Tensors, _: RestorerHeader, head_channels: int = HEAD_CHANNELS) -> TextTowerConfig:
    vocab, width = tensors.size("model.token_embedding.weight", 2)
    if width % head_channels:
        raise tensors.strange(f"it is {width} wide, expected a multiple of its heads' {head_channels}")
    tensors.size("model.transformer.resblocks.0.attn.in_proj_weight", 2)
    length = tensors.size("model.positional_embedding", 2)[0]
    if not SHORTEST_TEXT <= length <= LONGEST_TEXT:
        raise tensors.strange(f"it reads {length:,} tokens, expected {SHORTEST_TEXT} to {LONGEST_TEXT}")
    layers = tensors.count("model.transformer.resblocks.")
    tensors.check_affordable(layers)
    return TextTowerConfig(
        width=width,
        heads=width // head_channels,
        layers=layers,
        vocab=vocab,
        context_length=length,
    )


TEXT = Part(
    "text tower",
    "cond_stage_model.",
    "model.token_embedding.weight",
    sizes,
    TextTower,
    full_title="OpenCLIP text tower",
    # CLIP's way to pictures, and buffers of other versions.
    unused=("text_projection", "logit_scale", "attn_mask", "position_ids"),
)
