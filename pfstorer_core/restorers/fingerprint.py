"""What tells restorers apart, whatever number format they are stored in."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

BEGINNING = 2**16
"""Values of a weight that a fingerprint looks at."""
DIFFERING_BITS = 1
"""Bits of a fingerprint that rounding to another number format may change; training on changes more."""


def fingerprint(unet: Mapping[str, Tensor]) -> str:
    """64 bits that tell restorers apart, whatever number format they are stored in.

    Bit k says which half of the beginning of one of the U-Net's weights (the LQ encoder's and SFT's among
    them) has the larger sum.
    """
    keys = sorted(key for key, value in unet.items() if value.ndim > 1)
    chosen = [keys[k * len(keys) // 64] for k in range(64)]
    bits = [
        torch.stack([half.double().sum() for half in unet[key].flatten()[:BEGINNING].cpu().tensor_split(2)])
        for key in chosen
    ]
    return f"{sum(int(a > b) << k for k, (a, b) in enumerate(bits)):016x}"


def same_base(one: str, other: str) -> bool:
    return (int(one, 16) ^ int(other, 16)).bit_count() <= DIFFERING_BITS
