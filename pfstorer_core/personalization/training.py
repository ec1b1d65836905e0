"""Learning a person, by any method: what all trainings of adapters share."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from ..imaging.faces import Box
from ..models.graphs import Capture
from ..restorers.base import Restorer
from ..training.data import Samples, collate
from ..training.interrupts import asking
from ..training.loop import LoopSettings, fit, learning_rate, to_device
from ..training.processes import Processes
from ..training.progress import OnTick, Progress, never, silent
from ..training.state import STATE, kept_losses
from .base import AdapterT
from .header import FIRST_METHOD
from .objective import PersonObjective, PersonTraining, Start
from .photos import Pairs, Photos, aligned_side, digest_of, face_crops, in_order, paired
from .registry import method_named

STEP_OVER_FORWARD = 3.0
"""About how many forward passes of the losses a training step takes."""

FREE = ("save_every", "preview_every")
"""Settings that change nothing of what is learned."""


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
    shared: Path | None = None,
    start: Start | None = None,
    graphs: bool | Capture = False,
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
        shared: folder for what other trainings can use, too, such as pictures of a class; None for `folder`.
        start: what to begin with in place of what the method's paper says, see `pfstorer.start.find_start`.
            Then 0 steps make an adapter of it and of the photos.
        graphs: replay steps as CUDA graphs, see `graphs_for`; `on_tick` is then called between steps only.
    Raises:
        ValueError: no photo, too many, one that shows nothing; a setting out of range; or a restorer without
            a text tower.
    """
    settings = settings or default_settings()
    check_steps(settings, start)
    if folder is None:
        with TemporaryDirectory() as temporary:
            return train_identity_adapter(
                restorer, photos, settings, boxes=boxes, folder=temporary, on_progress=on_progress, key=key,
                on_tick=on_tick, begun=begun, shared=shared, start=start, graphs=graphs,
            )  # fmt: skip
    networks = (restorer.unet, restorer.autoencoder, *([restorer.text] if restorer.text else []))
    key = key or run_key(restorer.fingerprint, photos, settings, boxes, start)
    # Before they are put in order: errors number them as they were given.
    crops = face_crops(photos, boxes, aligned_side(restorer.header), on_tick)
    crops = [crops[n][0] for n in in_order(photos, boxes)]
    with asking(on_tick, *networks):
        return _train(
            restorer, crops, settings, Path(folder), shared, on_progress, key, on_tick, begun, start, graphs
        )


def check_steps(settings: PersonTraining[Any], start: Start | None) -> None:
    """Raise ValueError where there is nothing to learn and nothing to begin with."""
    if not settings.steps and start is None:
        raise ValueError(
            "0 steps learn nothing: choose 1 or more. Photos are only looked at where a start for adapters "
            "(train-start) lies beside the restorer's file and fits, and here is none."
        )


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
    crops: list[Tensor],
    settings: PersonTraining[AdapterT],
    folder: Path,
    shared: Path | None,
    on_progress: Callable[[Progress], None],
    key: str,
    on_tick: OnTick,
    begun: AdapterT | None,
    start: Start | None,
    graphs: bool | Capture,
) -> AdapterT:
    """One stage after the other, each of which goes on with the steps and losses of those before."""
    seen = Photos.of_squares(restorer, crops, on_tick)
    make = method_named(settings.method, "The training").objective
    assert make is not None
    objective: PersonObjective[AdapterT] = make(restorer, seen, settings)
    if start is not None:
        objective.take_start(start)
    if not settings.steps:
        return objective.adapter(key, 0, [])
    losses, done = list[float](), len(written_losses(folder)) or len(begun.header.losses if begun else ())
    while True:
        objective.to(restorer.device)
        loop = objective.loop()
        unfinished = done < loop.steps
        forecast = len(losses) <= done and (unfinished or loop.steps == settings.steps)
        history = _history(loop, losses)
        if begun and begun.header.steps > len(losses):
            objective.take(begun)
            history = _history(loop, begun.header.losses[: loop.steps])
        if unfinished or forecast:
            objective.prepare(shared or folder, on_progress, on_tick)
        samples = objective.samples(seen, on_tick)
        held = objective.pairs(seen, 1, 1, settings.seed + 1, 0.0, on_tick)
        try:
            if forecast:
                on_progress(_forecast(objective, samples, loop.batch, settings, done))
            losses = fit(
                objective.stage, objective, samples, loop, folder, _of_all(on_progress, settings.steps),
                held=held, record={"run_key": key}, processes=Processes(restorer.device), begun=history,
                pictures=False, graphs=graphs,
            )  # fmt: skip
        finally:
            for drawn in (samples, held):
                if isinstance(drawn, Pairs):
                    drawn.close()
            objective.to(restorer.device)
            restorer.unet.checkpoint_gradients(False)
        if (following := objective.following()) is None:
            return objective.adapter(key, settings.steps, losses)
        objective = following


def _history(loop: LoopSettings, losses: Sequence[float]) -> list[tuple[float, float]]:
    """Loss and rate of the steps that were done before."""
    earlier = replace(loop, steps=max(1, len(losses)))
    return [(loss, learning_rate(earlier, step)) for step, loss in enumerate(losses)]


def _of_all(on_progress: Callable[[Progress], None], steps: int) -> Callable[[Progress], None]:
    """Tells the progress of a stage as that of all of them, which take so many steps."""

    def tell(progress: Progress) -> None:
        left = progress.seconds_left
        if left is not None and progress.step < progress.steps:
            left *= (steps - progress.step) / (progress.steps - progress.step)
        on_progress(replace(progress, steps=steps, seconds_left=left))

    return tell


def _forecast(
    objective: PersonObjective[Any], samples: Samples, batch: int, settings: PersonTraining[Any], done: int
) -> Progress:
    """How long the training will take, from one forward pass of its first step."""
    given = collate([samples[k] for k in range(batch)])
    device = objective.restorer.device
    begun = time.monotonic()
    with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=settings.bf16):
        objective(to_device(given, device)).item()
    seconds = (time.monotonic() - begun) * STEP_OVER_FORWARD
    return Progress(objective.stage, done, settings.steps, seconds_left=seconds * (settings.steps - done))


def written_losses(folder: Path) -> list[float]:
    """Of every step of the training in `folder` so far."""
    found = [kept_losses(path) for path in sorted(folder.glob(f"*{STATE}"))]
    return max(found, key=len, default=[])


def run_key(
    base: str,
    photos: Sequence[Tensor],
    settings: PersonTraining[Any],
    boxes: Sequence[Box | None] | None = None,
    start: Start | None = None,
) -> str:
    """Names a training: the same photos, in any order, base (its fingerprint), settings and start have the
    same key."""
    pairs = paired(photos, boxes)
    pairs = [pairs[n] for n in in_order(photos, boxes)]
    what: Mapping[str, Any] = {
        **{key: value for key, value in asdict(settings).items() if key not in FREE},
        **({} if settings.method == FIRST_METHOD else {"method": settings.method}),
        **({} if start is None else {"start": start.fingerprint}),
        "base": base,
        "boxes": [list(box) if box else None for _, box in pairs],
    }
    digest = hashlib.sha256(json.dumps(what, sort_keys=True).encode())
    for photo, _ in pairs:
        digest.update(digest_of(photo))
    return digest.hexdigest()[:32]
