"""Learning a person, by any method: what all trainings of adapters share."""

from __future__ import annotations

import hashlib
import json
import time
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, Generic

import torch
from torch import Tensor

from ..imaging.faces import Box
from ..restorers.base import Restorer
from ..training.data import Batch, collate
from ..training.degradation import check_shares, random_degradation
from ..training.interrupts import asking
from ..training.logs import rows_of
from ..training.loop import LoopSettings, Objective, fit, learning_rate, to_device
from ..training.processes import Processes
from ..training.progress import OnTick, Progress, never, silent
from ..training.state import kept_losses
from .base import AdapterT
from .header import FIRST_METHOD
from .identity import personal_context
from .photos import Pairs, Photos, digest_of, in_order
from .registry import method_named

STAGE = "identity"
PREVIEW_STEPS = 10
PREVIEWS = (0, 10, 25, 50)
"""Steps after which there is a preview early on, when most changes."""
PREVIEW_TILE = 32
"""Side in latent cells of the tiles that previews are decoded in: beside a training there is no room for the
decoder of a whole picture."""
STEP_OVER_FORWARD = 3.0
"""About how many forward passes of the losses a training step takes."""

MOST_STEPS = 100_000
"""Of a training, whose losses go into the adapter's header."""

FREE = ("save_every", "preview_every")
"""Settings that change nothing of what is learned."""


@dataclass(frozen=True)
class PersonTraining(Generic[AdapterT]):
    """How to learn a person, as far as all methods share it.

    Attributes:
        lr: peak learning rate; None for what suits the restorer.
        p_hq: share of samples whose LQ picture is HQ as it is.
        degradation: a preset's name; "" for what suits the restorer's size.
        pool: pairs of latents that are at hand; one is exchanged in every step.
        preview_every: steps between previews; 0 for none, None for `PREVIEWS` and then every 100.
    """

    method: ClassVar[str]

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
        if not 1 <= self.steps <= MOST_STEPS:
            raise ValueError(f"steps must be from 1 to {MOST_STEPS:,}, got {self.steps}.")
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
    """What a method minimises. `forward(batch)`, of `Pairs`, gives the loss."""

    restorer: Restorer

    @abstractmethod
    def adapter(self, run_key: str, steps: int, losses: Sequence[float]) -> AdapterT:
        """What has been learned so far, in fp32 on the CPU."""

    @abstractmethod
    def take(self, begun: AdapterT) -> None:
        """Go on from what an adapter of this method, of fewer steps, has learned."""

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


def train_identity_adapter(
    restorer: Restorer,
    photos: Sequence[Tensor],
    settings: PersonTraining[AdapterT] | None = None,
    *,
    boxes: Sequence[Box | None] | None = None,
    folder: Path | str | None = None,
    on_progress: Callable[[Progress], None] = silent,
    key: str = "",
    on_tick: OnTick = never,
    begun: AdapterT | None = None,
) -> AdapterT:
    """Learn a person.

    Args:
        restorer: with its text tower, where the method needs one.
        photos: 1…10 good photos of the person [3, H, W] or [1, 3, H, W] in [0, 1], of any sizes.
        settings: of one of the methods (`AdapterTraining`, `LoRATraining`), which they choose; None for
            PFStorer's own.
        boxes: of the face in each photo (left, top, right, bottom) in pixels, where it is small.
        folder: for what a stopped training goes on from; None forgets it.
        on_progress: called before the first step, with a guess of how long it will take, and after each;
            raise in it to stop.
        key: what `run_key` gave, where that is known already.
        on_tick: called in between, a few times a second; raise in it to stop, as in `on_progress`.
        begun: what the same training has come to in fewer steps, to go on from where `folder` has no state.
    Raises:
        ValueError: no photo, too many, one that shows nothing; a setting out of range; or a restorer without
            a text tower.
    """
    settings = settings or default_settings()
    if folder is None:
        with TemporaryDirectory() as temporary:
            return train_identity_adapter(
                restorer, photos, settings, boxes=boxes, folder=temporary, on_progress=on_progress, key=key,
                on_tick=on_tick, begun=begun,
            )  # fmt: skip
    networks = (restorer.unet, restorer.autoencoder, *([restorer.text] if restorer.text else []))
    key = key or run_key(restorer.fingerprint, photos, settings, boxes)
    photos, boxes = in_order(photos, boxes)
    with asking(on_tick, *networks):
        return _train(restorer, photos, boxes, settings, Path(folder), on_progress, key, on_tick, begun)


def default_settings(method: str = FIRST_METHOD) -> PersonTraining[Any]:
    """Of a method's training; raises ValueError where there is no such method, or nothing to train."""
    found = method_named(method, "The training")
    if found.settings is None:
        raise ValueError(f"{found.title} has nothing to train: choose another method.")
    return found.settings()


def settings_of(method: str, given: Mapping[str, Any]) -> PersonTraining:
    """Of a method's training, with some of its fields; raises ValueError where it has no such field."""
    kind = type(default_settings(method))
    known = [field.name for field in fields(kind)]
    if strange := [name for name in given if name not in known]:
        raise ValueError(f"The method {method} has no {strange[0]}: leave it out. It has {', '.join(known)}.")
    return kind(**given)


def _train(
    restorer: Restorer,
    photos: Sequence[Tensor],
    boxes: Sequence[Box | None],
    settings: PersonTraining[AdapterT],
    folder: Path,
    on_progress: Callable[[Progress], None],
    key: str,
    on_tick: OnTick,
    begun: AdapterT | None,
) -> AdapterT:
    seen = Photos.of(restorer, photos, boxes, on_tick)
    make = method_named(settings.method, "The training").objective
    assert make is not None
    objective: PersonObjective[AdapterT] = make(restorer, seen, settings).to(restorer.device)
    loop = settings.loop(restorer.unet.config.model_channels)
    history = _taken(objective, begun, loop) if begun else []
    how, s = random_degradation(settings.degradation, restorer.header.image_size), settings
    pairs = Pairs(restorer, seen, how, s.p_hq, s.pool, s.batch, s.seed, on_tick)
    held = Pairs(restorer, seen, how, 0.0, 1, 1, s.seed + 1, on_tick)
    try:
        done = len(written_losses(folder)) or len(history)
        on_progress(_forecast(objective, pairs, settings, done))
        losses = fit(
            STAGE, objective, pairs, loop, folder, on_progress, held=held, record={"run_key": key},
            processes=Processes(restorer.device), begun=history, pictures=False,
        )  # fmt: skip
        return objective.adapter(key, settings.steps, losses)
    finally:
        for drawn in (pairs, held):
            drawn.close()
        objective.to(restorer.device)


def _taken(
    objective: PersonObjective[AdapterT], begun: AdapterT, loop: LoopSettings
) -> list[tuple[float, float]]:
    """Loss and rate of the steps that an adapter, which is gone on from, has been trained for."""
    objective.take(begun)
    earlier = replace(loop, steps=begun.header.steps)
    return [(loss, learning_rate(earlier, step)) for step, loss in enumerate(begun.header.losses)]


def _forecast(
    objective: PersonObjective[Any], pairs: Pairs, settings: PersonTraining[Any], done: int
) -> Progress:
    """How long the training will take, from one forward pass of its first step."""
    batch = collate([pairs[k] for k in range(settings.batch)])
    device = objective.restorer.device
    begun = time.monotonic()
    with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=settings.bf16):
        objective(to_device(batch, device)).item()
    seconds = (time.monotonic() - begun) * STEP_OVER_FORWARD
    return Progress(STAGE, done, settings.steps, seconds_left=seconds * (settings.steps - done))


def written_losses(folder: Path) -> list[float]:
    """Of every step of the training in `folder` so far."""
    return kept_losses(folder / f"{STAGE}.state.safetensors")


def run_key(
    base: str,
    photos: Sequence[Tensor],
    settings: PersonTraining[Any],
    boxes: Sequence[Box | None] | None = None,
) -> str:
    """Names a training: the same photos, in any order, base (its fingerprint) and settings have the same
    key."""
    photos, boxes = in_order(photos, boxes)
    what: Mapping[str, Any] = {
        **{key: value for key, value in asdict(settings).items() if key not in FREE},
        **({} if settings.method == FIRST_METHOD else {"method": settings.method}),
        "base": base,
        "boxes": [list(box) if box else None for box in boxes],
    }
    digest = hashlib.sha256(json.dumps(what, sort_keys=True).encode())
    for photo in photos:
        digest.update(digest_of(photo))
    return digest.hexdigest()[:32]
