"""What a restorer goes by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Condition:
    """What a restorer has to go by.

    Attributes:
        spatial: what the U-Net's conditioner reads, on the latent grid [b, C, h, w]: tiles crop it. None:
            nothing, the U-Net draws what it likes.
        rows: how many of the first rows see that, the others nothing; 0: all.
        start: scaled latent [B, C, h, w] that sampling starts from, noised; None for pure noise.
    """

    spatial: Tensor | None = None
    start: Tensor | None = None
    rows: int = 0

    def to(self, dtype: torch.dtype) -> Condition:
        """In another number format."""
        spatial, start = (each if each is None else each.to(dtype) for each in (self.spatial, self.start))
        return replace(self, spatial=spatial, start=start)


UNCONDITIONAL = Condition()


def one_after_the_other(conditions: Sequence[Condition]) -> Condition:
    """Of as many rows for each of them, to draw from; those that say nothing stand last."""
    saying = [each.spatial for each in conditions if each.spatial is not None]
    if len(conditions) == 1 or not saying:
        return conditions[0]
    spatial = torch.cat(saying)
    return Condition(spatial, rows=0 if len(saying) == len(conditions) else len(spatial))


def pixel_hint(pictures: Tensor, latents: Tensor) -> Tensor:
    """Pictures [B, 3, H, W] in [0, 1] as a U-Net sees them beside latents [B, C, h, w]: [B, 3, h, w] in
    [-1, 1]."""
    return 2 * F.interpolate(pictures.to(latents), size=latents.shape[-2:], mode="area") - 1
