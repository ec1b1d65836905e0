"""Training of the base restorer: the U-Net, and what reads the LQ picture for it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from ...checkpoints.header import RestorerHeader
from ...models.layers import SelfAttention
from ...training.data import Batch, Samples, generators, normal
from ...training.degradation import RandomDegradation, check_shares, random_degradation
from ...training.logs import rows_of
from ...training.loop import LoopSettings, Objective, fit
from ...training.pairs import moments, pair_moments
from ...training.progress import Progress, silent
from ..base import Restorer
from ..condition import UNCONDITIONAL
from ..reading import looking_at
from ..trainable import TrainableRestorer, contexts
from .denoising import Evaluate, denoising_loss, evaluated

SHEET_STEPS = 20
LOOKED_AT = (999, 700, 400, 150)
"""Time steps at which the loss on held-back pictures is written down."""
AT_THE_RIM = re.compile(r"(\w+\.)?(input_blocks\.0|out|zero_convs|middle_block_out)\.")
"""Layers of a U-Net, or of one that reads the LQ latent for it, whose matrices Muon is not for."""

NULL_LQ = {"sft": 0.0, "unet": 1.0, "all": 0.15, "control": 0.0, "prior": 0.1}
EMPTY_PROMPT = {"sft": 1.0, "unet": 0.1, "all": 0.5, "control": 1.0, "prior": 1.0}
"""Defaults of `BaseTraining` by what is trained."""
CHOOSE = ("all", "prior")
"""What may be trained without an LQ picture as often as one likes."""


@dataclass(frozen=True)
class BaseTraining:
    """Settings of a training of the base restorer; the defaults of `loop` are StableSR's.

    Attributes:
        train: "sft", "unet", "all", "control" or "prior": see `is_trained`.
        null_lq: share of samples without an LQ picture, so that the U-Net alone stays a generator; None takes
            `NULL_LQ`. Only "all" and "prior" can choose.
        empty_prompt: share of samples whose caption is left out; None takes `EMPTY_PROMPT`.
        degradation: what makes LQ pictures of HQ ones; ignored for latents that were encoded before.
        p_hq: share of samples whose LQ picture is HQ as it is (PFStorer: 0.03).
        shift: draws time steps nearer to pure noise where above 1 (Stable Diffusion 3, equation 23), which
            suits a small network that samples in few steps; 1 draws them uniformly.
        checkpointing: recompute activations in the backward pass, for the sake of memory.
        group: so many pictures share the steps of their degradation and are degraded at once, see
            `RandomDegradation.in_groups`; 1: each one alone.
        compiled: rows with and without an LQ picture are one graph, which torch compiles.
        references: so many photos of the same person does it learn to look at in its self-attentions, as
            `read_photos` reads them ("reference" of a sample); 0: none. "prior" only.
        no_reference: share of samples that see none of them.
    """

    train: str = "sft"
    null_lq: float | None = None
    empty_prompt: float | None = None
    degradation: RandomDegradation = field(default_factory=lambda: random_degradation("", 0))
    p_hq: float = 0.03
    shift: float = 1.0
    checkpointing: bool = False
    group: int = 1
    compiled: bool = False
    references: int = 0
    no_reference: float = 0.2
    loop: LoopSettings = field(
        default_factory=lambda: LoopSettings(
            steps=10_000, lr=5e-5, batch=192, decay=False, betas=(0.9, 0.999), weight_decay=0.01, ema=0.9999
        )
    )

    def __post_init__(self) -> None:
        if self.train not in NULL_LQ:
            raise ValueError(f"No training of {self.train!r}; choose one of {', '.join(NULL_LQ)}.")
        check_shares(
            null_lq=self.null_lq,
            empty_prompt=self.empty_prompt,
            p_hq=self.p_hq,
            no_reference=self.no_reference,
        )
        if self.references < 0 or (self.references and self.train != "prior"):
            raise ValueError(f"{self.references} references: 0 or more for a prior, and 0 for all others.")
        if self.group < 1:
            raise ValueError(f"group must be 1 or above, got {self.group}.")
        if not self.shift > 0:
            raise ValueError(f"shift must be above 0, got {self.shift}.")
        if self.train not in CHOOSE and self.null_lq not in (None, NULL_LQ[self.train]):
            raise ValueError(
                f"null_lq is {NULL_LQ[self.train]:g} where {self.train} is trained: what has no part in a "
                "sample cannot learn from it. Choose a share for `all` and `prior` only."
            )

    @property
    def stage(self) -> str:
        """Names the files of its run."""
        return f"base-{self.train}"

    @property
    def no_lq(self) -> float:
        return NULL_LQ[self.train] if self.null_lq is None else self.null_lq

    @property
    def no_prompt(self) -> float:
        return EMPTY_PROMPT[self.train] if self.empty_prompt is None else self.empty_prompt


class DenoisingLoss(Objective):
    """`denoising_loss` of samples, for which everything random is drawn from their seeds."""

    def __init__(self, start: TrainableRestorer, settings: BaseTraining) -> None:
        super().__init__()
        self.start, self.settings = start.restorer, settings
        self.unet, self.text = self.start.unet, self.start.text
        self.autoencoder = self.start.autoencoder.eval().requires_grad_(False)
        self.null_context: Tensor
        self.register_buffer("null_context", self.start.null_context, persistent=False)
        self.some_idle = 0 < settings.no_lq < 1
        self.unet.checkpoint_gradients(settings.checkpointing)
        self.evaluate: Evaluate | None = None
        if settings.references:
            self.evaluate = evaluated
        elif settings.compiled and settings.train != "unet":
            self.evaluate = torch.compile(evaluated, dynamic=False)

    @property
    def restorer(self) -> Restorer:
        """With its context where the networks are."""
        return replace(self.start, null_context=self.null_context)

    def forward(self, batch: Batch) -> Tensor:
        rngs = generators(batch)
        device = batch["seed"].device
        # In this order for all samples, so that a setting changes nothing but what it is about.
        t = torch.tensor([self._time_step(rng) for rng in rngs], device=device)
        null_lq = torch.tensor([rng.random() < self.settings.no_lq for rng in rngs], device=device)
        empty = [rng.random() < self.settings.no_prompt for rng in rngs]
        shown = (
            [rng.random() >= self.settings.no_reference for rng in rngs] if self.settings.references else []
        )
        captions = ["" if drop else text for drop, text in zip(empty, batch["caption"], strict=True)]
        moments_hq, moments_lq = self._moments(batch, rngs)
        hq = self._latent(moments_hq, rngs)
        # SFT learns from draws, and all others from modes (DiffBIR, ReF-LDM).
        drawn = self.start.header.condition == "sft"
        lq = self._latent(moments_lq, rngs) if drawn else self._mode(moments_lq)
        return denoising_loss(
            self.restorer,
            x0=hq,
            lq_latent=lq,
            noise=normal(hq, rngs),
            t=t,
            context=self._contexts(captions, hq),
            null_lq=null_lq,
            evaluate=self.evaluate,
            attention=self._attention(batch, torch.tensor(shown, device=device)) if shown else None,
        )

    def _attention(self, batch: Batch, rows: Tensor) -> SelfAttention:
        """By which these rows, bool [B], look at the photos of their persons (ReF-LDM's CacheKV)."""
        photos = rearrange(batch["reference"], "b r c h w -> (b r) c h w")
        photos = photos if "hq" in batch else moments(self.autoencoder, photos.float() / 255)
        latents = rearrange(self._mode(photos), "(b r) c h w -> b r c h w", b=len(rows))
        return looking_at(self.unet, latents, rows)

    def matrices(self) -> list[torch.nn.Parameter]:
        """All of the U-Net's but those next to latents and the zero convolutions of a control network."""
        return [p for name, p in self.unet.named_parameters() if p.ndim > 1 and not AT_THE_RIM.match(name)]

    def _time_step(self, rng: np.random.Generator) -> int:
        total, shift = len(self.start.schedule), self.settings.shift
        uniform = int(rng.integers(total))
        return int(shift * uniform / (1 + (shift - 1) * uniform / total))

    def _moments(self, batch: Batch, rngs: list[np.random.Generator]) -> tuple[Tensor, Tensor]:
        if "hq" in batch:
            return batch["hq"], batch["lq"]
        images, s = batch["image"].float() / 255, self.settings
        if s.group > 1:
            pair = s.degradation.in_groups(images, rngs, s.p_hq, s.group)
        else:
            pair = s.degradation(images, rngs, s.p_hq)
        return pair_moments(self.autoencoder, *pair, self.start.cleaner)

    def _mode(self, moments: Tensor) -> Tensor:
        return moments.float().chunk(2, dim=1)[0] * self.start.header.scale_factor

    def _latent(self, moments: Tensor, rngs: list[np.random.Generator]) -> Tensor:
        return self.restorer.draw_latent(moments, normal(moments.chunk(2, dim=1)[0].float(), rngs))

    def _contexts(self, captions: list[str], like: Tensor) -> Tensor:
        return contexts(self.restorer, captions).to(like.device)

    @torch.no_grad()
    def figures(self, batch: Batch) -> dict[str, float]:
        """The loss at the time steps `LOOKED_AT`, on the empty prompt, with the LQ pictures."""
        rngs, restorer = generators(batch), self.restorer
        hq, lq = (self._mode(m) for m in self._moments(batch, rngs))
        condition = UNCONDITIONAL if self.settings.train == "unet" else restorer.condition(lq)
        noise, context = normal(hq, rngs), self._contexts([""] * len(hq), hq)
        found = {}
        for t in LOOKED_AT:
            at = torch.full((len(hq),), min(t, len(restorer.schedule) - 1), device=hq.device)
            found[f"loss at {t}"] = float(restorer.denoising_error(hq, at, noise, condition, context))
        return found

    @torch.no_grad()
    def sheet(self, batch: Batch) -> Tensor:
        """LQ, cleaned where there is a cleaner, what becomes of it in `SHEET_STEPS` steps, HQ; for the plain
        U-Net what it draws for the caption, and HQ."""
        rngs = generators(batch)
        restorer, plain = self.restorer, self.settings.train == "unet"
        hq, lq = (self._mode(m) for m in self._moments(batch, rngs))
        captions = batch["caption"] if plain else [""] * len(hq)
        x = restorer.sample(
            UNCONDITIONAL if plain else restorer.condition(lq),
            SHEET_STEPS,
            normal(hq, rngs),
            context=self._contexts(captions, hq),
            generator=torch.Generator().manual_seed(0),
        )
        return rows_of(*(restorer.decode(latent) for latent in ([x, hq] if plain else [lq, x, hq])))


def train_base(
    start: TrainableRestorer,
    samples: Samples,
    settings: BaseTraining,
    folder: Path,
    on_progress: Callable[[Progress], None] = silent,
    *,
    held: Samples | None = None,
) -> RestorerHeader:
    """Train the networks of `start`, which then are the restorer; returns the header of its file.

    See `fit` for the files in `folder` (stage "base-" and what is trained), for resuming and for errors.
    """
    objective = DenoisingLoss(start, settings)
    made = {**asdict(settings), "null_lq": settings.no_lq, "empty_prompt": settings.no_prompt}
    del made["loop"], made["checkpointing"], made["compiled"]
    if settings.group == 1:
        del made["group"]
    if not settings.references:
        del made["references"], made["no_reference"]
    if "hq" in samples[0]:
        del made["degradation"], made["p_hq"]
    fit(settings.stage, objective, samples, settings.loop, folder, on_progress, held=held, record=made)
    start.restorer.unet.checkpoint_gradients(False)
    before = dict(start.restorer.header.training)
    history = [*before.pop("stages", [before] if before else []), {**made, **asdict(settings.loop)}]
    return replace(start.restorer.header, training={"stages": history})
