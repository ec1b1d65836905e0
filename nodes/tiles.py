"""RestorationTiling."""

from __future__ import annotations

from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io

from ..pfstorer_core.imaging.tiling import tile_cells
from .host.tiles import Tiles, check_flat, with_tiles

DEFAULT_SIZE = 512
"""Pixels that a model other than ours was trained on, as far as is known."""


class RestorationTiling(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="RestorationTiling",
            display_name="Tiled Diffusion",
            category="PFStorer",
            description="Lets any sampler work on large latents, tile by tile.",
            search_aliases=["tile", "tiled ksampler", "large image", "mixture of diffusers", "multidiffusion",
                            "pfstorer"],
            inputs=[
                io.Model.Input("model", tooltip="From Load Base Restorer, or any other diffusion U-Net."),
                io.Int.Input("tile", default=0, min=0, max=8192, step=8,
                             tooltip="Side of a tile in pixels. 0: what the restorer was trained on."),
                io.Int.Input("overlap", default=-1, min=-1, max=4096,
                             tooltip="Pixels that neighbouring tiles share, against seams. -1: half a tile."),
                io.Int.Input("tile_batch", default=4, min=1, max=64, advanced=True, optional=True,
                             tooltip="Tiles at once: more is faster and takes more memory."),
            ],
            outputs=[io.Model.Output(tooltip="The MODEL that works tile by tile: for any sampler.")],
        )  # fmt: skip

    @classmethod
    def execute(cls, model: ModelPatcher, tile: int, overlap: int, tile_batch: int = 4) -> io.NodeOutput:
        latents = model.model.latent_format
        check_flat(2 + latents.latent_dimensions, model)
        header = getattr(model.model, "header", None)
        size = header.image_size if header else DEFAULT_SIZE
        cells = tile_cells(tile, overlap, size, latents.spacial_downscale_ratio)
        return io.NodeOutput(with_tiles(model, Tiles(*cells, tile_batch)))
