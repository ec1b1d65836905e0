"""Training of a cleaner: what damaged pictures were, as far as one can say without inventing anything."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...checkpoints.errors import CheckpointError
from ...checkpoints.layouts import with_prefixes
from ...checkpoints.parts import SWINIR
from ...checkpoints.reading import read_checkpoint
from ...checkpoints.tensors import load_exactly, write_safetensors
from ...degradation import LARGE
from ...models import SwinIR, SwinIRConfig
from ...models.swinir import WindowAttention
from ...recognition import Recognizer, cosines
from ...training.data import Batch, Samples, generators
from ...training.degradation import RandomDegradation, check_shares, random_degradation
from ...training.logs import rows_of
from ...training.loop import LoopSettings, Objective, fit
from ...training.progress import Progress, silent

TINY_SWINIR = SwinIRConfig(embed_dim=64, depths=(4, 4), num_heads=(4, 4), img_size=16)
"""For small restorers: 1.8 MB in fp16, most of it in convolutions whose
width SwinIR does not let one choose, and in the buffers that its files carry."""

UNCLIPPED = 1e12
"""Norm of gradients that is never reached: a sum over pixels has large ones."""

OBJECTIVES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "l1": F.l1_loss,
    "sse": partial(F.mse_loss, reduction="sum"),
}
"""What is made least: "l1", the mean distance (DifFace, whose cleaner is DiffBIR's for faces); "sse", the sum
of squared errors over the whole batch (DiffBIR's for pictures of all kinds)."""

DEGRADATIONS = {"l1": "face", "sse": "codeformer"}
"""What those two learned from."""
PUBLISHED = {
    "l1": LoopSettings(steps=300_000, lr=5e-5, batch=32, betas=(0.9, 0.999)),
    "sse": LoopSettings(steps=150_000, lr=1e-4, batch=96, betas=(0.9, 0.999), decay=False, weight_decay=0.01),
}
"""How they learned."""
IRN_IDENTITY = 0.5
"""Weight of the identity in the loss of an Identity Recovery Network."""
TINY_LOOP = LoopSettings(steps=4000, lr=5e-4)
WIDE = 128
"""Width of the tokens from which on a network is trained as the published ones were."""


@dataclass(frozen=True)
class CleanerTraining:
    """Settings of a training of a cleaner.

    Attributes:
        objective: see `OBJECTIVES`.
        p_hq: share of samples whose LQ picture is HQ as it is, which teaches it to leave good pictures alone.
        identity: weight of 1 - cosine of a recogniser's embeddings of cleaned and good picture, each of which
            has to be a face as in FFHQ; see `IRN_IDENTITY`.
        edges: weight of the mean distance between the gradients of both.
    """

    objective: str = "l1"
    degradation: RandomDegradation = field(default_factory=lambda: random_degradation("", 0))
    p_hq: float = 0.0
    identity: float = 0.0
    edges: float = 0.0
    loop: LoopSettings = field(default_factory=lambda: TINY_LOOP)

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVES:
            raise ValueError(f"No objective named {self.objective!r}; choose one of {', '.join(OBJECTIVES)}.")
        check_shares(p_hq=self.p_hq)

    @classmethod
    def suited(
        cls, config: SwinIRConfig, size: int, objective: str = "l1", preset: str = ""
    ) -> CleanerTraining:
        """What suits a network of that size, and crops of `size` pixels.

        Args:
            preset: name of a degradation; "" for what the published cleaner of this objective learned from,
                and for small crops for what the small restorers did.
        """
        settings = cls(objective)
        name = preset or (DEGRADATIONS[objective] if size >= LARGE else "")
        loop = PUBLISHED[objective] if config.embed_dim >= WIDE else TINY_LOOP
        loop = replace(loop, clip=UNCLIPPED) if objective == "sse" else loop
        return replace(settings, degradation=random_degradation(name, size), loop=loop)


class CleaningLoss(Objective):
    """Distance between what a network makes of degraded pictures and what they were.

    Args:
        recognizer: for `CleanerTraining.identity`.
    """

    def __init__(
        self, model: SwinIR, settings: CleanerTraining, recognizer: Recognizer | None = None
    ) -> None:
        super().__init__()
        self.model, self.settings = model, settings
        self.recognizer = recognizer
        self.frozen = recognizer.network.eval().requires_grad_(False) if recognizer else None

    def forward(self, batch: Batch) -> Tensor:
        hq, lq = self._pairs(batch)
        cleaned, settings = self.model(lq).float(), self.settings
        loss = OBJECTIVES[settings.objective](cleaned, hq)
        if settings.edges:
            loss = loss + settings.edges * sum(
                F.l1_loss(cleaned.diff(dim=dim), hq.diff(dim=dim)) for dim in (-1, -2)
            )
        if self.recognizer:
            with torch.no_grad():
                wanted = self.recognizer.embed(2 * hq - 1)
            likeness = cosines(self.recognizer.embed(2 * cleaned - 1), wanted)
            loss = loss + settings.identity * (1 - likeness).mean()
        return loss

    def _pairs(self, batch: Batch) -> tuple[Tensor, Tensor]:
        images = batch["image"].float() / 255
        return self.settings.degradation(images, generators(batch), self.settings.p_hq)

    @torch.no_grad()
    def sheet(self, batch: Batch) -> Tensor:
        """LQ, cleaned, HQ."""
        hq, lq = self._pairs(batch)
        return rows_of(lq, self.model(lq).clamp(0, 1), hq)


def new_swinir(config: SwinIRConfig, seed: int = 0) -> SwinIR:
    """A network that has learned nothing yet, drawn as SwinIR's was."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = SwinIR(config)
        for module in model.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
            if isinstance(module, WindowAttention):
                nn.init.trunc_normal_(module.relative_position_bias_table, std=0.02)
    return model


def open_swinir(path: Path | str) -> SwinIR:
    """The SwinIR in a file, alone or in a full DiffBIR checkpoint, to go on with, in fp32.

    Raises:
        FileNotFoundError, PermissionError, CheckpointError: not readable, damaged or without one.
    """
    weights = SWINIR.of(with_prefixes(read_checkpoint(path)[0]))
    if not weights:
        raise CheckpointError(f"{Path(path).name} holds no SwinIR: only that can be trained further.")
    config = SWINIR.config_from(weights)
    SWINIR.check_fit(weights, config)  # before there is memory for what it claims
    model = SwinIR(config)
    load_exactly(model, weights, SWINIR.title)
    return model


def train_cleaner(
    model: SwinIR,
    samples: Samples,
    settings: CleanerTraining,
    folder: Path,
    on_progress: Callable[[Progress], None] = silent,
    *,
    held: Samples | None = None,
    recognizer: Recognizer | None = None,
) -> dict[str, Any]:
    """Train `model`, which then is the cleaner; returns the record of how it was made.

    See `fit` for the files in `folder` (stage "cleaner"), for resuming and for errors.

    Raises:
        ValueError: a weight for the identity and no recogniser, or the other way round.
    """
    if bool(settings.identity) != (recognizer is not None):
        raise ValueError(
            "The loss of identity needs a face recogniser and a weight above 0: give both, or neither."
        )
    objective = CleaningLoss(model, settings, recognizer)
    made = {"config": asdict(model.config), **asdict(settings)}
    if recognizer:
        made["recognizer"] = recognizer.name
    del made["loop"]
    fit("cleaner", objective, samples, settings.loop, folder, on_progress, held=held, record=made)
    model.eval().requires_grad_(False)
    return {**made, **asdict(settings.loop)}


def save_cleaner(
    model: SwinIR, path: Path | str, record: dict[str, Any], dtype: torch.dtype = torch.float16
) -> None:
    """Write a file that `load_cleaner`, and programs that know the published ones, load.

    See `write_safetensors` for the errors.
    """
    write_safetensors(path, model.state_dict(), {"training": json.dumps(record)}, dtype)
