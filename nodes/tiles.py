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
        self, executor: Any, x: Tensor, t: Tensor, c_concat: Tensor | None = None, c_crossattn: Tensor | None = None,
        control: dict | None = None, transformer_options: dict | None = None, **conds: Any,
    ) -> Tensor:  # fmt: skip
        """APPLY_MODEL wrapper. The predictions of overlapping tiles are averaged, which every prediction
        type allows, since x0 is linear in it."""
        options = transformer_options or {}
        grid = TileGrid(x.shape[-2], x.shape[-1], self.tile, self.overlap)
        if len(grid) == 1:
            return executor(x, t, c_concat, c_crossattn, control, options, **conds)
        if control is not None:
            raise ValueError(
                "Tiles and a ControlNet do not work together yet: enlarge the tile to the picture's size."
            )
        chunks = len(options.get("cond_or_uncond", [0]))
        canvases = {name: value for name, value in conds.items() if _is_canvas(value, x)} | {"x": x}
        if c_concat is not None:
            canvases["c_concat"] = c_concat
        rows = {name: value for name, value in conds.items() if name not in canvases} | {
            "t": t,
            "c_crossattn": c_crossattn,
        }

        def evaluate(*tiles: Tensor) -> Tensor:
            n = len(tiles[0]) // len(x)
            given = {name: _chunk_major(tile, n, chunks) for name, tile in zip(canvases, tiles, strict=True)}
            given |= {name: _repeat(value, n, chunks, len(x)) for name, value in rows.items()}
            args = (given.pop(name, None) for name in ("x", "t", "c_concat", "c_crossattn"))
            return _tile_major(executor(*args, None, options, **given), n, chunks)

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
    return (
        isinstance(value, Tensor)
        and value.ndim == 4
        and value.shape[-2:] == x.shape[-2:]
        and len(value) == len(x)
    )


def _chunk_major(tiles: Tensor, n: int, chunks: int) -> Tensor:
    """[n·chunks·B, …] tile by tile -> [chunks·n·B, …], since the host's patches split a batch into
    its positive and negative chunks."""
    return tiles.unflatten(0, (n, chunks, -1)).transpose(0, 1).flatten(0, 2)


def _tile_major(outputs: Tensor, n: int, chunks: int) -> Tensor:
    return outputs.unflatten(0, (chunks, n, -1)).transpose(0, 1).flatten(0, 2)


def _repeat(value: Any, n: int, chunks: int, rows: int) -> Any:
    """What is given by row of the batch, for n tiles of every row."""
    if not isinstance(value, Tensor) or value.ndim == 0 or len(value) != rows:
        return value
    return _chunk_major(torch.cat([value] * n), n, chunks)
