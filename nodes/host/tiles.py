"""Tiled diffusion: the model sees the canvas tile by tile, whatever sampler calls it."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

import comfy.model_management as mm
import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...pfstorer_core.imaging.tiling import TileGrid
from .model import CLEANED_LATENT, LQ_LATENT

KEY = "pfstorer.tiles"


@dataclass(eq=False)
class Tiles:
    """Sizes in latent cells; `batch` tiles are evaluated at once, fewer from when they did not fit.

    `on_tiles` hears how many tiles of how many are done, in each evaluation of the model. Tiles in which
    nothing is `wanted`, bool [height, width] of the canvas, are not evaluated; there the LQ latent is what
    the model predicts.
    """

    tile: int
    overlap: int
    batch: int
    on_tiles: Callable[[int, int], None] | None = None
    wanted: Tensor | None = None

    def grid(self, height: int, width: int) -> TileGrid:
        """The tiles of a canvas; all where it is not the one of `wanted`, such as an area prompt's."""
        grid = TileGrid(height, width, self.tile, self.overlap)
        if self.wanted is None or tuple(self.wanted.shape) != (height, width):
            return grid
        return grid.touching(self.wanted)

    def apply_model(
        self, executor: Any, x: Tensor, t: Tensor, c_concat: Tensor | None = None,
        c_crossattn: Tensor | None = None, control: dict | None = None,
        transformer_options: dict | None = None, **conds: Any,
    ) -> Tensor:  # fmt: skip
        """APPLY_MODEL wrapper: predictions of x0 on overlapping tiles are averaged."""
        grid = self.grid(*x.shape[-2:])
        options = transformer_options or {}
        chunks = len(options.get("cond_or_uncond", [0]))
        given = {"x": x, "t": t, "c_concat": c_concat, "c_crossattn": c_crossattn, **conds}
        canvases = {name: value for name, value in given.items() if _is_canvas(value, x)}

        def evaluate(places: Sequence[tuple[int, int]], tiles: Sequence[Tensor]) -> Tensor:
            mm.throw_exception_if_processing_interrupted()
            n, cropped = len(places), dict(zip(canvases, tiles, strict=True))
            now = {
                name: _chunk_major(cropped[name], n, chunks)
                if name in cropped
                else _for_tiles(value, n, chunks, len(x))
                for name, value in given.items()
            }
            args = (now.pop(name) for name in ("x", "t", "c_concat", "c_crossattn"))
            hints = None if control is None else _cropped_control(control, grid, places, chunks, len(x))
            return _tile_major(executor(*args, hints, options, **now), n, chunks)

        def results() -> Iterator[Tensor]:
            done = 0
            for places, tiles in grid.batches(*canvases.values(), tile_batch=self.batch):
                yield from evaluate(places, tiles).chunk(len(places))
                done += len(places)
                if self.on_tiles is not None:
                    self.on_tiles(done, len(grid))

        while True:
            try:
                if grid.tile_shape == tuple(x.shape[-2:]):
                    return self._whole(executor, x, t, c_concat, c_crossattn, control, options, **conds)
                found = grid.blend(results())
                there = conds.get(CLEANED_LATENT, conds.get(LQ_LATENT))
                return found if grid.chosen is None else _filled(found, grid, there)
            except Exception as error:
                mm.raise_non_oom(error)
                self._make_room(error, grid, len(x) // chunks)

    def _whole(self, executor: Any, *args: Any, **conds: Any) -> Tensor:
        output = executor(*args, **conds)
        if self.on_tiles is not None:
            self.on_tiles(1, 1)
        return output

    def _make_room(self, error: Exception, grid: TileGrid, pictures: int) -> None:
        """Fewer tiles at once from here on; where it is one already, say what the user can do."""
        height, width = grid.tile_shape
        if min(self.batch, len(grid)) == 1:
            of = f" of {pictures} pictures at once: give fewer of them," if pictures > 1 else ":"
            raise mm.OOM_EXCEPTION(
                f"The memory is too small for one tile of {width} x {height} latent cells{of} choose a "
                "smaller tile, dtype bf16 or fp16 in Load Base Restorer, or start ComfyUI with --lowvram."
            ) from error
        self.batch = max(1, min(self.batch, len(grid)) // 2)
        logging.getLogger(__name__).warning(
            "Out of memory: %d tiles of %d x %d latent cells at once from here on.", self.batch, width, height
        )
        mm.soft_empty_cache()

    def prepare_sampling(
        self, executor: Any, model: ModelPatcher, noise_shape: Any, *args: Any, **kwargs: Any
    ) -> Any:
        """PREPARE_SAMPLING wrapper: the memory that is needed is a batch of tiles', not the canvas's."""
        check_flat(len(noise_shape), model)
        return executor(model, self._seen(noise_shape), *args, **kwargs)

    def calc_cond_batch(self, executor: Any, model: Any, *args: Any) -> Any:
        """CALC_COND_BATCH wrapper: by the same measure the host decides whether positive and negative are
        evaluated together."""
        seen = copy(model)  # with the same weights: the model itself may be sampled from elsewhere, untiled
        seen.memory_required = lambda shape, *rest, **named: model.memory_required(
            self._seen(shape), *rest, **named
        )
        return executor(seen, *args)

    def _seen(self, shape: Sequence[int]) -> list[int]:
        """Shape of the largest tensor that the model gets, for a canvas of this shape."""
        rows, channels, height, width = shape
        grid = self.grid(height, width)
        return [rows * min(self.batch, len(grid)), channels, *grid.tile_shape]


def check_flat(dimensions: int, model: ModelPatcher) -> None:
    """Raise ValueError where a MODEL's latents, of so many dimensions, are no batch of pictures."""
    if dimensions != 4:
        raise ValueError(
            f"The latents of this {type(model.model).__name__} have {dimensions} dimensions, as those of "
            "videos or sound have. Tiles are for pictures, [B, C, height, width]: connect the sampler to the "
            "MODEL without them."
        )


def with_tiles(model: ModelPatcher, tiles: Tiles) -> ModelPatcher:
    """A clone of MODEL that is evaluated on these tiles, whatever tiles it had before."""
    model = model.clone()
    for kind, wrapper in {
        WrappersMP.APPLY_MODEL: tiles.apply_model,
        WrappersMP.PREPARE_SAMPLING: tiles.prepare_sampling,
        WrappersMP.CALC_COND_BATCH: tiles.calc_cond_batch,
    }.items():
        model.remove_wrappers_with_key(kind, KEY)
        model.add_wrapper_with_key(kind, KEY, wrapper)
    return model


def _filled(found: Tensor, grid: TileGrid, lq: Tensor | None) -> Tensor:
    """The prediction, and the LQ latent where no tile is."""
    return found if lq is None else torch.where(grid.covered().to(found.device), found, lq.to(found))


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


def _cropped_control(
    control: dict[str, list[Any]], grid: TileGrid, places: Sequence[tuple[int, int]], chunks: int, rows: int
) -> dict[str, list[Any]]:
    """A ControlNet's features of the canvas, whatever their resolution, for tiles; in new lists, since the
    U-Net uses them up."""

    def crop(features: Any) -> Any:
        if not isinstance(features, Tensor) or features.ndim != 4:
            return features
        height, width = features.shape[-2:]
        level = round(math.log2(grid.height / height)) if grid.height >= height else 0
        tall, wide = (-(-side // 2**level) for side in grid.tile_shape)
        tiles = []
        for y, x in places:
            top = min(round(y * height / grid.height), height - tall)
            left = min(round(x * width / grid.width), width - wide)
            tile = features[..., top : top + tall, left : left + wide]
            tiles.append(tile.expand(rows, -1, -1, -1) if len(tile) == 1 else tile)
        return _chunk_major(torch.cat(tiles), len(places), chunks)

    return {name: [crop(features) for features in found] for name, found in control.items()}
