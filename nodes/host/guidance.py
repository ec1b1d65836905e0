"""Restoration guidance in the host's samplers: a post-CFG function, and a decoder that gradients flow
through."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import comfy.model_management as mm
import comfy.samplers
import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import CallbacksMP
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ...pfstorer_core.diffusion.restoration_guidance import GuidanceSettings, RestorationGuidance
from ...pfstorer_core.diffusion.schedule import Schedule
from ...pfstorer_core.imaging.tiled_autoencoder import TILE, decode_tiled
from .model import CLEANED_LATENT, LQ_LATENT
from .pixels import LEAST_TILE, as_it_is

T = TypeVar("T")

KEY = "pfstorer.guidance"
LAST_TIMESTEP = 999
"""Of the time steps that the host counts percents of a sampling in."""


def timesteps_of(what: str, start_percent: float, end_percent: float) -> tuple[float, float]:
    """The first and the last time step of what acts while sampling is so far, 0…1.

    Raises:
        ValueError: an end that is not after the start; `what` is what would never act.
    """
    if end_percent <= start_percent:
        raise ValueError(
            f"{what} would never act: end_percent {end_percent:g} has to be above start_percent "
            f"{start_percent:g}."
        )
    return (1 - start_percent) * LAST_TIMESTEP, (1 - end_percent) * LAST_TIMESTEP


def window(start_percent: float, end_percent: float) -> dict[str, int]:
    """The settings `t_start` and `t_stop` of restoration guidance, both ends included; see `timesteps_of`."""
    first, last = timesteps_of("Restoration guidance", start_percent, end_percent)
    return {"t_start": math.floor(first) + 2, "t_stop": math.ceil(last)}


class GradientDecoder:
    """A VAE's decoder on weights of its own, which gradients flow through wherever the host calls.

    The host runs nodes in inference mode, and torch saves no tensor that was made in it for a backward pass:
    the weights are loaded outside of it, never streamed, and those that the host moved inside of it are
    copied.

    Args:
        vae: the host's.
        what: decodes by it, for errors. instead: what its user can do without it.
    Raises:
        ValueError: a VAE that cannot be loaded once more.
    """

    def __init__(
        self,
        vae: Any,
        what: str = "restoration guidance in the space rgb",
        instead: str = "take the space latent",
    ) -> None:
        if vae.patcher.cached_patcher_init is None:
            raise ValueError(
                f"{what[0].upper()}{what[1:]} needs the weights of the VAE once more, and how this "
                f"{type(vae).__name__} was loaded is not known: connect the VAE of Load Base Restorer, "
                f"Load VAE or Load Checkpoint, or {instead}."
            )
        self.what, self.instead = what, instead
        with torch.inference_mode(False), torch.no_grad():
            self.patcher = vae.patcher.clone(disable_dynamic=True, force_deepcopy=True)
        self.patcher.model.eval().requires_grad_(False)
        self.factor, self.dtype = vae.downscale_ratio, vae.vae_dtype
        self.tile = TILE

    def __call__(self, latents: Tensor) -> Tensor:
        """Unscaled latents [B, C, h, w] -> pictures [B, 3, H, W], about [-1, 1], fp32.

        With gradients, pieces are decoded again in the backward pass, so that what is kept does not grow with
        the picture.
        """
        device = self.patcher.load_device
        to_normal_tensors(self.patcher.model, device)
        latents = latents.to(device, torch.float32)
        rows, (height, width) = len(latents), latents.shape[-2:]
        shape = (rows, 3, self.factor * height, self.factor * width)
        again = latents.requires_grad and (rows > 1 or max(height, width) > self.tile)
        one = partial(checkpoint, self._piece, use_reentrant=False) if again else self._piece
        pictures = latents.new_zeros(1).expand(shape)
        return decode_tiled(lambda latent, _: one(latent), latents, pictures, self.factor, tile=self.tile)

    def _piece(self, latent: Tensor) -> Tensor:
        mm.throw_exception_if_processing_interrupted()
        # The gradient of a mean over so many numbers would vanish in half precision.
        amount = 2.0 ** round(math.log2(3 * latent.shape[-2] * latent.shape[-1] * self.factor**2))
        module: Any = self.patcher.model
        # What a codebook rounds away has no gradient, and hides small steps.
        decoded = module.decode(_times(latent, 1 / amount).to(self.dtype), **as_it_is(module))
        return _times(decoded.float(), amount)

    def retried(self, work: Callable[[], T]) -> T:
        """What decodes by this, again in smaller pieces where memory is short."""
        while True:
            try:
                return work()
            except Exception as error:
                mm.raise_non_oom(error)
                self.smaller(error)

    def smaller(self, error: Exception) -> None:
        """Decodes smaller pieces from here on, where memory is short; says what to do where none is left."""
        if self.tile <= LEAST_TILE:
            raise mm.OOM_EXCEPTION(
                f"The memory is too small for {self.what}, even on {self.tile} x {self.tile} latent cells: "
                f"{self.instead}, or start ComfyUI with --lowvram."
            ) from error
        self.tile //= 2
        logging.getLogger(__name__).warning(
            "Out of memory: %s decodes pieces of %d x %d latent cells from here on.",
            self.what,
            self.tile,
            self.tile,
        )
        mm.soft_empty_cache()


class Guide:
    """The host's post-CFG function: moves x0 towards the LQ latent that the conditioning holds, or towards
    what that decodes to. It is a function of what the host gives; what it keeps is let go after a sampling.

    DiffBIR, and `restore`, draw the latent anew each time, and compare with the picture itself. The latent is
    what a conditioning has, and areas, crops, batches and enlarged latents all know what to do with it; to
    carry the deviation and the picture as well would change results by less than half a level of 255 (mean,
    embedded restorer, 8 steps: 0.1 for the draws, 0.2 to 0.5 for the picture).
    """

    def __init__(self, settings: GuidanceSettings, decoder: GradientDecoder | None = None) -> None:
        self.settings, self.decoder = settings, decoder
        self._shown: tuple[Tensor, Tensor] | None = None

    def __call__(self, args: dict[str, Any]) -> Tensor:
        x0, sigma, model = args["denoised"], args["sigma"], args["model"]
        timestep = float(model.model_sampling.timestep(sigma[:1]))
        if not self.settings.acts(timestep):
            return x0
        target = target_latent(args)
        levels = args["model_options"]["transformer_options"]["sample_sigmas"]
        schedule = schedule_of(levels, model.model_sampling)
        if self.decoder is None:
            return RestorationGuidance(self.settings, schedule, lambda *_: target)(x0, timestep)
        unscaled = model.latent_format.process_out
        return self.decoder.retried(lambda: self._in_pixels(schedule, target, unscaled)(x0, timestep))

    def cleanup(self, _: ModelPatcher) -> None:
        """After a sampling, also one that was cancelled."""
        self._shown = None
        if self.decoder is not None:
            self.decoder.tile = TILE

    def _in_pixels(
        self, schedule: Schedule, target: Tensor, unscaled: Callable[[Tensor], Tensor]
    ) -> RestorationGuidance:
        def decode(latents: Tensor) -> Tensor:
            assert self.decoder is not None
            return self.decoder(unscaled(latents))

        if self._shown is None or not torch.equal(self._shown[0], target):
            with torch.inference_mode(False), torch.no_grad():
                self._shown = (target, decode(target.clone()))
        shown = self._shown[1]
        return RestorationGuidance(self.settings, schedule, lambda *_: shown, decode)


def with_guidance(model: ModelPatcher, guide: Guide) -> ModelPatcher:
    """A clone of MODEL, one of ours, whose samplings are guided. The host loads the decoder along with it."""
    model = model.clone()
    model.set_model_sampler_post_cfg_function(guide)
    model.add_callback_with_key(CallbacksMP.ON_CLEANUP, KEY, guide.cleanup)
    if guide.decoder is not None:
        others = model.get_additional_models_with_key(KEY)
        model.set_additional_models(KEY, [*others, guide.decoder.patcher])
    return model


def target_latent(args: dict[str, Any]) -> Tensor:
    """The scaled latent [B, C, h, w] of the cleaned picture, or else the LQ latent, of what a post-CFG
    function is asked about: that of each condition where it acts, in the shares in which the host blends
    their predictions.

    Raises:
        ValueError: a conditioning without one.
    """
    blended, shares = blend_conditions(args, CLEANED_LATENT)
    if not shares.any():
        blended, shares = blend_conditions(args, LQ_LATENT)
    if not shares.any():
        raise ValueError(
            "Guidance goes by the picture in the conditioning, and there is none: connect positive and "
            "negative of Restoration Conditioning to the sampler, or take Tiled SR Sampler."
        )
    return torch.where(shares > 0, blended, args["denoised"])


def blend_conditions(args: dict[str, Any], name: str) -> tuple[Tensor, Tensor]:
    """What the positive conditions hold under this name, blended as the host blends their predictions, and
    the sums of the shares, both as large as x0 [B, C, h, w]; 0 where there is none."""
    x0 = args["denoised"]
    total, shares = torch.zeros_like(x0), torch.zeros_like(x0)
    for cond in args["cond"]:
        if name not in cond["model_conds"]:
            continue
        part = comfy.samplers.get_area_and_mult(cond, x0, args["sigma"])
        if part is None:
            continue
        inside = (...,)
        if part.area is not None:
            (height, width, y, x) = part.area
            inside = (..., slice(y, y + height), slice(x, x + width))
        total[inside] += part.conditioning[name].cond.to(x0) * part.mult
        shares[inside] += part.mult
    return total / shares.clamp_min(1e-37), shares


def schedule_of(levels: Tensor, model_sampling: Any) -> Schedule:
    """The schedule that a sampler's noise levels sigma, with or without a 0 at their end, stand for."""
    rising = levels[levels > 0].sort().values
    timesteps = model_sampling.timestep(rising).cpu()
    first = torch.cat([timesteps.new_ones(1, dtype=torch.bool), timesteps.diff() > 0])
    return Schedule((1 / (1 + rising.cpu().double().square()))[first], timesteps[first])


def to_normal_tensors(module: nn.Module, device: torch.device) -> None:
    """Copies what was moved to this device in inference mode, for torch to save it for a backward pass. What
    lies elsewhere is copied by the host for each use."""
    with torch.inference_mode(False), torch.no_grad():
        for part in module.modules():
            for name, value in part.named_parameters(recurse=False):
                if value.is_inference() and value.device == device:
                    setattr(part, name, nn.Parameter(value.clone(), requires_grad=False))
            for name, value in part.named_buffers(recurse=False):
                if value.is_inference() and value.device == device:
                    setattr(part, name, value.clone())


def _times(values: Tensor, factor: float) -> Tensor:
    """The same values, whose gradient is multiplied."""
    if values.requires_grad:
        values = values.view_as(values)
        values.register_hook(lambda gradient: gradient * factor)
    return values
