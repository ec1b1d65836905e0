"""TiledSRSampler."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import comfy.sample
import comfy.samplers
import comfy.utils
import torch
from comfy.model_management import throw_exception_if_processing_interrupted as stop
from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io
from torch import Tensor

from ..pfstorer_core.imaging.canvas import MAX_UPSCALE, canvas_for, resize
from ..pfstorer_core.imaging.color import COLOR_FIXES
from ..pfstorer_core.imaging.tile_setting import TileSetting
from .host.cleaning import cleaner_of, pixel_tiles
from .host.conditioning import Conditioning, prompts_for, restorer_of, with_lq
from .host.images import from_image
from .host.pixels import check_fidelity, decode
from .host.placement import frame_of
from .host.progress import TileBar
from .host.sampling import apply_mask, check_noise_levels, check_samples, plan_tiles, prepare_mask, sample
from .host.starts import start_of, started
from .host.tiles import Tiles, with_tiles


class TiledSRSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TiledSRSampler",
            display_name="Tiled SR Sampler",
            category="PFStorer",
            description="Restores and enlarges a bad picture, tile by tile.",
            search_aliases=["upscale", "super resolution", "restore", "tiled diffusion", "face restore",
                            "face restoration", "upscale face", "enhance", "gfpgan", "codeformer",
                            "restoreformer", "blurry", "deblur", "unblur", "old photo", "denoise", "stablesr",
                            "diffbir", "pfstorer", "人脸修复", "老照片修复", "去模糊", "顔 復元", "高画質化"],
            inputs=[
                io.Model.Input("model", tooltip="From Load Base Restorer."),
                io.Vae.Input("vae", tooltip="From Load Base Restorer."),
                io.Image.Input("image", tooltip="The bad picture, at its own size."),
                io.Float.Input("upscale", default=4.0, min=1.0, max=MAX_UPSCALE, step=0.25,
                               tooltip="The result is this many times as wide and as high. A restorer of "
                               "one size (DiffBIR's for faces) brings the shorter side to its own."),
                io.Int.Input("steps", default=20, min=1, max=1000,
                             tooltip="Sampling steps: more is slower and often finer."),
                io.Float.Input("cfg", default=1.0, min=1.0, max=30.0, step=0.1, round=0.01,
                               tooltip="Guidance by the prompts. 1 (none) is right for StableSR and DiffBIR "
                               "v1, and twice as fast. v2 was made for 4, v2.1 for 6, and for prompts."),
                io.Combo.Input("sampler_name", options=comfy.samplers.KSampler.SAMPLERS, default="euler",
                               tooltip="ddpm with scheduler normal is StableSR's own, for 50–200 steps."),
                io.Combo.Input("scheduler", options=comfy.samplers.KSampler.SCHEDULERS, default="normal",
                               tooltip="How the noise levels are spread over the steps."),
                io.Int.Input("seed", default=0, min=0, max=2**64 - 1, control_after_generate=True,
                             tooltip="Same seed, same picture."),
                io.Int.Input("tile", default=0, min=0, max=8192, step=8, advanced=True, optional=True,
                             tooltip="Side of a tile in pixels of the result, for cleaner, sampling and VAE "
                             "(there at most 128 latent cells). 0: each its own."),
                io.Int.Input("overlap", default=-1, min=-1, max=4096, advanced=True, optional=True,
                             tooltip="Pixels that neighbouring tiles share, against seams. -1: half a tile, "
                             "in the VAE a quarter."),
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
                io.UpscaleModel.Input("cleaner", optional=True,
                                      tooltip="For DiffBIR: cleans the picture first (Load Upscale Model); "
                                      "a CLR-Face prior starts from the result. Unconnected: the one in the "
                                      "checkpoint, if there is one."),
                io.Float.Input("denoise", default=0.0, min=0.0, max=1.0, step=0.05, optional=True,
                               advanced=True, tooltip="How noisy the picture is made that sampling starts "
                               "from: 1 entirely; less stays closer to it. 0: what the restorer was made "
                               "for (1, of CLR-Face priors 0.5). All steps are run."),
                io.Boolean.Input("quantize", default=True, optional=True, advanced=True,
                                 tooltip="VQ autoencoders only: bring the result to the codebook before it "
                                 "is decoded, as published. Off shows small changes that this would hide."),
            ],
            outputs=[
                io.Image.Output(tooltip="The restored picture, upscale times as large."),
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
        negative: Conditioning | None = None, cleaner: Any = None, denoise: float = 0.0,
        quantize: bool = True, part: tuple[int, int] = (0, 1),
    ) -> io.NodeOutput:  # fmt: skip
        prompts = prompts_for(restorer := restorer_of(model, vae), positive, negative)
        header, factor = started(restorer.header, denoise), vae.downscale_ratio
        check_fidelity(vae, fidelity)
        check_noise_levels(model, steps, sampler_name, scheduler)
        setting = TileSetting(tile, overlap, header.image_size, factor)
        pictures, cleaner = from_image(image), cleaner_of(model, cleaner, header)
        count, shown = len(pictures), prepare_mask(mask, len(pictures), model)
        together = 1 if fixed_noise else count
        canvas = canvas_for(header, pictures, upscale, factor, stop)
        setting = setting.on(canvas.picture, header.size_rule)
        shown = None if shown is None else resize(shown, canvas.target, stop).clamp(0, 1)
        plans = plan_tiles(canvas, shown, factor, together, Tiles(*setting.diffusion, tile_batch))
        frame = frame_of(canvas.content, canvas.picture.shape[-2:])
        pieces = pixel_tiles(header, cleaner, canvas.picture, setting)
        bar = TileBar(model, pieces, steps, [number for _, number in plans], part)
        start = start_of(header, vae, cleaner, canvas.picture, setting, bar.on_pixel_tile)
        seen = replace(canvas, picture=start.picture)

        def sampled(number: int) -> Tensor:
            lq, begin, cleaned = start.rows(number * together, together)
            if not plans[number][1]:
                return lq
            conds = with_lq(prompts, lq, frame, number * together, count, cleaned)
            bar.begin(number)
            tiled, how = with_tiles(model, replace(plans[number][0], on_tiles=bar.on_tiles)), header.start_at
            return sample(tiled, begin, conds, steps, cfg, sampler_name, scheduler, seed, how, bar.on_step)

        samples = torch.cat([sampled(number) for number in range(len(plans))])
        check_samples(samples, model, sampler_name, scheduler)
        drawn = decode(vae, samples, seen.picture, fidelity, setting.autoencoder, bar.on_pixel_tile, quantize)
        restored, shown = apply_mask(canvas, seen.finish(drawn, color_fix), shown)
        return io.NodeOutput(restored.movedim(1, -1), {"samples": samples}, shown)
