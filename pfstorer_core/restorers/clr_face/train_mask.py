"""Training of a mask of identity guidance: which values of a latent carry who somebody is.

A guided step is taken, as in sampling; what becomes of the picture tells where it should have been. All
networks but the mask stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...diffusion.identity_guidance import IdentityGuidance, IdentitySettings
from ...models.identity_mask import IdentityMask, IdentityMaskConfig, build_mask
from ...recognition import Recognizer, cosines, mean_of_units
from ...training.data import Batch, Samples, generators, normal
from ...training.degradation import RandomDegradation, random_degradation
from ...training.logs import rows_of
from ...training.loop import LoopSettings, Objective, fit
from ...training.progress import Progress, silent
from ..base import Restorer
from .mask import as_picture, check_mask

KINDS = ("predicted", "global")
RATES = {"predicted": 1e-3, "global": 1e-2}
SHUT, OPEN = 0.05, 0.95
"""Below and above which a value of a mask counts as decided."""


@dataclass(frozen=True)
class MaskTraining:
    """Settings of a training of a mask.

    Attributes:
        kind: "predicted" for each picture, or "global", one for all of a size.
        picture, mean, variation: weights of the terms of `MaskTerms`; the likeness has 1. A guided step gains
            about a hundredth of it: a mask whose openness costs more than that shuts.
        references: so many photos of the person guide; 0: the cleaned picture does.
        guidance: what is taken of a step; its window says from which time steps.
    """

    kind: str = "predicted"
    picture: float = 1.0
    mean: float = 0.002
    variation: float = 0.002
    references: int = 0
    guidance: IdentitySettings = field(default_factory=IdentitySettings)
    degradation: RandomDegradation = field(default_factory=lambda: random_degradation("", 0))
    loop: LoopSettings = field(
        default_factory=lambda: LoopSettings(
            steps=1000, lr=RATES["predicted"], batch=8, decay=False, betas=(0.9, 0.999)
        )
    )

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"No mask of the kind {self.kind!r}; choose one of {', '.join(KINDS)}.")


class MaskTerms(NamedTuple):
    """What a mask is trained by, scalars.

    Attributes:
        identity: mean of 1 - likeness of the guided picture to the true one.
        picture: mean distance of both.
        mean: of the mask. variation: mean distance of its neighbours, below one another and side by side.
    """

    identity: Tensor
    picture: Tensor
    mean: Tensor
    variation: Tensor


def mask_terms(recognizer: Recognizer, picture: Tensor, truth: Tensor, mask: Tensor) -> MaskTerms:
    """Of guided pictures [B, 3, H, W] and true ones, in [-1, 1], and a mask [b, C, h, w]."""
    with torch.no_grad():
        wanted = recognizer.embed(truth)
    return MaskTerms(
        (1 - cosines(recognizer.embed(picture), wanted)).mean(),
        F.l1_loss(picture, truth),
        mask.mean(),
        mask.diff(dim=-2).abs().mean() + mask.diff(dim=-1).abs().mean(),
    )


class Seen(NamedTuple):
    """A batch on its way: pictures [B, 3, H, W] in [0, 1] and scaled latents [B, C, h, w]."""

    hq: Tensor
    lq: Tensor
    cleaned: Tensor
    lq_latent: Tensor
    cleaned_latent: Tensor


class MaskLoss(Objective):
    """The weighted `mask_terms` of one guided step from a random time step.

    Args:
        recognizer: guides and is asked, as in the paper; its pictures have to be faces as in FFHQ.
    """

    def __init__(
        self, mask: IdentityMask, restorer: Restorer, recognizer: Recognizer, settings: MaskTraining
    ) -> None:
        super().__init__()
        self.mask, self.settings = mask, settings
        self.restorer, self.recognizer = restorer, recognizer
        self.frozen = nn.ModuleList([restorer.unet, restorer.autoencoder, recognizer.network])
        self.frozen.eval().requires_grad_(False)

    def forward(self, batch: Batch) -> Tensor:
        rngs = generators(batch)
        timesteps = torch.tensor([self._time_step(rng) for rng in rngs])
        seen = self._seen(batch, rngs)
        x0 = self._predicted(seen, timesteps, rngs)
        mask = self.mask(seen.lq_latent, seen.cleaned_latent)
        picture = self._decode(self._guided(x0, seen, timesteps, mask, self._wanted(batch, seen)))
        terms, s = mask_terms(self.recognizer, picture, 2 * seen.hq - 1, mask), self.settings
        return (
            terms.identity + s.picture * terms.picture + s.mean * terms.mean + s.variation * terms.variation
        )

    @torch.no_grad()
    def figures(self, batch: Batch) -> dict[str, float]:
        """How open the mask is, and how much of it is decided."""
        seen = self._seen(batch, generators(batch))
        mask = self.mask(seen.lq_latent, seen.cleaned_latent)
        return {
            "mask": float(mask.mean()),
            "shut": float((mask < SHUT).float().mean()),
            "open": float((mask > OPEN).float().mean()),
        }

    @torch.no_grad()
    def sheet(self, batch: Batch) -> Tensor:
        """LQ, cleaned, the mask, HQ."""
        seen = self._seen(batch, generators(batch))
        mask = self.mask(seen.lq_latent, seen.cleaned_latent).expand(len(seen.hq), -1, -1, -1)
        shown = as_picture(mask, (seen.hq.shape[-2], seen.hq.shape[-1]))
        return rows_of(seen.lq, seen.cleaned.clamp(0, 1), shown, seen.hq)

    def _time_step(self, rng: np.random.Generator) -> int:
        guidance = self.settings.guidance
        last = min(guidance.t_start, len(self.restorer.schedule))
        return int(rng.integers(int(guidance.t_stop), int(last)))

    @torch.no_grad()
    def _seen(self, batch: Batch, rngs: list[np.random.Generator]) -> Seen:
        images = batch["image"].float() / 255
        hq, lq = self.settings.degradation(images, rngs, 0.0)
        header = self.restorer.header
        cleaned = self.restorer.clean(lq).to(lq) if header.cleans else lq
        known = cleaned if header.sees_cleaned else lq
        return Seen(hq, lq, cleaned, self._encode(known), self._encode(cleaned))

    @torch.no_grad()
    def _predicted(self, seen: Seen, timesteps: Tensor, rngs: list[np.random.Generator]) -> Tensor:
        """The network's x0 for noised latents of what sampling starts from, or of the true pictures where it
        starts from noise. Of these a step would already know who it is, better than what it is led to."""
        restorer = self.restorer
        starts = {"cleaned": seen.cleaned_latent, "lq": seen.lq_latent}
        clean = starts.get(restorer.header.start)
        clean = self._encode(seen.hq) if clean is None else clean
        timesteps = timesteps.to(clean.device)
        x = restorer.noised(clean, timesteps, normal(clean, rngs))
        condition = restorer.condition(seen.lq_latent, seen.cleaned_latent, seen.lq)
        output = restorer.denoise(x, timesteps, condition).float()
        return restorer.schedule.predict_x0(x, timesteps, output, restorer.header.prediction_type)

    @torch.no_grad()
    def _wanted(self, batch: Batch, seen: Seen) -> Tensor:
        """Embeddings [B, D] of whom each is led to."""
        if not self.settings.references:
            return self.recognizer.embed(2 * seen.cleaned - 1)
        photos = [2 * photos.float() / 255 - 1 for photos in batch["reference"]]
        return torch.stack([mean_of_units(self.recognizer.embed(each)) for each in photos])

    def _guided(self, x0: Tensor, seen: Seen, timesteps: Tensor, mask: Tensor, wanted: Tensor) -> Tensor:
        """x0 after a step whose direction is fixed: what is learned is where to take it."""

        def likeness(row: Tensor, number: int) -> Tensor:
            return cosines(self.recognizer.embed(self._decode(row)), wanted[number : number + 1])

        spread = seen.lq_latent.std((1, 2, 3))
        guidance = IdentityGuidance(self.settings.guidance, self.restorer.schedule, likeness, spread, mask)
        _, gradient = guidance.gradient(x0)
        step = guidance.step(gradient, gradient.square().mean((1, 2, 3)).sqrt())
        signal = self.restorer.schedule.sqrt_alphas_cumprod.to(x0)[timesteps]
        return x0 - signal[:, None, None, None] * step

    def _encode(self, pictures: Tensor) -> Tensor:
        return self.restorer.header.scale_factor * self.restorer.autoencoder.encode(2 * pictures - 1).float()

    def _decode(self, latents: Tensor) -> Tensor:
        """Unquantised, in [-1, 1]: what a codebook rounds away has no gradient."""
        unscaled = latents / self.restorer.header.scale_factor
        return self.restorer.autoencoder.decode(unscaled, quantize=False).float()


def new_mask(
    restorer: Restorer, kind: str, size: int, hidden: int = IdentityMaskConfig.hidden
) -> IdentityMask:
    """A mask of a kind of `KINDS` for the latents of a restorer, of pictures of `size` pixels.

    Raises:
        ValueError: a size that is no multiple of a latent cell's.
    """
    if size % restorer.downscale:
        raise ValueError(f"Crops of {size} pixels: choose a multiple of {restorer.downscale}.")
    cells = size // restorer.downscale
    channels = restorer.autoencoder.config.embed_dim
    with torch.random.fork_rng():
        torch.manual_seed(0)
        area = (cells, cells) if kind == "global" else None
        return build_mask(IdentityMaskConfig(channels, area, hidden))


def train_mask(
    mask: IdentityMask,
    restorer: Restorer,
    recognizer: Recognizer,
    samples: Samples,
    settings: MaskTraining,
    folder: Path,
    on_progress: Callable[[Progress], None] = silent,
    *,
    held: Samples | None = None,
) -> dict[str, Any]:
    """Train `mask`; returns the record of how it was made.

    See `fit` for the files in `folder` (stage "mask"), for resuming and for errors.

    Raises:
        ValueError: a mask of another restorer's latents.
    """
    check_mask(mask, restorer.autoencoder.config.embed_dim)
    made = {"base": restorer.fingerprint, "recognizer": recognizer.name, **asdict(settings)}
    del made["loop"]
    objective = MaskLoss(mask, restorer, recognizer, settings)
    fit("mask", objective, samples, settings.loop, folder, on_progress, held=held, record=made)
    mask.eval().requires_grad_(False)
    return {**made, **asdict(settings.loop)}
