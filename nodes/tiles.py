"""Tiled diffusion: the model sees the canvas tile by tile, whatever sampler calls it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ..pfstorer_core.tiling import TileGrid

KEY = "pfstorer.tiles"


@dataclass(frozen=True)
class Tiles:
    """Sizes in latent cells; `batch` tiles are evaluated at once."""

    tile: int
    overlap: int
    batch: int

    def apply_model(
        self, executor: Any, x: Tensor, t: Tensor, c_concat: Tensor | None = None,
        c_crossattn: Tensor | None = None, control: dict | None = None,
        transformer_options: dict | None = None, **conds: Any,
    ) -> Tensor:  # fmt: skip
        """APPLY_MODEL wrapper: predictions of x0 on overlapping tiles are averaged.

        Raises:
            ValueError: a ControlNet is at work on a canvas of several tiles.
        """
        options = transformer_options or {}
        grid = TileGrid.of(x, self.tile, self.overlap)
        if len(grid) == 1:
            return executor(x, t, c_concat, c_crossattn, control, options, **conds)
        if control is not None:
            raise ValueError("A ControlNet cannot work on tiles yet: set the tile to the picture's size.")
        chunks = len(options.get("cond_or_uncond", [0]))
        given = {"x": x, "t": t, "c_concat": c_concat, "c_crossattn": c_crossattn, **conds}
        canvases = {name: value for name, value in given.items() if _is_canvas(value, x)}

        def evaluate(*tiles: Tensor) -> Tensor:
            n = len(tiles[0]) // len(x)
            cropped = dict(zip(canvases, tiles, strict=True))
            now = {
                name: _chunk_major(cropped[name], n, chunks)
                if name in cropped
                else _for_tiles(value, n, chunks, len(x))
                for name, value in given.items()
            }
            args = (now.pop(name) for name in ("x", "t", "c_concat", "c_crossattn"))
            return _tile_major(executor(*args, None, options, **now), n, chunks)

        return grid.map(evaluate, *canvases.values(), tile_batch=self.batch)

    def prepare_sampling(
        self, executor: Any, model: ModelPatcher, noise_shape: Any, *args: Any, **kwargs: Any
    ) -> Any:
        """PREPARE_SAMPLING wrapper: the memory that is needed is a batch of tiles', not the canvas's."""
        batch, channels, height, width = noise_shape
        grid = TileGrid(height, width, self.tile, self.overlap)
        shape = [batch * min(self.batch, len(grid)), channels, *grid.tile_shape]
        return executor(model, shape, *args, **kwargs)


def with_tiles(model: ModelPatcher, tiles: Tiles) -> ModelPatcher:
    """A clone of MODEL that is evaluated on tiles."""
    model = model.clone()
    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, KEY, tiles.apply_model)
    model.add_wrapper_with_key(WrappersMP.PREPARE_SAMPLING, KEY, tiles.prepare_sampling)
    return model


def _is_canvas(value: Any, x: Tensor) -> bool:
    """Whether a condition lies on the canvas, and has to be cropped with it."""
    if not isinstance(value, Tensor) or value.ndim != 4:
        return False
    return (len(value), *value.shape[-2:]) == (len(x), *x.shape[-2:])


def _for_tiles(value: Any, n: int, chunks: int, rows: int) -> Any:
    """A condition that is given by row of the batch, for n tiles of every row."""
    if not isinstance(value, Tensor) or value.ndim == 0 or len(value) != rows:
        return value
    return _chunk_major(torch.cat([value] * n), n, chunks)


def _chunk_major(tiles: Tensor, n: int, chunks: int) -> Tensor:
    """[n·chunks·B, …], tile by tile -> [chunks·n·B, …]: the host's patches split a batch into its
    positive and negative chunks."""
    return tiles.unflatten(0, (n, chunks, -1)).transpose(0, 1).flatten(0, 2)


def _tile_major(outputs: Tensor, n: int, chunks: int) -> Tensor:
    return outputs.unflatten(0, (chunks, n, -1)).transpose(0, 1).flatten(0, 2)
