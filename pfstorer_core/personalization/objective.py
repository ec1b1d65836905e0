"""What a method that learns a person has to say: its settings, and what it minimises."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol

import torch
from torch import Tensor

from ..restorers.base import Restorer
from ..training.data import Batch, Samples
from ..training.degradation import RandomDegradation, check_shares, random_degradation
from ..training.logs import rows_of
from ..training.loop import LoopSettings, Objective
from ..training.progress import OnTick, Progress
from .base import AdapterT
from .identity import personal_context
from .photos import Pairs, Photos

STAGE = "identity"
PREVIEW_STEPS = 10
PREVIEWS = (0, 10, 25, 50)
"""Steps after which there is a preview early on, when most changes."""
PREVIEW_TILE = 32
"""Side in latent cells of the tiles that previews are decoded in: beside a training there is no room for the
decoder of a whole picture."""
MOST_STEPS = 100_000
"""Of a training, whose losses go into the adapter's header."""


class Start(Protocol):
    """What a method's adapters may begin with: learned of many people, before any of them."""

    @property
    def fingerprint(self) -> str:
        """Tells it from others."""
        ...


@dataclass(frozen=True)
class PersonTraining(Generic[AdapterT]):
    """How to learn a person, as far as all methods share it.

    Attributes:
        least_steps: 0 of a method whose adapters may be what they began with.
        lr: peak learning rate; None for what suits the restorer.
        p_hq: share of samples whose LQ picture is HQ as it is.
        degradation: a preset's name; "" for what suits the restorer's size.
        pool: pairs of latents that are at hand; one is exchanged in every step.
        preview_every: steps between previews; 0 for none, None for `PREVIEWS` and then every 100.
    """

    method: ClassVar[str]
    least_steps: ClassVar[int] = 1

    steps: int = 500
    batch: int = 4
    lr: float | None = None
    weight_decay: float = 0.01
    p_hq: float = 0.03
    degradation: str = ""
    pool: int = 128
    seed: int = 0
    bf16: bool = True
    save_every: int = 100
    preview_every: int | None = None

    def __post_init__(self) -> None:
        if not self.weight_decay >= 0:
            raise ValueError(f"weight_decay must be 0 or more, got {self.weight_decay}.")
        check_shares(p_hq=self.p_hq)
        random_degradation(self.degradation, 0)
        if not self.least_steps <= self.steps <= MOST_STEPS:
            raise ValueError(f"steps must be from {self.least_steps} to {MOST_STEPS:,}, got {self.steps}.")
        if self.pool < 1:
            raise ValueError(f"pool must be 1 or more, got {self.pool}.")

    def rate(self, width: int) -> float:
        """The peak learning rate for a U-Net of `width` channels, where `lr` does not say."""
        raise NotImplementedError

    def loop(self, width: int) -> LoopSettings:
        return LoopSettings(
            steps=self.steps,
            lr=self.lr or self.rate(width),
            batch=self.batch,
            warmup=0,
            weight_decay=self.weight_decay,
            betas=(0.9, 0.999),
            ema=0.0,
            seed=self.seed,
            bf16=self.bf16,
            save_every=self.save_every,
            validate_every=100 if self.preview_every is None else self.preview_every,
            validate_at=PREVIEWS if self.preview_every is None else (),
        )


class PersonObjective(Objective, Generic[AdapterT]):
    """What a method minimises, or what it does first of several stages. `forward(batch)`, of `samples`, gives
    the loss.

    Attributes:
        settings: the method's own.
        stage: names its files and its progress.
    """

    restorer: Restorer
    settings: Any
    stage: str = STAGE

    def loop(self) -> LoopSettings:
        """How it is minimised; `steps` counts those of the stages before, too."""
        return self.settings.loop(self.restorer.unet.config.model_channels)

    def prepare(self, shared: Path, on_progress: Callable[[Progress], None], on_tick: OnTick) -> None:
        """Whatever takes long, once before the first step. `shared` is a folder for what other trainings can
        use, too."""

    def pairs(self, photos: Photos, pool: int, batch: int, seed: int, p_hq: float, on_tick: OnTick) -> Pairs:
        """Photos and bad copies of them, such as previews show."""
        return Pairs(self.restorer, photos, self.degradation(), p_hq, pool, batch, seed, on_tick)

    def samples(self, photos: Photos, on_tick: OnTick) -> Samples:
        """What it learns from; what has a `close` is closed in the end."""
        s = self.settings
        return self.pairs(photos, s.pool, s.batch, s.seed, s.p_hq, on_tick)

    def degradation(self) -> RandomDegradation:
        return random_degradation(self.settings.degradation, self.restorer.header.image_size)

    def following(self) -> PersonObjective[AdapterT] | None:
        """The next stage, once this one has learned; None: it was the last."""
        return None

    @abstractmethod
    def adapter(self, run_key: str, steps: int, losses: Sequence[float]) -> AdapterT:
        """What has been learned so far, in fp32 on the CPU."""

    @abstractmethod
    def take(self, begun: AdapterT) -> None:
        """Go on from what an adapter of this method, of fewer steps, has learned."""

    def take_start(self, start: Any) -> None:
        """Begin with a start of this method; raises ValueError where it does not fit, or there are none."""
        raise ValueError(f"Adapters of the method {self.settings.method} have no start: leave it out.")

    @torch.no_grad()
    def sheet(self, batch: Batch) -> Tensor:
        """A bad picture, what the base makes of it, what the person's restorer makes of it so far, the
        photo."""
        restorer = self.restorer
        lq, hq = batch["lq"].float(), batch["hq"].float()
        condition = restorer.condition(lq)
        adapter = self.adapter("", 0, []).to(restorer.device, restorer.dtype)
        person = adapter.bind(restorer.unet, restorer.schedule)
        noise = torch.randn(lq.shape, generator=torch.Generator().manual_seed(0)).to(lq)

        def denoise(x: Tensor, t: Tensor) -> Tensor:
            changes = person.prepare(int(t[0]))
            context = personal_context(restorer.null_context, [changes], [None])
            return restorer.denoise(x.to(context), t, condition, context, changes).float()

        base, personal = (
            restorer.sample(
                condition, PREVIEW_STEPS, noise, denoise=how, generator=torch.Generator().manual_seed(0)
            )
            for how in (None, denoise)
        )
        pictures = [restorer.decode(latent, tile=PREVIEW_TILE) for latent in (lq, base, personal, hq)]
        return rows_of(*(picture.clamp(0, 1) for picture in pictures))
