"""Blocks as tensors of a file: an adapter's, or a start's."""

from __future__ import annotations

import torch
from torch import Tensor

from ...checkpoints.errors import StateDict
from ...checkpoints.tensors import load_exactly
from ...models import Backend
from .block import PersonalizationBlock
from .header import prefix_of


def block_tensors(blocks: dict[str, PersonalizationBlock]) -> StateDict:
    """What a file holds of the blocks of these sites."""
    tensors: dict[str, Tensor] = {}
    for site, block in blocks.items():
        tensors |= {prefix_of(site) + key: value for key, value in block.state_dict().items()}
    return tensors


def read_blocks(tensors: StateDict, sites: list[str], heads: list[int]) -> dict[str, PersonalizationBlock]:
    """Of a file, in fp32 on the CPU; raises CheckpointError where they are damaged.

    Args:
        tensors: as `header.check_blocks` wants them.
    """
    blocks = {}
    for site, count in zip(sites, heads, strict=True):
        prefix = prefix_of(site)
        weights = {key[len(prefix) :]: value for key, value in tensors.items() if key.startswith(prefix)}
        blocks[site] = PersonalizationBlock(weights["gamma"].numel(), count, Backend(device="meta"))
        load_exactly(blocks[site], weights, f"block {site}", placement={"dtype": torch.float32})
        blocks[site].eval().requires_grad_(False)
    return blocks
