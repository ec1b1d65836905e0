"""No seams: what tiles leave at their borders, by the embedded restorer on pictures that show it."""

from collections.abc import Callable, Iterable
from itertools import pairwise

import numpy as np
import pytest
import torch
from skimage.data import astronaut
from skimage.transform import resize
from torch import Tensor

from harness import ROOT
from pfstorer_core import load_restorer, restore
from pfstorer_core.imaging.tiled_autoencoder import decode_tiled, encode_tiled
from pfstorer_core.imaging.tiling import TileGrid
from pfstorer_core.restorers.base import Restorer

UPSCALE, TILES = 4, 2
"""Of the picture along a side, without overlap."""
Grid = tuple[int, int]
"""Tile and overlap, in sixteenths of what the restorer sees at once."""
GRIDS: tuple[Grid, Grid] = (16, 8), (16, 6)
"""Two grids, whose borders lie in different places."""
NO_OVERLAP: tuple[Grid, Grid] = (16, 0), (12, 6)
SEAM = 0.02
"""Share by which the energy of the gradient may differ at borders."""
EVEN = 1.5
"""Times that steps from pixel to pixel may be farther from what is shown at borders than elsewhere; without
overlap it is 5 times and more."""
VISIBLE = 2 / 255
"""A step along a whole border that an eye may find; without overlap it is 3 levels and more. Also the mean
difference that another grid of the autoencoder's may make: of a smooth gradient, 1.7 levels."""
SAMPLES = 4
"""Times that a picture is restored, each with noise of its own: where it shows nothing, the texture that the
restorer draws differs by more than a seam would."""
SHIFT = 0.005
"""Mean difference that another grid may make, of 1."""


def flat(side: int) -> np.ndarray:
    return np.full((side, side, 3), (0.6, 0.45, 0.4))


def gradient(side: int) -> np.ndarray:
    y, x = np.mgrid[:side, :side] / side
    return np.stack([x, y, (x + y) / 2], -1)


def noise(side: int) -> np.ndarray:
    return np.random.default_rng(0).random((side, side, 3))


def photograph(side: int) -> np.ndarray:
    return np.asarray(resize(astronaut()[:256, 96:352] / 255, (side, side, 3)))


Canvas = Callable[[int], np.ndarray]
CANVASES = [flat, gradient, noise, photograph]


@pytest.fixture(scope="module")
def restorer() -> Restorer:
    return load_restorer(ROOT / "assets" / "pfstorer_tiny.safetensors")


def shown(restorer: Restorer, canvas: Canvas) -> Tensor:
    picture = canvas(TILES * restorer.header.image_size)
    return torch.from_numpy(picture).float().permute(2, 0, 1)[None]


def pixels(restorer: Restorer, grid: Grid) -> Grid:
    tile, overlap = (part * restorer.header.image_size // 16 for part in grid)
    return tile, overlap


def tiled(restorer: Restorer, canvas: Canvas, grid: Grid) -> Tensor:
    lq = torch.nn.functional.avg_pool2d(shown(restorer, canvas), UPSCALE).expand(SAMPLES, -1, -1, -1)
    tile, overlap = pixels(restorer, grid)
    return restore(restorer, lq, upscale=UPSCALE, steps=4, tile=tile, overlap=overlap)


def borders(side: int, grid: Grid) -> set[int]:
    """The columns at which a tile begins, ends, or gives way to the next, two pixels to either side."""
    tile, overlap = grid
    starts = sorted({x for _, x in TileGrid(side, side, tile, overlap).positions})
    middles = [(right + left + tile) // 2 for left, right in pairwise(starts)]
    lines = {*starts[1:], *(x + tile for x in starts[:-1]), *middles}
    return {line + offset for line in lines for offset in (-2, -1, 0, 1)}


def seam(first: Tensor, second: Tensor, grids: Iterable[Grid]) -> float:
    """Energy of the gradient at a grid's borders, against the same places without a border there, and
    against the other places of the same picture: a double ratio, in which what is shown cancels out."""
    ours, theirs = (borders(first.shape[-1], grid) for grid in grids)
    only = sorted(ours - theirs), sorted(theirs - ours)

    def energy(picture: Tensor, lines: list[int]) -> float:
        both_ways = (picture, picture.mT)
        return sum(float(p.diff(dim=-1)[..., lines].square().mean()) for p in both_ways)

    ratio = energy(first, only[0]) * energy(second, only[1])
    return (ratio / (energy(first, only[1]) * energy(second, only[0]))) ** 0.5


@pytest.mark.parametrize("canvas", CANVASES)
def test_borders_of_tiles_are_like_everything_else(restorer: Restorer, canvas: Canvas) -> None:
    first, second = (tiled(restorer, canvas, grid) for grid in GRIDS)
    grids = [pixels(restorer, grid) for grid in GRIDS]
    assert seam(first, second, grids) == pytest.approx(1, abs=SEAM)
    assert float((first - second).abs().mean()) < SHIFT


@pytest.mark.parametrize("canvas", [flat, noise])
def test_tiles_without_overlap_would_be_seen(restorer: Restorer, canvas: Canvas) -> None:
    first, second = (tiled(restorer, canvas, grid) for grid in NO_OVERLAP)
    assert seam(first, second, [pixels(restorer, grid) for grid in NO_OVERLAP]) > 1 + SEAM


@pytest.mark.parametrize("canvas", CANVASES)
def test_the_autoencoder_s_tiles_leave_no_seams(restorer: Restorer, canvas: Canvas) -> None:
    picture, factor = shown(restorer, canvas), restorer.downscale
    grids = [pixels(restorer, grid) for grid in ((16, 4), (12, 3))]

    @torch.no_grad()
    def round_trip(tile: int) -> Tensor:
        autoencoder = restorer.autoencoder
        latent = encode_tiled(lambda p: autoencoder.encode(2 * p - 1), picture, factor, tile=tile // factor)
        return decode_tiled(
            lambda z, _: autoencoder.decode(z) / 2, latent, picture, factor, tile=tile // factor
        )

    first, second = (round_trip(tile) for tile, _ in grids)
    if canvas in (flat, gradient):  # so even that energy is that of a few pixels at the picture's own edge
        lines = sorted(borders(first.shape[-1], grids[0]))
        off = (first - picture).diff(dim=-1).abs()
        assert off[..., lines].mean() < EVEN * off.mean()
        assert off[..., lines].median(dim=-2).values.max() < VISIBLE
    else:
        assert seam(first, second, grids) == pytest.approx(1, abs=SEAM)
    assert float((first - second).abs().mean()) < VISIBLE
