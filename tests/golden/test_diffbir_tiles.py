"""DiffBIR's tiled sampling, v1's uniform average and the later Gaussian one, against the reference.

The published Gaussian lies half a cell lower, as StableSR's does; ours is centred, and both are compared.
"""

from collections.abc import Callable, Iterable

import pytest
import torch
from torch import Tensor

from pfstorer_core.diffusion.guidance import with_cfg
from pfstorer_core.diffusion.sampling import Denoiser
from pfstorer_core.diffusion.schedule import Schedule
from pfstorer_core.imaging.color import color_fix
from pfstorer_core.imaging.tiling import TileGrid, gaussian_window

from . import diffbir, golden
from .diffbir import trajectory
from .networks import reference_window

NAME = "diffbir_tiles"
IN, V1, V2 = (golden.group(NAME, group) for group in ("in", "v1", "v2"))
SETTINGS = golden.metadata(NAME)["v1"]
FACTOR = diffbir.autoencoder(NAME).config.downscale
PIXELS = TileGrid.of(IN["cond_img"], SETTINGS["tile_size"], SETTINGS["tile_size"] - SETTINGS["tile_stride"])
GRID = TileGrid.of(IN["x_T"], PIXELS.tile // FACTOR, PIXELS.overlap // FACTOR)
ROW_BY_ROW = sorted(range(len(GRID)), key=lambda number: GRID.positions[number])
"""The reference's order of tiles, in numbers of ours."""
WINDOWS: dict[str, Callable[[int, int], Tensor]] = {"": reference_window, "_centred": gaussian_window}


def in_our_order(tiles: Tensor) -> list[Tensor]:
    return [tiles[ROW_BY_ROW.index(number)] for number in range(len(GRID))]


def tile_eps(x: Tensor, hints: Iterable[Tensor], t: Tensor) -> list[Tensor]:
    """Of every tile, in our order, with Dual-Pivot's contexts."""
    contexts = IN["context_personal"], IN["context_null"]
    pairs = zip(GRID.crop(x), hints, strict=True)
    return [diffbir.steered(NAME, hint, *contexts)(piece, t) for piece, hint in pairs]


def tiled(context: str, hint: Tensor, window: Tensor) -> Denoiser:
    """With one context for both networks, and each tile's piece of the hint."""

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        def one(piece: Tensor, hint: Tensor) -> Tensor:
            return diffbir.steered(NAME, hint, IN[context])(piece, t)

        return GRID.map(one, x, hint, window=window)

    return denoise


def sampled(denoise: Denoiser) -> tuple[Tensor, Tensor]:
    """Network outputs and states of every step."""
    outputs = list[Tensor]()

    def recorded(x: Tensor, t: Tensor) -> Tensor:
        outputs.append(denoise(x, t))
        return outputs[-1]

    schedule = Schedule.scaled_linear().respaced(SETTINGS["steps"])
    return trajectory(recorded, IN["x_T"], IN["noise"], schedule), torch.stack(outputs)


def test_layout() -> None:
    assert sorted(GRID.positions) == [tuple(corner) for corner in SETTINGS["tile_corners"]]
    assert GRID.scaled(FACTOR).positions == PIXELS.positions
    count = torch.zeros_like(V1["count"])
    for tile in GRID.crop(count):
        tile += 1
    assert torch.equal(count, V1["count"])


# --- v1: a hint for each tile, uniform average


@torch.no_grad()
def test_uniform() -> None:
    window = torch.ones(GRID.tile_shape)
    hints = [diffbir.encode(NAME, piece) for piece in PIXELS.crop(IN["cond_img"])]
    for ours, theirs in zip(hints, in_our_order(V1["tile_hints"]), strict=True):
        golden.assert_near(ours, theirs)
    states, outputs = sampled(lambda x, t: GRID.merge(tile_eps(x, hints, t), window))
    golden.assert_near(outputs, V1["eps"])
    golden.assert_near(states, V1["traj"])


@torch.no_grad()
def test_hints_of_tiles_and_of_the_whole() -> None:
    t = torch.tensor([999])
    own = tile_eps(IN["x_T"], in_our_order(V1["tile_hints"]), t)
    for ours, theirs in zip(own, in_our_order(V1["tile_eps_first_step"]), strict=True):
        golden.assert_near(ours, theirs)
    hint = diffbir.encode(NAME, IN["cond_img"])
    golden.assert_near(hint, V1["full_hint"])
    merged = GRID.merge(tile_eps(IN["x_T"], GRID.crop(hint), t), torch.ones(GRID.tile_shape))
    golden.assert_near(merged, V1["eps_first_step_cut_hint"])


@torch.no_grad()
def test_uniform_picture() -> None:
    """Each tile is decoded and colour-fixed by itself; and, for comparison, all in one piece."""

    def fixed(latent: Tensor, like: Tensor) -> Tensor:
        return color_fix((diffbir.decode(NAME, latent) + 1) / 2, like, SETTINGS["color_fix"])

    latent = V1["traj"][-1]
    pieces = map(fixed, GRID.crop(latent), PIXELS.crop(IN["cond_img"]))
    golden.assert_near(PIXELS.merge(pieces, torch.ones(PIXELS.tile_shape)), V1["picture"])
    golden.assert_near(fixed(latent, IN["cond_img"]), V1["picture_untiled_decode"])


# --- v2 and v2.1: one hint, Gaussian average


@pytest.mark.parametrize("kind", WINDOWS)
def test_window(kind: str) -> None:
    ours, theirs = WINDOWS[kind](*GRID.tile_shape), V2[f"weights{kind}"]
    golden.assert_ratio(ours / ours.sum(), theirs / theirs.sum(), 1e-12)


@torch.no_grad()
@pytest.mark.parametrize("kind", WINDOWS)
def test_gaussian(kind: str) -> None:
    window, wide = (WINDOWS[kind](*grid.tile_shape) for grid in (GRID, PIXELS))
    encoded = (diffbir.encode(NAME, piece) for piece in PIXELS.crop(IN["cond_img"]))
    hint = GRID.merge(encoded, window)
    golden.assert_near(hint, V2[f"hint_tiled{kind}"])
    cond, uncond = (tiled(context, hint, window) for context in ("context_personal", "context_null"))
    states, outputs = sampled(cond)
    golden.assert_near(outputs, V2[f"eps{kind}"])
    golden.assert_near(states, V2[f"traj{kind}"])
    cfg = golden.metadata(NAME)["v2"]["cfg"][-1]
    eps = with_cfg(cond, uncond, cfg)(IN["x_T"], torch.tensor([999]))
    golden.assert_near(eps, V2[f"eps_cfg{cfg:g}{kind}"])
    decoded = (diffbir.decode(NAME, piece) for piece in GRID.crop(states[-1]))
    golden.assert_near(PIXELS.merge(decoded, wide), V2[f"picture{kind}"])
