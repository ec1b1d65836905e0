"""Tiles on canvases of any size."""

import weakref
from collections.abc import Iterator
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pfstorer_core.imaging.tile_setting import LARGEST, TileSetting
from pfstorer_core.imaging.tiled_autoencoder import pixel_grid
from pfstorer_core.imaging.tiling import BLENDING, TileGrid, gaussian_window, tile_cells

sides = st.integers(1, 90)


@st.composite
def grids(draw: st.DrawFn) -> TileGrid:
    tile = draw(st.integers(1, 40))
    # At most 1/8 of a tile between tiles keeps the number of them small.
    overlap = draw(st.integers(0, tile * 7 // 8))
    return TileGrid(draw(sides), draw(sides), tile, min(overlap, tile - 1))


@given(grids())
def test_tiles_cover_the_canvas_and_stay_in_it(grid: TileGrid):
    covered = torch.zeros(grid.height, grid.width)
    height, width = grid.tile_shape
    for y, x in grid.positions:
        assert 0 <= y <= grid.height - height
        assert 0 <= x <= grid.width - width
        covered[y : y + height, x : x + width] += 1
    assert (covered > 0).all()
    assert len(set(grid.positions)) == len(grid)


@given(grids())
def test_neighbours_share_at_least_the_overlap(grid: TileGrid):
    for axis, tile in enumerate(grid.tile_shape):
        starts = sorted({position[axis] for position in grid.positions})
        strides = [after - before for before, after in pairwise(starts)]
        assert all(0 < stride <= tile - grid.overlap for stride in strides)


@given(grids())
def test_merging_the_crops_gives_the_canvas_back(grid: TileGrid):
    canvas = torch.randn(2, 3, grid.height, grid.width, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(grid.merge(grid.crop(canvas)), canvas)


@given(grids(), st.integers(1, 8))
def test_finer_units_tile_at_the_same_places(grid: TileGrid, factor: int):
    finer = grid.scaled(factor)
    assert finer.tile_shape == tuple(factor * side for side in grid.tile_shape)
    assert finer.positions == tuple((factor * y, factor * x) for y, x in grid.positions)


@given(sides, sides)
def test_windows_are_positive_and_symmetric(height: int, width: int):
    window = gaussian_window(height, width)
    assert window.shape == (height, width)
    assert (window.float() > 0).all()
    torch.testing.assert_close(window, window.flip(0, 1))
    assert window.argmax() in (
        (height - 1) // 2 * width + (width - 1) // 2,
        height // 2 * width + width // 2,
        height // 2 * width + (width - 1) // 2,
        (height - 1) // 2 * width + width // 2,
    )


def test_the_corners_of_large_windows_are_whole_numbers_of_float32():
    """Tiny ones lose their digits, and a canvas's corner is its tile's sum over its weight."""
    window = gaussian_window(1280, 1280, variance=min(BLENDING)).float()
    assert window.min() > torch.finfo(torch.float32).tiny


@pytest.mark.parametrize(
    ("height", "width", "positions"),
    [
        (16, 16, [(0, 0)]),
        (10, 16, [(0, 0)]),
        (10, 40, [(0, 0), (0, 8), (0, 16), (0, 24)]),  # below a tile one way, above it the other
        (17, 16, [(0, 0), (1, 0)]),  # one cell more than a tile
        (3, 5, [(0, 0)]),
    ],
)
def test_edge_cases(height: int, width: int, positions: list[tuple[int, int]]):
    assert list(TileGrid(height, width, tile=16, overlap=8).positions) == positions


def test_panorama():
    grid = TileGrid(64, 2048, tile=64, overlap=32)
    assert len(grid) == 63
    assert grid.positions[-1] == (0, 2048 - 64)


def test_no_overlap_and_a_blend_that_is_flat_in_the_middle():
    grid = TileGrid(4, 8, tile=4, overlap=0)
    tiles = [torch.zeros(1, 1, 4, 4), torch.ones(1, 1, 4, 4)]
    merged = grid.merge(tiles)
    assert torch.equal(merged[..., :4], tiles[0])
    assert torch.equal(merged[..., 4:], tiles[1])


def test_seams_are_blended_evenly():
    grid = TileGrid(4, 12, tile=8, overlap=4)
    merged = grid.merge([torch.zeros(1, 1, 4, 8), torch.ones(1, 1, 4, 8)])
    seam = merged[0, 0, 0, 4:8]
    assert (seam.diff() > 0).all()
    torch.testing.assert_close(seam + seam.flip(0), torch.ones(4))


def test_a_window_of_one_s_own():
    grid = TileGrid(1, 3, tile=2, overlap=1)
    merged = grid.merge([torch.zeros(1, 2), torch.ones(1, 2)], torch.tensor([[1.0, 3.0]]))
    torch.testing.assert_close(merged, torch.tensor([[0.0, 0.25, 1.0]]))


def test_half_precision_tiles_are_summed_in_float32():
    grid = TileGrid(40, 24, tile=16, overlap=8)
    canvas = torch.randn(1, 4, 40, 24).half()
    # In float16 the weights at a corner are 0.
    merged = grid.merge(grid.crop(canvas))
    assert merged.dtype == torch.float16
    torch.testing.assert_close(merged, canvas)


def test_tiles_of_a_generator_are_let_go():
    grid = TileGrid(16, 160, tile=16, overlap=8)
    alive = list[weakref.ref[Tensor]]()

    def tiles() -> Iterator[Tensor]:
        for _ in grid.positions:
            assert sum(reference() is not None for reference in alive) <= 1
            tile = torch.ones(1, 16, 16)
            alive.append(weakref.ref(tile))
            yield tile
            del tile

    assert torch.equal(grid.merge(tiles()), torch.ones(1, 16, 160))
    assert len(alive) == len(grid)


def test_a_tile_may_have_other_channels_than_the_canvas():
    grid = TileGrid(20, 28, tile=16, overlap=8)
    canvas = torch.randn(2, 3, 20, 28)
    means = grid.merge(tile.mean(1, keepdim=True) for tile in grid.crop(canvas))
    torch.testing.assert_close(means, canvas.mean(1, keepdim=True))


def test_encoding_pixel_tiles_to_a_latent_canvas():
    grid = TileGrid(10, 14, tile=8, overlap=4)
    pixels = torch.randn(1, 3, 80, 112)
    pool = torch.nn.AvgPool2d(8)
    latent = grid.merge(pool(tile) for tile in grid.scaled(8).crop(pixels))
    torch.testing.assert_close(latent, pool(pixels), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("tile_batch", [1, 3, 100])
def test_map_gives_tiles_of_every_canvas_in_batches(tile_batch: int):
    grid = TileGrid(20, 28, tile=16, overlap=8)
    a, b = torch.randn(2, 2, 3, 20, 28).unbind()
    per_image = torch.tensor([1.0, 2.0])
    sizes = list[int]()

    def function(a_tiles: Tensor, b_tiles: Tensor) -> Tensor:
        count = len(a_tiles) // 2
        sizes.append(count)
        return a_tiles - b_tiles * per_image.repeat(count).reshape(-1, 1, 1, 1)

    expected = a - b * per_image.reshape(-1, 1, 1, 1)
    torch.testing.assert_close(grid.map(function, a, b, tile_batch=tile_batch), expected)
    assert max(sizes) == min(tile_batch, len(grid))
    assert sum(sizes) == len(grid)


def test_batches_know_where_their_tiles_are():
    few = TileGrid(20, 28, tile=16, overlap=8, chosen=(0, 2, 5))
    canvas = torch.randn(2, 3, 20, 28)
    found = list(few.batches(canvas, -canvas, tile_batch=2))
    assert [len(places) for places, _ in found] == [2, 1]
    assert [place for places, _ in found for place in places] == list(few.positions)
    for places, (tiles, negative) in found:
        assert torch.equal(tiles, torch.cat([canvas[..., y : y + 16, x : x + 16] for y, x in places]))
        assert torch.equal(negative, -tiles)


def test_errors_name_what_is_wrong():
    grid = TileGrid(20, 28, tile=16, overlap=8)
    canvas = torch.zeros(1, 1, 20, 28)
    tiles = list(grid.crop(canvas))
    with pytest.raises(ValueError, match="canvas of 20x28, got one of 40x56"):
        grid.crop(torch.zeros(1, 1, 40, 56))
    with pytest.raises(ValueError, match="expected 6 tiles, got 5"):
        grid.merge(tiles[:-1])
    with pytest.raises(ValueError, match="expected 6 tiles, got 0"):
        grid.merge([])
    with pytest.raises(ValueError, match="number 7"):
        grid.merge([*tiles, tiles[0]])
    with pytest.raises(ValueError, match="number 2 has"):
        grid.merge([tiles[0], tiles[1][..., 1:]])
    with pytest.raises(ValueError, match="window of 16x16"):
        grid.merge(tiles, torch.ones(8, 8))
    with pytest.raises(ValueError, match="less than the tile"):
        TileGrid(20, 20, tile=16, overlap=16)
    with pytest.raises(ValueError, match="1 or more"):
        TileGrid(0, 20, tile=16)
    with pytest.raises(ValueError, match="tile_batch"):
        grid.map(lambda tile: tile, canvas, tile_batch=0)


def test_tile_cells():
    assert tile_cells(0, -1, 512, 8) == (64, 32)
    assert tile_cells(96, 16, 512, 8) == (12, 2)
    assert tile_cells(64, 0, 512, 8) == (8, 0)
    with pytest.raises(ValueError, match="64 pixels or more"):
        tile_cells(8, 0, 512, 8)
    with pytest.raises(ValueError, match="overlap"):
        tile_cells(64, 64, 512, 8)


def test_only_the_tiles_that_are_wanted() -> None:
    grid = TileGrid(20, 31, 8, 4)
    wanted = torch.zeros(20, 31, dtype=torch.bool)
    wanted[2:5, 3:6] = wanted[18, 30] = True
    few = grid.touching(wanted)
    assert 1 < len(few) < len(grid)
    assert set(few.positions) == {(y, x) for y, x in grid.positions if wanted[y : y + 8, x : x + 8].any()}
    assert few.covered()[wanted].all()
    assert few.scaled(2).positions == tuple((2 * y, 2 * x) for y, x in few.positions)
    canvas, seen = torch.rand(2, 3, 20, 31), []
    merged = few.map(lambda tile: seen.append(len(tile)) or 2 * tile, canvas, tile_batch=3)
    assert sum(seen) == 2 * len(few)
    torch.testing.assert_close(merged, torch.where(few.covered(), 2 * canvas, 0.0), rtol=0, atol=1e-5)
    one = grid.touching(wanted & (torch.arange(31) > 20))
    assert torch.isfinite(one.merge([canvas[..., y : y + 8, x : x + 8] for y, x in one.positions])).all()
    assert grid.touching(torch.ones_like(wanted)) == grid.touching(~torch.ones_like(wanted)) == grid


def along(length: int, variance: float, tile: int) -> Tensor:
    """A window's weights along a tile."""
    at = (torch.arange(length, dtype=torch.float64) - (length - 1) / 2) / tile
    return torch.exp(-(at**2) / (2 * variance))


def test_shades_are_blended_broadly_and_texture_narrowly() -> None:
    """By windows of the variances 0.02 and 0.003, in squared tiles."""
    grid = TileGrid(16, 24, tile=16, overlap=8)
    broad, narrow = (along(16, variance, 16) for variance in (0.02, 0.003))
    first, second = grid.positions
    assert (first, second) == ((0, 0), (0, 8))

    def of_second(weights: Tensor) -> Tensor:
        """How much the second tile counts in the columns that both show."""
        return (weights[:8] / (weights[8:] + weights[:8])).float()

    canvas = torch.zeros(1, 1, 16, 24)
    shades = iter([torch.zeros(1, 1, 16, 16), torch.ones(1, 1, 16, 16)])
    merged = grid.map(lambda _: next(shades), canvas)[0, 0]
    torch.testing.assert_close(merged[8, 8:16], of_second(broad), rtol=0, atol=0.02)
    checkers = ((torch.arange(16)[:, None] + torch.arange(16)) % 2 * 2.0 - 1)[None, None]
    texture = iter([torch.zeros(1, 1, 16, 16), checkers])
    merged = grid.map(lambda _: next(texture), canvas)[0, 0, 8, 8:16].abs()
    found, other = (merged - of_second(narrow)).abs().max(), (merged - of_second(broad)).abs().max()
    assert found < 0.12 < other


def test_texture_that_tiles_agree_on_is_kept_at_every_border() -> None:
    grid = TileGrid(40, 56, tile=16, overlap=8)
    canvas = torch.randn(1, 2, 40, 56, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(grid.map(lambda tile: tile, canvas, tile_batch=5), canvas, rtol=0, atol=1e-4)


def test_the_autoencoder_s_tiles_are_bounded() -> None:
    """64 cells along each side, a quarter of which they share."""
    grid = pixel_grid(torch.empty(1, 3, 1024, 2000, device="meta"), 8)
    assert grid.tile_shape == (512, 512)
    assert grid.overlap == 128
    assert len(pixel_grid(torch.empty(1, 3, 512, 512, device="meta"), 8)) == 1
    assert pixel_grid(torch.empty(1, 3, 100, 100, device="meta"), 4, tile=8).tile_shape == (32, 32)


@pytest.mark.parametrize(
    ("setting", "diffusion", "autoencoder", "cleaner"),
    [
        ((0, -1, 512), (64, 32), (64, 16), (512, 256)),
        ((0, -1, 768), (96, 48), (64, 16), (512, 256)),
        ((0, 128, 512), (64, 16), (64, 16), (512, 128)),
        ((640, 160, 512), (80, 20), (80, 20), (640, 160)),
        ((640, -1, 512), (80, 40), (80, 20), (640, 320)),
        ((2048, 512, 512), (256, 64), (LARGEST, LARGEST // 4), (2048, 512)),
        ((64, 0, 512), (8, 0), (8, 0), (64, 0)),
    ],
)
def test_one_setting_rules_all_that_works_in_tiles(
    setting: tuple[int, int, int], diffusion: tuple, autoencoder: tuple, cleaner: tuple
) -> None:
    """The autoencoder's attention is bounded: where it has smaller tiles, they share as much of a tile."""
    tiles = TileSetting(*setting, factor=8)
    assert (tiles.diffusion, tiles.autoencoder, tiles.cleaner) == (diffusion, autoencoder, cleaner)


def test_pictures_of_a_fixed_size_are_taken_whole_unless_a_tile_is_chosen() -> None:
    picture = torch.empty(1, 3, 512, 640, device="meta")
    own = TileSetting(0, -1, 512, 8)
    assert own.on(picture, "fixed").diffusion.tile == 80
    assert own.on(picture, "tiled") == own
    assert TileSetting(256, -1, 512, 8).on(picture, "fixed").diffusion == (32, 16)
    with pytest.raises(ValueError, match="64 pixels or more"):
        TileSetting(8, 0, 512, 8)
