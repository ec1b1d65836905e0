"""A learned mask of identity guidance in a file."""

from __future__ import annotations

from ...models.identity_mask import IdentityMask, IdentityMaskConfig, build_mask
from ..header import RestorerHeader
from .base import Part, Tensors

LOGITS, FIRST, LAST = "logits", "layers.0.weight", "layers.4.weight"
LARGEST = 4096
"""Latent cells along a side of a mask, at most."""


def sizes(tensors: Tensors, _: RestorerHeader) -> IdentityMaskConfig:
    if LOGITS in tensors:
        channels, height, width = tensors.size(LOGITS, 3)
        if max(height, width) > LARGEST:
            raise tensors.strange(f"it covers {width:,} x {height:,} cells, expected {LARGEST:,} at most")
        return IdentityMaskConfig(channels, (height, width))
    hidden, _inputs, *_sides = tensors.size(FIRST, 4)
    return IdentityMaskConfig(tensors.size(LAST, 4)[0], None, hidden)


IDENTITY_MASK: Part[IdentityMaskConfig, IdentityMask] = Part(
    "mask of identity guidance", "", FIRST, sizes, build_mask
)
