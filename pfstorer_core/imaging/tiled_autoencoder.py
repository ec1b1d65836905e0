"""The autoencoder on pictures of any size: in tiles, so that what it needs does not grow with the picture."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from .tiling import TileGrid

TILE = 64
"""Side of the tiles in latent cells, 512 pixels in Stable Diffusion; smaller pictures are one tile. The
attention in the autoencoder's middle, whose cost grows with the fourth power of this, has to be bounded: over
256 x 256 cells it takes minutes and more than 20 GB."""


def pixel_grid(picture: Tensor, factor: int, tile: int = TILE, overlap: int = -1) -> TileGrid:
    """The tiles of a picture [..., H, W], in pixels.

    Args:
        factor: pixels along a latent cell.
        tile: side in latent cells.
        overlap: that neighbours share, in latent cells; -1 for a quarter.
    """
    side = tile * factor
    return TileGrid.of(picture, side, side // 4 if overlap < 0 else overlap * factor)


def encode_tiled(
    encode: Callable[[Tensor], Tensor],
    pictures: Tensor,
    factor: int,
    *,
    tile: int = TILE,
    overlap: int = -1,
    on_tile: Callable[[], object] = lambda: None,
) -> Tensor:
    """Latents of pictures [B, 3, H, W], whose sides are multiples of `factor`, one tile at a time."""
    grid = pixel_grid(pictures, factor, tile, overlap)
    if len(grid) == 1:
        latents = encode(pictures)
        on_tile()
        return latents
    cells = TileGrid(grid.height // factor, grid.width // factor, grid.tile // factor, grid.overlap // factor)
    return cells.merge(_announced((encode(piece) for piece in grid.crop(pictures)), on_tile))


def decode_tiled(
    decode: Callable[[Tensor, Tensor], Tensor],
    latents: Tensor,
    pictures: Tensor,
    factor: int,
    *,
    tile: int = TILE,
    overlap: int = -1,
    on_tile: Callable[[], object] = lambda: None,
) -> Tensor:
    """Pictures [B, 3, H, W] of latents, one picture and one tile at a time.

    Args:
        decode: gets a tile of the latents and the same tile of `pictures`.
        pictures: bad ones, of the size of the result, for CFW.
    """
    pixels = pixel_grid(pictures, factor, tile, overlap)
    cells = TileGrid.of(latents, pixels.tile // factor, pixels.overlap // factor)

    def one(latent: Tensor, picture: Tensor) -> Tensor:
        if len(pixels) == 1:
            decoded = decode(latent, picture)
            on_tile()
            return decoded
        crops = zip(cells.crop(latent), pixels.crop(picture), strict=True)
        return pixels.merge(_announced((decode(*crop) for crop in crops), on_tile))

    decoded = [one(*row) for row in zip(latents.split(1), pictures.split(1), strict=True)]
    return decoded[0] if len(decoded) == 1 else torch.cat(decoded)


def _announced(tiles: Iterator[Tensor], on_tile: Callable[[], object]) -> Iterator[Tensor]:
    for tile in tiles:
        yield tile
        on_tile()
