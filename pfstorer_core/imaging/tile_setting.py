"""One setting of tiles for all that works in tiles: the cleaner, diffusion and the autoencoder."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

from torch import Tensor

from .tiled_autoencoder import TILE
from .tiling import tile_cells

LARGEST = 2 * TILE
"""Side in latent cells of the autoencoder's largest tile, whose attention has to be bounded, see `TILE`."""
CLEANED = 512
"""Side in pixels of the cleaner's tiles where nobody chooses: what cleaners were trained on."""


class TileSize(NamedTuple):
    """Side of each, and what neighbours share."""

    tile: int
    overlap: int


@dataclass(frozen=True)
class TileSetting:
    """What a user sets.

    Attributes:
        tile: side in pixels of the result; 0 leaves each its own: diffusion `image_size`, autoencoder and
            cleaner 512 pixels.
        overlap: pixels that neighbours share; -1 leaves each its own: half a tile, a quarter of the
            autoencoder's. Where a stage has another tile than this one, it has the same share of it.
        image_size: side in pixels that the restorer was trained on.
        factor: pixels along a latent cell.

    Raises:
        ValueError: see `tile_cells`.
    """

    tile: int
    overlap: int
    image_size: int
    factor: int

    def __post_init__(self) -> None:
        _ = self.diffusion

    def on(self, picture: Tensor, size_rule: str) -> TileSetting:
        """For a picture [..., H, W] of a restorer with this `RestorerHeader.size_rule`: one of a fixed size
        takes it whole."""
        return replace(self, image_size=max(picture.shape[-2:])) if size_rule == "fixed" else self

    @property
    def diffusion(self) -> TileSize:
        """In latent cells."""
        return TileSize(*tile_cells(self.tile, self.overlap, self.image_size, self.factor))

    @property
    def autoencoder(self) -> TileSize:
        """In latent cells; no larger than `LARGEST`."""
        return self._shared(min(self.diffusion.tile, LARGEST) if self.tile else TILE, 4)

    @property
    def cleaner(self) -> TileSize:
        """In pixels."""
        return self._shared(self.tile or CLEANED, 2)

    def _shared(self, side: int, parts: int) -> TileSize:
        """Tiles of this side and their share of the overlap; a part of it where none is set."""
        of = self.tile or self.image_size
        return TileSize(side, side // parts if self.overlap < 0 else side * self.overlap // of)
