"""Training of a start for adapters: over many people, blocks learn to read photos of one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...restorers.base import Restorer
from ...restorers.changes import Addition, Changes
from ...training.data import Batch, Samples, generators, normal
from ...training.degradation import RandomDegradation, check_shares, random_degradation
from ...training.logs import rows_of
from ...training.loop import LoopSettings, fit
from ...training.pairs import moments, pair_moments
from ...training.progress import Progress, silent
from .header import check_choices
from .loss import PFStorerLoss
from .settings import AdapterTraining
from .start import AdapterStart, StartHeader

STAGE = "start"
SHEET_ROWS, SHEET_STEPS = 4, 2
LOOKED_AT = (999, 500)
"""Time steps at which the losses on held-back people are written down."""
WIDE = 256
"""Channels of a U-Net from which on it is trained in many steps of large batches."""


@dataclass(frozen=True)
class StartTraining:
    """How to train a start. The word S* stays what it is before a person is learned: learned of many people
    it would be a prompt for faces, and a person's own S* would not begin with it.

    Attributes:
        lambda_gen, null_lq, sites, reference_timestep, gamma_lr: see `AdapterTraining`.
        p_hq: share of samples whose LQ picture is HQ as it is.
        shift: draws time steps nearer to pure noise where above 1, see `BaseTraining`.
        checkpointing: recompute activations in the backward pass, for the sake of memory.
    """

    lambda_gen: float = 0.1
    null_lq: str = "drop"
    sites: tuple[str, ...] = ()
    reference_timestep: str = "zero"
    gamma_lr: float | None = None
    p_hq: float = 0.03
    shift: float = 1.0
    checkpointing: bool = False
    degradation: RandomDegradation = field(default_factory=lambda: random_degradation("", 0))
    loop: LoopSettings = field(default_factory=lambda: default_loop(WIDE))

    def __post_init__(self) -> None:
        check_shares(p_hq=self.p_hq)
        check_choices(self.null_lq, self.reference_timestep)
        if not self.shift > 0:
            raise ValueError(f"shift must be above 0, got {self.shift}.")

    @property
    def terms(self) -> AdapterTraining:
        """Of one person's training: the terms that a start shares with it. L_Pers is about S* alone."""
        return AdapterTraining(
            lr=self.loop.lr,
            gamma_lr=self.gamma_lr,
            lambda_gen=self.lambda_gen,
            lambda_pers=0.0,
            null_lq=self.null_lq,
            sites=self.sites,
            reference_timestep=self.reference_timestep,
            seed=self.loop.seed,
        )


def default_loop(width: int) -> LoopSettings:
    """For a U-Net of so many channels. The rates are those of one person's training."""
    wide, rate = width >= WIDE, AdapterTraining().rate(width)
    return LoopSettings(
        steps=20_000 if wide else 1500,
        lr=rate,
        batch=16 if wide else 8,
        weight_decay=0.01,
        betas=(0.9, 0.999),
        ema=0.999 if wide else 0.99,
    )


class StartLoss(PFStorerLoss):
    """L_Diff + λ_Gen·L_Gen of people's samples, each with a photo of its own person ("reference" of a
    sample), for which everything random is drawn from their seeds."""

    def __init__(self, restorer: Restorer, settings: StartTraining) -> None:
        super().__init__(restorer, settings.terms)
        self.training_settings = settings
        self.token.requires_grad_(False)
        self.autoencoder = restorer.autoencoder.eval().requires_grad_(False)
        self.unet.checkpoint_gradients(settings.checkpointing)

    def drawn(self, batch: Batch) -> tuple[Any, ...]:
        rngs = generators(batch)
        hq, lq = self._pair(batch, rngs)
        return self.draw(hq, lq, self._reference(batch), rngs)

    def time_step(self, rng: np.random.Generator) -> int:
        total, shift = len(self.restorer.schedule), self.training_settings.shift
        uniform = super().time_step(rng)
        return int(shift * uniform / (1 + (shift - 1) * uniform / total))

    @torch.no_grad()
    def figures(self, batch: Batch) -> dict[str, float]:
        """L_Diff at the time steps `LOOKED_AT` with the person's photo, with another one's, and without the
        blocks: whether photos matter."""
        rngs = generators(batch)
        hq, lq = self._pair(batch, rngs)
        noise, condition, found = normal(hq, rngs), self.restorer.condition(lq), {}
        for step in LOOKED_AT:
            t = torch.full((len(hq),), min(step, len(self.restorer.schedule) - 1), device=hq.device)
            for name, reference in self._references(batch).items():
                changes, context = self._changed(reference, t)
                error = self.restorer.denoising_error(hq, t, noise, condition, context, changes)
                found[f"{name} at {step}"] = float(error)
        return found

    @torch.no_grad()
    def sheet(self, batch: Batch) -> Tensor:
        """A bad picture, what becomes of it without the blocks, with a photo of the person, with another
        one's; the picture, and the person's photo."""
        batch = {key: value[:SHEET_ROWS] for key, value in batch.items()}
        rngs, restorer = generators(batch), self.restorer
        hq, lq = self._pair(batch, rngs)
        condition, noise, restored = restorer.condition(lq), normal(hq, rngs), list[Tensor]()
        for reference in self._references(batch).values():

            def denoise(x: Tensor, t: Tensor, reference: Tensor | None = reference) -> Tensor:
                changes, context = self._changed(reference, t)
                return restorer.denoise(x, t, condition, context, changes).float()

            generator = torch.Generator().manual_seed(0)
            restored.append(
                restorer.sample(condition, SHEET_STEPS, noise, denoise=denoise, generator=generator)
            )
        pictures = (lq, *restored, hq, self._reference(batch))
        return rows_of(*(restorer.decode(latents).clamp(0, 1) for latents in pictures))

    def start(self, steps: int, people: int) -> AdapterStart:
        """What has been learned so far, in fp32 on the CPU."""
        s = self.training_settings
        blocks = {site: self._block(site).cpu().eval().requires_grad_(False) for site in self.sites}
        made = {key: value for key, value in asdict(s).items() if key not in ("loop", "checkpointing")}
        header = StartHeader(
            base=self.restorer.fingerprint,
            sites=self.sites,
            heads=[block.attn1.heads for block in blocks.values()],
            init_word=self.settings.init_word,
            null_lq=s.null_lq,
            reference_timestep=s.reference_timestep,
            steps=steps,
            people=people,
            training={**made, **asdict(s.loop)},
        )
        return AdapterStart(header, blocks)

    def _references(self, batch: Batch) -> dict[str, Tensor | None]:
        own = self._reference(batch)
        return {"base": None, "own": own, "another's": own.roll(1, 0)}

    def _changed(self, reference: Tensor | None, t: Tensor) -> tuple[Changes, Tensor]:
        """What the photos [B, C, h, w] of each row change, at these time steps; and the prompt's context."""
        context, words = self.called(torch.zeros_like(t))
        sites: dict[str, list[Addition]] = {}
        if reference is not None:
            sites, _ = self.personalized(*self.seen(reference, t), context, words)
        return Changes(sites), context

    def _pair(self, batch: Batch, rngs: list[np.random.Generator]) -> tuple[Tensor, Tensor]:
        if "hq" in batch:
            return self._latents(batch["hq"]), self._latents(batch["lq"])
        images, s = batch["image"].float() / 255, self.training_settings
        hq, lq = s.degradation(images, rngs, s.p_hq)
        pair = pair_moments(self.autoencoder, hq, lq, self.restorer.cleaner)
        return self._latents(pair[0]), self._latents(pair[1])

    def _reference(self, batch: Batch) -> Tensor:
        photos = batch["reference"][:, 0]
        return self._latents(photos if "hq" in batch else moments(self.autoencoder, photos.float() / 255))

    def _latents(self, of: Tensor) -> Tensor:
        """The modes, scaled, as a person's training sees them."""
        return of.float().chunk(2, dim=1)[0] * self.restorer.header.scale_factor


def train_start(
    restorer: Restorer,
    samples: Samples,
    settings: StartTraining,
    folder: Path,
    on_progress: Callable[[Progress], None] = silent,
    *,
    held: Samples | None = None,
    people: int = 0,
) -> AdapterStart:
    """Train a start for adapters of `restorer`, which stays as it is.

    See `fit` for the files in `folder` (stage "start"), for resuming and for errors.

    Args:
        restorer: with its text tower.
        samples: each with one "reference" at least, of the same person.
        people: how many there are in them.
    """
    objective = StartLoss(restorer, settings)
    made = {key: value for key, value in asdict(settings).items() if key not in ("loop", "checkpointing")}
    if "hq" in samples[0]:
        del made["degradation"], made["p_hq"]
    made = {"base": restorer.fingerprint, **made}
    losses = fit(STAGE, objective, samples, settings.loop, folder, on_progress, held=held, record=made)
    restorer.unet.checkpoint_gradients(False)
    return objective.start(len(losses), people)
