"""Tiles as geometry: where they lie on a canvas, how to cut them out and how to blend them back.

Overlapping tiles are averaged with Gaussian weights (Mixture of Diffusers, Jimenez 2023; StableSR,
Wang et al. 2024, section 3.3), so that no seam is left where they meet; what a network made of them with
two weights, see `BLENDING`. Nothing here knows what happens to a tile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice, product
from math import sqrt

import torch
import torch.nn.functional as F
from kornia.filters import get_gaussian_kernel2d
from torch import Tensor

SMALLEST_TILE = 64
"""Pixels of the result along a tile: in less no face can be recognised."""

BLENDING = (0.02, 0.003)
"""Variances of the blending windows, in squared tiles, for shades and for what is finer than three cells;
StableSR has 0.01 for both. Shades that differ want a broad zone. Texture that each tile invents averages out
where two count alike, which shows unless that zone is narrow (Burt and Adelson 1983)."""


@dataclass(frozen=True)
class TileGrid:
    """Equal tiles that cover a canvas.

    Along each axis, tiles start at multiples of `tile - overlap`; the last one is moved back to end
    with the canvas. A canvas shorter than a tile gets one tile of its own length, so all tiles of a
    grid have one shape.

    Units are the caller's: latent cells, or pixels after `scaled(8)`.

    Args:
        height, width: of the canvas.
        tile: side of a tile.
        overlap: what neighbours share, at the least; 0 <= overlap < tile.
        chosen: numbers of the tiles that there are, of those that would cover the canvas; None for all.

    Raises:
        ValueError: if a size is not positive or the overlap out of range.
    """

    height: int
    width: int
    tile: int
    overlap: int = 0
    chosen: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if min(self.height, self.width, self.tile) < 1:
            raise ValueError(f"canvas and tile sizes must be 1 or more, got {self}")
        if not 0 <= self.overlap < self.tile:
            raise ValueError(
                f"the overlap must be at least 0 and less than the tile ({self.tile}), got {self.overlap}"
            )

    @classmethod
    def of(cls, canvas: Tensor, tile: int, overlap: int = 0) -> TileGrid:
        """The grid of a canvas [..., height, width]."""
        return cls(canvas.shape[-2], canvas.shape[-1], tile, overlap)

    @property
    def tile_shape(self) -> tuple[int, int]:
        """Height and width of every tile."""
        return min(self.tile, self.height), min(self.tile, self.width)

    @cached_property
    def positions(self) -> tuple[tuple[int, int], ...]:
        """(y, x) of every tile's upper left corner, column after column."""
        stride = self.tile - self.overlap
        ys, xs = (_starts(length, self.tile, stride) for length in (self.height, self.width))
        every = tuple((y, x) for x, y in product(xs, ys))
        return every if self.chosen is None else tuple(every[number] for number in self.chosen)

    def __len__(self) -> int:
        return len(self.positions)

    def scaled(self, factor: int) -> TileGrid:
        """The same grid in units `factor` times finer: latent cells to pixels."""
        return replace(
            self,
            height=self.height * factor,
            width=self.width * factor,
            tile=self.tile * factor,
            overlap=self.overlap * factor,
        )

    def touching(self, wanted: Tensor) -> TileGrid:
        """The grid without the tiles in which nothing is wanted, bool [height, width]; all, if nothing is."""
        every = replace(self, chosen=None)
        kept = [number for number, tile in enumerate(every.crop(wanted)) if tile.any()]
        return replace(self, chosen=tuple(kept) if 0 < len(kept) < len(every) else None)

    def covered(self) -> Tensor:
        """Where the tiles are, bool [height, width]."""
        found = torch.zeros(self.height, self.width, dtype=torch.bool)
        for tile in self.crop(found):
            tile.fill_(True)
        return found

    def crop(self, canvas: Tensor) -> Iterator[Tensor]:
        """The tiles [..., h, w] of a canvas [..., height, width]: views, ordered as `positions`.

        Raises:
            ValueError: if the canvas hasn't the grid's size.
        """
        if tuple(canvas.shape[-2:]) != (self.height, self.width):
            raise ValueError(
                f"this grid is for a canvas of {self.height}x{self.width}, got one of "
                f"{canvas.shape[-2]}x{canvas.shape[-1]}; use `scaled` for a canvas in finer units"
            )
        height, width = self.tile_shape
        return (canvas[..., y : y + height, x : x + width] for y, x in self.positions)

    def merge(self, tiles: Iterable[Tensor], window: Tensor | None = None) -> Tensor:
        """Blend tiles to a canvas: at each point, their average weighted by the window.

        Tiles are taken one at a time and let go, so that those of a generator are never all in memory.

        Args:
            tiles: [..., h, w] each, in the order of `positions`.
            window: positive weights [h, w], or [..., h, w] for the tiles' last dimensions; None for
                `gaussian_window`.

        Returns:
            [..., height, width] in the tiles' dtype (summed in float32 at least); 0 where no tile is.

        Raises:
            ValueError: if a tile or the window hasn't the expected shape, or there are too few or
                too many tiles.
        """
        height, width = self.tile_shape
        window = gaussian_window(height, width) if window is None else window
        if tuple(window.shape[-2:]) != (height, width):
            raise ValueError(f"expected a window of {height}x{width}, got {list(window.shape)}")

        total: Tensor | None = None
        expected = [height, width]
        dtype, count = torch.float32, 0
        for count, tile in enumerate(tiles, start=1):
            if total is None:
                expected, dtype = [*tile.shape[:-2], height, width], tile.dtype
                total = tile.new_zeros(
                    *tile.shape[:-2],
                    self.height,
                    self.width,
                    dtype=torch.promote_types(dtype, torch.float32),
                )
                window = window.to(total)
            if count > len(self) or list(tile.shape) != expected:
                raise ValueError(
                    f"expected {len(self)} tiles of shape {expected}; number {count} has {list(tile.shape)}"
                )
            y, x = self.positions[count - 1]
            total[..., y : y + height, x : x + width] += tile * window
        if total is None or count < len(self):
            raise ValueError(f"expected {len(self)} tiles, got {count}")

        weights = total.new_zeros(*window.shape[:-2], self.height, self.width)
        for y, x in self.positions:
            weights[..., y : y + height, x : x + width] += window
        if self.chosen is not None:
            weights = weights.masked_fill(weights == 0, 1)
        return total.div_(weights).to(dtype)

    def batches(
        self, *canvases: Tensor, tile_batch: int = 1
    ) -> Iterator[tuple[Sequence[tuple[int, int]], list[Tensor]]]:
        """The tiles of every canvas [B, C, height, width], `tile_batch` at a time: their `positions`, and for
        each canvas [n B, C, h, w], stacked tile by tile along the batch."""
        if tile_batch < 1:
            raise ValueError(f"tile_batch must be 1 or more, got {tile_batch}")
        streams = [self.crop(canvas) for canvas in canvases]
        for start in range(0, len(self), tile_batch):
            places = self.positions[start : start + tile_batch]
            yield places, [torch.cat(list(islice(stream, len(places)))) for stream in streams]

    def blend(self, tiles: Iterable[Tensor]) -> Tensor:
        """`merge` of tiles [B, C, h, w], shades and texture each with its own window, see `BLENDING`."""
        return self.merge(tiles) if len(self) == 1 else self._in_two_bands(tiles)

    def map(
        self,
        function: Callable[..., Tensor],
        *canvases: Tensor,
        tile_batch: int = 1,
        window: Tensor | None = None,
    ) -> Tensor:
        """`blend` of what a function makes of the tiles of every canvas.

        Args:
            function: gets one [n B, C, h, w] for every canvas, see `batches`, and returns one
                [n B, C', h, w]. What is given per image has to be repeated, `t.repeat(n)`.
            window: for `merge` instead.
        """
        results = (
            tile
            for places, tiles in self.batches(*canvases, tile_batch=tile_batch)
            for tile in function(*tiles).chunk(len(places))
        )
        return self.blend(results) if window is None else self.merge(results, window)

    def _in_two_bands(self, tiles: Iterable[Tensor]) -> Tensor:
        """The broad window's average, in which texture is exchanged for the narrow one's.

        Along the edges of tiles, where neighbours are missing, other things count as texture. This is
        corrected for, so that tiles that agree give what they agree on.
        """
        shades, texture = (gaussian_window(*self.tile_shape, variance=v) for v in BLENDING)
        windows = torch.stack([shades, shades, texture])

        def merged(tiles: Iterable[Tensor]) -> tuple[Tensor, ...]:
            return self.merge(map(_with_texture, tiles), windows).unbind(-3)

        blend, broad, narrow = merged(tiles)
        _, broad_of_blend, narrow_of_blend = merged(self.crop(blend))
        return blend + (narrow - broad) - (narrow_of_blend - broad_of_blend)


def tile_cells(tile: int, overlap: int, image_size: int, factor: int) -> tuple[int, int]:
    """Tile and overlap in latent cells, from a user's settings in pixels of the result.

    Args:
        tile: 0 for `image_size`, the size that the restorer was trained on.
        overlap: -1 for half a tile, as StableSR has it.
        factor: pixels along a latent cell.

    Raises:
        ValueError: if the tile is smaller than `SMALLEST_TILE`, or the overlap not smaller than the tile.
    """
    if 0 < tile < SMALLEST_TILE:
        raise ValueError(
            f"The tile ({tile}) must be {SMALLEST_TILE} pixels or more, or 0 for the restorer's own."
        )
    tile = tile or image_size
    overlap = tile // 2 if overlap < 0 else overlap
    cells, shared = max(1, tile // factor), overlap // factor
    if shared >= cells:
        raise ValueError(f"The overlap ({overlap}) must be smaller than the tile ({tile} pixels).")
    return cells, shared


def gaussian_window(height: int, width: int, *, variance: float = 0.01) -> Tensor:
    """Blending weights: a normal density over the tile, taken as one unit wide and high.

    StableSR's map is centred half a cell lower, by a slip, which weights the two sides of a seam unequally.

    Args:
        variance: in squared tiles; StableSR's by default.
    Returns:
        [height, width] float64, positive, symmetric in x and in y.
    """
    sigma = (height * sqrt(variance), width * sqrt(variance))
    kernel = get_gaussian_kernel2d((height, width), sigma, force_even=True, dtype=torch.float64)[0]
    # As a density: the corners of a kernel whose sum is 1 would be too small for float32.
    return kernel * (height * width)


def _with_texture(tile: Tensor) -> Tensor:
    """A tile [B, C, h, w], and twice what of it is finer than three cells: [B, C, 3, h, w]."""
    texture = tile - F.avg_pool2d(tile, 3, 1, 1, count_include_pad=False)
    return torch.stack([tile, texture, texture], -3)


def _starts(length: int, tile: int, stride: int) -> list[int]:
    return [*range(0, length - tile, stride), max(length - tile, 0)]
