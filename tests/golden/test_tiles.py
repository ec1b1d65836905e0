"""Tile layouts, weights and tiled sampling against the reference's."""

import re
from typing import Any

import pytest
import torch
from torch import Tensor

from pfstorer_core.diffusion.schedule import space_timesteps
from pfstorer_core.imaging.tiling import TileGrid, gaussian_window

from . import golden, networks

NAME = "stablesr_tiles"
NUMBERS = golden.document(NAME)
LAYOUTS: list[dict[str, Any]] = [
    layout
    for entry in NUMBERS.values()
    for layout in (entry if isinstance(entry, list) else [entry])
    if isinstance(layout, dict) and "tiles" in layout
]
WINDOWS = [key for key in golden.tensors(NAME) if key.startswith("gaussian_weights.")]


def grid_of(layout: dict[str, Any]) -> TileGrid:
    tile = layout["tile_size"]
    overlap = layout["tile_overlap"] if "tile_overlap" in layout else tile - layout["stride"]
    return TileGrid(layout["height"], layout["width"], tile, overlap)


@pytest.mark.parametrize(
    "layout",
    LAYOUTS,
    ids=lambda layout: f"{layout['height']}x{layout['width']}-{layout['tile_size']}",
)
def test_layout(layout: dict[str, Any]):
    grid = grid_of(layout)
    assert [list(position) for position in grid.positions] == layout["tiles"]
    # The pixels of these latents are tiled at the same places.
    assert grid.scaled(8).positions == tuple((8 * y, 8 * x) for y, x in grid.positions)


@pytest.mark.parametrize("key", WINDOWS)
def test_window(key: str):
    expected = golden.tensors(NAME)[key]
    sizes = re.search(r"w(\d+)h(\d+)$", key)
    height, width = (int(sizes[2]), int(sizes[1])) if sizes else [int(key.rpartition(".")[2])] * 2
    torch.testing.assert_close(networks.reference_window(height, width), expected, rtol=1e-9, atol=0)

    ours = gaussian_window(height, width)
    torch.testing.assert_close(ours, ours.flip(0), rtol=1e-9, atol=0)
    torch.testing.assert_close(ours, ours.flip(1), rtol=1e-9, atol=0)
    torch.testing.assert_close(ours[0] / ours[0].sum(), expected[0] / expected[0].sum(), rtol=1e-9, atol=0)
    # Along y ours is what the reference has along x.
    torch.testing.assert_close(ours.T, gaussian_window(width, height), rtol=1e-9, atol=0)


@pytest.mark.parametrize("case", networks.loop_cases(NAME))
@pytest.mark.parametrize("tile_batch", [1, 4])
def test_tiled_loop(case: str, tile_batch: int):
    loop, settings = golden.group(NAME, case), NUMBERS[case]
    base, grid = golden.base_schedule(), grid_of(settings)
    schedule = base.respaced(space_timesteps(len(base), [settings["steps"]]))
    assert schedule.timesteps.tolist() == settings["timesteps"]
    assert loop["x_T"].shape[-2:] == (settings["height"], settings["width"])
    model, window = networks.loop_model(loop), networks.reference_window(*grid.tile_shape)

    def tiled(x: Tensor, t: Tensor) -> Tensor:
        def one_tile(x_tile: Tensor, lq_tile: Tensor) -> Tensor:
            return model(x_tile, t.repeat(len(x_tile) // len(t)), lq_tile)

        return grid.map(one_tile, x, loop["z_lq"], tile_batch=tile_batch, window=window)

    networks.assert_loop(NAME, case, tiled, schedule, settings["parameterization"])


@pytest.mark.parametrize("case", golden.cases(NAME, "image"))
def test_pixel_blend(case: str):
    blend, grid = golden.group(NAME, case), grid_of(NUMBERS[case])
    patches = (patch * (1 + 0.1 * k) + 0.05 * k for k, patch in enumerate(grid.crop(blend["image"])))
    golden.assert_near(grid.merge(patches, networks.reference_window(*grid.tile_shape)), blend["out"], 1e-5)
