"""TiledSRSampler."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import comfy.sample
import comfy.samplers
import comfy.utils
import torch
import torch.nn.functional as F
from comfy.model_management import throw_exception_if_processing_interrupted as stop
from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io
from torch import Tensor

from ..pfstorer_core.imaging.canvas import MAX_UPSCALE, Canvas, prepare_canvas, resize
from ..pfstorer_core.imaging.color import COLOR_FIXES
from ..pfstorer_core.imaging.tiled_autoencoder import pixel_grid
from ..pfstorer_core.imaging.tiling import tile_cells
from .host.adapters import check_masks
from .host.conditioning import Conditioning, prompts_for, restorer_of, with_lq
from .host.images import from_image, from_mask
from .host.pixels import check_fidelity, decode, encode
from .host.progress import TileBar
from .host.tiles import Tiles, with_tiles

MARGIN = 8
"""Latent cells about a mask that are restored as well, since its edge is decoded and coloured with them."""


class TiledSRSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TiledSRSampler",
            display_name="Tiled SR Sampler",
            category="PFStorer",
            description="Restores and enlarges a bad picture, tile by tile.",
            search_aliases=["upscale", "super resolution", "restore", "tiled diffusion"],
            inputs=[
                io.Model.Input("model", tooltip="Of LoadBaseRestorer."),
                io.Vae.Input("vae", tooltip="Of LoadBaseRestorer."),
                io.Image.Input("image", tooltip="The bad picture, at its own size."),
                io.Float.Input("upscale", default=4.0, min=1.0, max=MAX_UPSCALE, step=0.25,
                               tooltip="The result is this many times as wide and as high."),
                io.Int.Input("steps", default=20, min=1, max=1000,
                             tooltip="Sampling steps: more is slower and often finer."),
                io.Float.Input("cfg", default=1.0, min=1.0, max=30.0, step=0.1, round=0.01,
                               tooltip="Guidance by the prompts. 1 (none) is StableSR's, and twice as fast."),
                io.Combo.Input("sampler_name", options=comfy.samplers.KSampler.SAMPLERS, default="euler",
                               tooltip="ddpm with scheduler normal is StableSR's own, for 50–200 steps."),
                io.Combo.Input("scheduler", options=comfy.samplers.KSampler.SCHEDULERS, default="normal",
                               tooltip="How the noise levels are spread over the steps."),
                io.Int.Input("seed", default=0, min=0, max=2**64 - 1, control_after_generate=True,
                             tooltip="Same seed, same picture."),
                io.Int.Input("tile", default=0, min=0, max=8192, step=8, advanced=True, optional=True,
                             tooltip="Side of a tile in pixels of the result. 0: the restorer's own."),
                io.Int.Input("overlap", default=-1, min=-1, max=4096, advanced=True, optional=True,
                             tooltip="Pixels that neighbouring tiles share, against seams. -1: half a tile."),
                io.Int.Input("tile_batch", default=4, min=1, max=64, advanced=True, optional=True,
                             tooltip="Tiles at once: more is faster and takes more memory."),
                io.Float.Input("fidelity", default=0.0, min=0.0, max=1.0, step=0.05, optional=True,
                               tooltip="CFW weight w: 0 trusts the model, 1 keeps closest to the bad "
                               "picture. Above 0 the VAE has to have CFW weights."),
                io.Combo.Input("color_fix", options=[*COLOR_FIXES, "none"], default="wavelet",
                               optional=True, tooltip="Gives the result the colours of the bad picture."),
                io.Boolean.Input("fixed_noise", default=False, optional=True, advanced=True,
                                 tooltip="The same noise for every picture of a batch, as for the frames "
                                 "of a video. They are sampled one after the other then."),
                io.Mask.Input("mask", optional=True,
                              tooltip="Where to restore; elsewhere the picture is only enlarged. One for "
                              "all pictures, or one for each; of any size, not empty."),
                io.Conditioning.Input("positive", optional=True,
                                      tooltip="A prompt of your own. Unconnected: empty."),
                io.Conditioning.Input("negative", optional=True,
                                      tooltip="Only matters at a cfg above 1."),
            ],
            outputs=[
                io.Image.Output(),
                io.Latent.Output(tooltip="What was sampled. It may be larger than the picture: small ones "
                                 "are restored at the restorer's own size, and sides are padded."),
                io.Mask.Output(tooltip="The mask at the size of the result; all of it without one."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, model: ModelPatcher, vae: Any, image: Tensor, upscale: float, steps: int, cfg: float,
        sampler_name: str, scheduler: str, seed: int, tile: int = 0, overlap: int = -1,
        tile_batch: int = 4, fidelity: float = 0.0, color_fix: str = "wavelet", fixed_noise: bool = False,
        mask: Tensor | None = None, positive: Conditioning | None = None,
        negative: Conditioning | None = None,
    ) -> io.NodeOutput:  # fmt: skip
        restorer = restorer_of(model, vae)
        image_size, factor = restorer.header.image_size, vae.downscale_ratio
        check_fidelity(vae, fidelity)
        prompts = prompts_for(restorer, positive, negative)
        check_noise_levels(model, steps, sampler_name, scheduler)
        cells = tile_cells(tile, overlap, image_size, factor)
        pictures = from_image(image)
        count, shown = len(pictures), mask_for(mask, len(pictures), model)
        canvas = prepare_canvas(pictures, upscale, image_size, factor, stop)
        shown = None if shown is None else resize(shown, canvas.target, stop).clamp(0, 1)
        together, pixels = 1 if fixed_noise else count, len(pixel_grid(canvas.picture, factor))
        plans = plan(canvas, shown, factor, together, Tiles(*cells, tile_batch))
        bar = TileBar(model, (pixels, count * pixels), steps, [tiles for _, tiles in plans])
        lq_latent = encode(vae, canvas.picture, bar.on_pixel_tile)

        def sample(number: int, start: Tensor) -> Tensor:
            tiles, needed = plans[number]
            if not needed:
                return start
            noise = comfy.sample.prepare_noise(start, seed)
            positive, negative = with_lq(prompts, start, number * together, count)
            bar.begin(number)
            return comfy.sample.sample(
                with_tiles(model, replace(tiles, on_tiles=bar.on_tiles)), noise, steps, cfg, sampler_name,
                scheduler, positive, negative, start, seed=seed, callback=bar.on_step,
                disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
            )  # fmt: skip

        samples = torch.cat([sample(*start) for start in enumerate(lq_latent.split(together))])
        check_samples(samples, model, sampler_name, scheduler)
        restored = canvas.finish(decode(vae, samples, canvas.picture, fidelity, bar.on_pixel_tile), color_fix)
        restored, shown = masked(canvas, restored, shown)
        return io.NodeOutput(restored.movedim(1, -1), {"samples": samples}, shown)


def mask_for(mask: Tensor | None, pictures: int, model: ModelPatcher) -> Tensor | None:
    """MASK [B or 1, h, w] of any size -> [B or 1, 1, h, w].

    Raises:
        ValueError: another number of masks, here or of the MODEL's persons, or nothing in any of them.
    """
    check_masks(model, pictures)
    if mask is None:
        return None
    mask = from_mask(mask)
    if len(mask) not in (1, pictures):
        raise ValueError(f"{len(mask)} masks do not fit {pictures} pictures: give one, or one for each.")
    if not mask.any():
        raise ValueError(
            "The input mask is empty, so that nothing would be restored: paint what is to be, or leave the "
            "mask unconnected."
        )
    return mask


def plan(
    canvas: Canvas, mask: Tensor | None, factor: int, together: int, tiles: Tiles
) -> list[tuple[Tiles, int]]:
    """The tiles of each sampling, of so many pictures, and their number: those that lie outside of the mask,
    and of what the autoencoder and the colour fix look at beside it, are left out."""
    count, size = len(canvas.picture), [side // factor for side in canvas.picture.shape[-2:]]
    if mask is None:
        return [(tiles, len(tiles.grid(*size)))] * (count // together)
    wanted = F.max_pool2d(F.adaptive_max_pool2d(mask, size), 2 * MARGIN + 1, 1, MARGIN)[:, 0] > 0
    groups = [group.any(0).cpu() for group in wanted.expand(count, -1, -1).split(together)]
    chosen = [replace(tiles, wanted=group) for group in groups]
    return [
        (one, len(one.grid(*size)) if group.any() else 0) for one, group in zip(chosen, groups, strict=True)
    ]


def masked(canvas: Canvas, restored: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """The restored picture inside the mask, in place, the bad one outside; and the MASK of it all."""
    if mask is None:
        return restored, restored.new_ones(1, 1, 1).expand(len(restored), *canvas.target)
    return restored.lerp_(canvas.enlarged(), 1 - mask), mask[:, 0]


def check_noise_levels(model: ModelPatcher, steps: int, sampler_name: str, scheduler: str) -> None:
    """Raise ValueError where the scheduler has no noise levels for this number of steps."""
    levels = comfy.samplers.KSampler(model, steps, torch.device("cpu"), sampler_name, scheduler).sigmas
    if not torch.isfinite(levels).all() or len(levels) < 2:
        raise ValueError(
            f"The scheduler {scheduler} gives noise levels that are not numbers for steps {steps}: choose "
            "more steps, or another scheduler."
        )


def check_samples(samples: Tensor, model: ModelPatcher, sampler_name: str, scheduler: str) -> None:
    """Raise ValueError where sampling overflowed, which would be a black picture."""
    if torch.isfinite(samples).all():
        return
    name = str(model.model.get_dtype_inference()).removeprefix("torch.")
    cure = f"choose another sampler than {sampler_name}, another scheduler than {scheduler}, or a lower cfg"
    if name == "float16":
        cure = f"in fp16 attention can overflow: choose dtype bf16 or fp32 in LoadBaseRestorer, or {cure}"
    raise ValueError(
        "Sampling came to values that are not numbers, which would be a black picture. The model computes in "
        f"{name}: {cure}."
    )
