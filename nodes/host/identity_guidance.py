"""Identity guidance in the host's samplers: a post-CFG function that knows where the faces are."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import comfy.model_management as mm
import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...pfstorer_core.diffusion.identity_guidance import IdentityGuidance, IdentitySettings
from ...pfstorer_core.imaging.tiled_autoencoder import TILE
from ...pfstorer_core.models.identity_mask import IdentityMask
from ...pfstorer_core.personalization.face_guidance import chosen_mask
from ...pfstorer_core.recognition.subject import Subject, direction_of, find_subject
from .guidance import GradientDecoder, blend_conditions, schedule_of, target_latent, timesteps_of
from .guidance_masks import GuidanceMask, with_mask
from .model import LQ_LATENT
from .recognition import HostedRecognizer

KEY = "pfstorer.identity_guidance"
REMEMBERED = 16
"""Samplings whose likeness can still be asked for."""


@dataclass(eq=False)
class Record:
    """How much the pictures of a sampling looked like their persons.

    Attributes:
        steps: of the sampler.
        before: mean cosine of the pictures before each guided step, by its time step.
        after: the same after the last one.
        samples: what came out, unscaled latents [B, C, h, w] on the CPU; None until it has.
    """

    steps: int
    before: dict[float, float] = field(default_factory=dict)
    after: float | None = None
    samples: Tensor | None = None

    @property
    def curve(self) -> list[float]:
        """The likeness in the order of sampling."""
        rising = [self.before[t] for t in sorted(self.before, reverse=True)]
        return rising if self.after is None else [*rising, self.after]

    def described(self, name: str) -> str:
        """In a sentence; `name` is the recogniser's."""
        if not self.before:
            return (
                f"Identity guidance did not act: none of the {self.steps} steps lies in its window. Lower "
                "start_percent or raise end_percent."
            )
        return (
            f"Likeness by {name}: {self.curve[0]:.3f} before the first of {len(self.before)} guided steps "
            f"(of {self.steps}), {self.curve[-1]:.3f} after the last. Ask another recogniser, too."
        )


@dataclass(frozen=True, eq=False)
class Seen:
    """Whom the scaled latents [B, C, h, w] of a sampling's cleaned, or bad, pictures show, and what of them
    takes part."""

    lq: Tensor
    subject: Subject
    mask: Tensor | None


class FaceGuide:
    """The host's post-CFG function: moves x0 so that a recogniser finds a person in what it decodes to.

    Args:
        person: direction [D], see `direction_of`; None for whom each LQ picture shows.
        blend: of both: 1 is the person alone.
        mask: where to guide; None for everywhere.
        latent_mask: see `FaceGuidance`.
        say: told how a sampling went.
    """

    def __init__(
        self,
        settings: IdentitySettings,
        recognizer: HostedRecognizer,
        decoder: GradientDecoder,
        person: Tensor | None = None,
        blend: float = 1.0,
        mask: GuidanceMask | None = None,
        latent_mask: IdentityMask | str = "none",
        say: Callable[[str], object] = lambda _: None,
    ) -> None:
        self.settings, self.recognizer, self.decoder = settings, recognizer, decoder
        self.person, self.blend, self.say = person, blend, say
        self.mask, self.latent_mask = mask, latent_mask
        self.records = list[Record]()
        self._seen: Seen | None = None

    def __call__(self, args: dict[str, Any]) -> Tensor:
        lq, unscaled = target_latent(args), args["model"].latent_format.process_out

        def guided() -> Tensor:
            if self._seen is None or not torch.equal(self._seen.lq, lq):
                # In the first step, wherever the window is: no time is lost if there is no face.
                self._seen = self._look(lq, args, unscaled)
            return self._guided(args, self._seen)

        return self.decoder.retried(guided)

    def sampling(self, executor: Any, *args: Any, **kwargs: Any) -> Tensor:
        """The host's OUTER_SAMPLE wrapper: keeps the record of one sampling, and lets the rest go."""
        levels = args[3] if len(args) > 3 else kwargs["sigmas"]
        self.records = [*self.records, Record(len(levels) - 1)][-REMEMBERED:]
        try:
            samples = executor(*args, **kwargs)
        finally:
            self._seen, self.decoder.tile = None, TILE
        self.records[-1].samples = samples.detach().to("cpu", torch.float32, copy=True)
        self.say(self.records[-1].described(self.recognizer.name))
        return samples

    def _guided(self, args: dict[str, Any], seen: Seen) -> Tensor:
        x0, inside = args["denoised"], args["model"]
        unscaled = inside.latent_format.process_out
        levels = args["model_options"]["transformer_options"]["sample_sigmas"]
        schedule = schedule_of(levels, inside.model_sampling)
        timestep = float(inside.model_sampling.timestep(args["sigma"][:1]))
        record, spread = self.records[-1], seen.lq.std((1, 2, 3))

        def note(timestep: float, likeness: Tensor, rms: Tensor) -> None:
            record.before[timestep] = float(likeness.mean())
            if not rms.all():
                logging.getLogger(__name__).warning("The recogniser sees nothing to go by: no guidance.")

        def likeness(x0: Tensor, number: int) -> Tensor:
            return seen.subject.likeness(lambda z: self.decoder(unscaled(z)), x0, number)

        mask = seen.mask
        if self.mask is not None:
            area, _ = blend_conditions(args, self.mask.condition_of(inside.current_patcher))
            mask = area if mask is None else area * mask
        guidance = IdentityGuidance(self.settings, schedule, likeness, spread, mask, note)
        if not guidance.acts(timestep):
            return x0
        guided = guidance(x0, timestep)
        if timestep - 0.5 < self.settings.window(schedule)[-1]:
            with torch.inference_mode(False), torch.no_grad():
                rows = [likeness(row.clone(), number) for number, row in enumerate(guided.split(1))]
            record.after = float(torch.stack(rows).mean())
        return guided

    def _look(self, lq: Tensor, args: dict[str, Any], unscaled: Callable[[Tensor], Tensor]) -> Seen:
        """Finds the faces in what latents show."""
        with torch.inference_mode(False), torch.no_grad():
            shown = self.decoder(unscaled(lq.clone()))
            subject = find_subject(
                self.recognizer, shown, self.decoder.factor, self.person, self.blend,
                mm.throw_exception_if_processing_interrupted,
            )  # fmt: skip
            bad, shares = blend_conditions(args, LQ_LATENT)
            latents = (each.clone() for each in (torch.where(shares > 0, bad, lq), lq))
            mask = chosen_mask(self.latent_mask, subject, self.decoder.factor, *latents)
        return Seen(lq, subject, mask)


def settings_of(strength: float, every: int, start_percent: float, end_percent: float) -> IdentitySettings:
    """Settings of what acts while sampling is so far, both ends included; see `timesteps_of`."""
    first, last = timesteps_of("Identity guidance", start_percent, end_percent)
    return IdentitySettings(strength, every, t_start=math.floor(first) + 1, t_stop=math.ceil(last))


def person_of(recognizer: HostedRecognizer, photos: Sequence[Tensor]) -> Tensor:
    """The direction [D] of the person of photos [1, 3, H, W] in [0, 1], which gradients may be taken with."""
    with torch.inference_mode(False), torch.no_grad():
        stop = mm.throw_exception_if_processing_interrupted
        return direction_of(recognizer.loaded(), [photo.clone() for photo in photos], stop)


def with_identity_guidance(model: ModelPatcher, guide: FaceGuide) -> ModelPatcher:
    """A clone of MODEL, one of ours, whose samplings are guided. The host loads decoder and recogniser along
    with it."""
    model = model.clone()
    model.set_model_sampler_post_cfg_function(guide)
    if guide.mask is not None:
        with_mask(model, guide.mask)
    model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, guide.sampling)
    others = model.get_additional_models_with_key(KEY)
    model.set_additional_models(KEY, [*others, guide.decoder.patcher, guide.recognizer.patcher])
    return model


def record_of(model: ModelPatcher, samples: Tensor) -> tuple[Record, str]:
    """What the last identity guidance of a MODEL noted while these samples [B, C, h, w] were made, and the
    name of its recogniser.

    Raises:
        ValueError: a MODEL without one, or samples of another one.
    """
    guides = [f for f in model.model_options.get("sampler_post_cfg_function", []) if isinstance(f, FaceGuide)]
    if not guides:
        raise ValueError("This MODEL has no identity guidance: connect the one of Face Identity Guidance.")
    for record in reversed(guides[-1].records):
        if record.samples is not None and torch.equal(record.samples, samples.to(record.samples)):
            return record, guides[-1].recognizer.name
    raise ValueError(
        "This LATENT was not sampled with this MODEL, or too long ago: connect both of the same sampler, and "
        "take its LATENT as it comes out."
    )
