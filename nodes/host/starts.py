"""What a restorer goes by and what sampling starts from, of bad pictures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...pfstorer_core.checkpoints.header import RestorerHeader
from ...pfstorer_core.imaging.tile_setting import TileSetting
from ...pfstorer_core.restorers.condition import pixel_hint
from .cleaning import OWN as CLEANED
from .cleaning import clean
from .pixels import OWN, encode


class Start(NamedTuple):
    """Latents are unscaled, [B, C, h, w].

    Attributes:
        picture: as the restorer sees it, [B, 3, H, W] in [0, 1].
        lq: what stands for it in a conditioning: its latent, or its pixels at that size.
        latent: what a sampler starts from beside its noise.
        cleaned: of the cleaned picture, where that is not the one which the restorer sees.
    """

    picture: Tensor
    lq: Tensor
    latent: Tensor
    cleaned: Tensor | None = None

    def rows(self, first: int, count: int) -> tuple[Tensor, Tensor, Tensor | None]:
        """`lq`, `latent` and `cleaned` of some of the pictures."""
        part = slice(first, first + count)
        return self.lq[part], self.latent[part], None if self.cleaned is None else self.cleaned[part]


def started(header: RestorerHeader, denoise: float) -> RestorerHeader:
    """The header with another share of the schedule to start at; 0 leaves its own. What starts from pure
    noise starts from the picture then."""
    start = "cleaned" if 0 < denoise < 1 and header.start == "noise" else header.start
    return replace(header, start=start, start_at=denoise or header.start_at)


def start_of(
    header: RestorerHeader,
    vae: Any,
    cleaner: Any | None,
    pictures: Tensor,
    setting: TileSetting | None = None,
    on_tile: Callable[[], object] = lambda: None,
) -> Start:
    """Of pictures [B, 3, H, W] in [0, 1] at the size of the result, see `RestorerHeader.sees_cleaned`."""
    tiles = OWN if setting is None else setting.autoencoder
    cleaned = clean(cleaner, pictures, CLEANED if setting is None else setting.cleaner, on_tile)
    apart = cleaner is not None and not header.sees_cleaned
    seen = pictures if apart else cleaned
    latent = encode(vae, seen, tiles, on_tile)
    hint = pixel_hint(seen, latent) if header.condition == "pixels" else latent
    if apart:
        begin = encode(vae, cleaned, tiles, on_tile)
        return Start(seen, hint, begin, begin)
    return Start(seen, hint, torch.zeros_like(latent) if header.start == "noise" else latent)
