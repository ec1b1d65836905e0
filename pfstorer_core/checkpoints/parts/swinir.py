"""DiffBIR's cleaner in a checkpoint, a SwinIR."""

from __future__ import annotations

import re
from math import isqrt

from ...models import SwinIR, SwinIRConfig
from ..errors import CheckpointError
from ..header import RestorerHeader
from .base import Part, Tensors

FIRST = "conv_first.1.weight"
"""Of those alone that start with a PixelUnshuffle."""
BLOCKS = "layers.{}.residual_group.blocks."


def sizes(tensors: Tensors, _: RestorerHeader) -> SwinIRConfig:
    width, channels, *_sides = tensors.size(FIRST, 4)
    groups = [BLOCKS.format(group) for group in range(tensors.count("layers."))]
    depths = tuple(tensors.count(blocks) for blocks in groups)
    tensors.check_affordable(sum(depths))
    tables = [tensors.size(f"{blocks}0.attn.relative_position_bias_table", 2) for blocks in groups]
    window = (isqrt(tables[0][0]) + 1) // 2
    inner = tensors.size(f"{groups[0]}0.mlp.fc1.weight", 2)[0]
    try:
        return SwinIRConfig(
            embed_dim=width,
            depths=depths,
            num_heads=tuple(heads for _, heads in tables),
            window_size=window,
            mlp_ratio=inner / width,
            img_size=window * _windows(tensors),
            unshuffle_scale=isqrt(channels // 3),
        )
    except CheckpointError:
        raise
    except ValueError as error:  # of the configuration: sizes that do not go together
        raise tensors.strange(str(error).rstrip(".")) from error


def _windows(tensors: Tensors) -> int:
    """Along the side of the pictures that it was made for: of a mask that is stored for shifted windows. All
    blocks of one without masks have the same windows."""
    masks = [key for key in tensors.tensors if re.fullmatch(r"layers\.\d+\..*\.attn_mask", key)]
    return isqrt(tensors.size(masks[0], 3)[0]) if masks else 1


SWINIR = Part("SwinIR cleaner", "preprocess_model.", FIRST, sizes, SwinIR)
