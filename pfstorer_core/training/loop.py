"""The loop that every training shares: seeded steps, an average of the weights, resuming.

Sample k of a training depends on (seed, k) alone, and step s takes samples s·batch … (s + 1)·batch - 1,
shared out over the processes. So a training that was stopped anywhere goes on with exactly the losses
that it would have had, and any number of processes gives the same ones up to rounding.
"""

from __future__ import annotations

import errno
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from time import monotonic
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ..models.graphs import Capture, graphs_for
from .average import follow, lent
from .data import Batch, Samples, collate
from .logs import Log
from .objective import DrawnObjective, Objective, Player
from .processes import Processes, launched_processes
from .progress import Progress, silent
from .saving import Saving, kept_if_stopped
from .settings import LoopSettings, learning_rate
from .state import STATE, load_state, save_state

OnProgress = Callable[[Progress], None]


def fit(
    stage: str,
    objective: Objective,
    samples: Samples,
    settings: LoopSettings,
    folder: Path,
    on_progress: OnProgress = silent,
    *,
    held: Samples | None = None,
    record: Mapping[str, Any] | None = None,
    processes: Processes | None = None,
    begun: Sequence[tuple[float, float]] = (),
    pictures: bool = True,
    graphs: bool | Capture = False,
) -> list[float]:
    """Train `objective`, which in the end has the averaged weights; returns the losses of all steps.

    Writes to `folder`: `STAGE.state.safetensors`, from which it resumes; `STAGE.csv`, the losses;
    TensorBoard's logs; and, in `sheets`, pictures of the held-back samples, where `validate_every` says so.

    Args:
        stage: names the files.
        samples: endless, see `Samples`.
        on_progress: called after each step, in the main process; raise in it to stop: the state is saved, as
            it is where a step is stopped within.
        held: samples to look at, of which there are `len(held)`.
        record: further settings, JSON, that a resumed training has to share.
        processes: where to train, and with whom; None for those that were launched together.
        begun: loss and rate of the steps that `objective` has been trained for before; counts where there is
            no state to resume from.
        pictures: whether the sheets, and TensorBoard's logs, are written as well as shown.
        graphs: replay steps as CUDA graphs, see `graphs_for` and `DrawnObjective`.
    Raises:
        ImportError: see `launched_processes`.
        ValueError: a batch that cannot be shared out evenly; a loss that is not finite; a folder with a
            training of other settings; or pictures of which none can be read.
        OSError: the disk is full or the folder cannot be written; what was saved last is kept.
    """
    processes = processes or launched_processes(objective.some_idle)
    rows = _rows(settings, processes.count)
    against = "" if isinstance(objective, DrawnObjective) else "this training cannot be recorded"
    against = "several processes train together" if processes.count > 1 else against
    run = graphs_for(graphs, processes.device, against)
    players = [Player(objective, settings, processes, graphs=run)]
    if (rival := objective.rival()) is not None:
        players.append(Player(rival, settings, processes, "rival."))
    trained = {name: p for player in players for name, p in player.trained.items()}
    kept = {name: value for player in players for name, value in player.kept.items()}
    optimizers = [player.optimizer for player in players]
    average = {name: p.detach().clone() for name, p in trained.items()}
    path = folder / f"{stage}{STATE}"
    made_with = settings.binding() | dict(record or {})
    first, broken, history = load_state(path, trained, average, optimizers, made_with, kept)
    if not first:
        first, history = len(begun), list(begun)

    main, device = processes.is_main, processes.device.type
    batches = _batches(samples, settings, first, rows, processes)
    watched = collate([held[k] for k in range(len(held))]) if held is not None and main else None
    log = Log(folder, stage, history, pictures) if main else None
    saving, began = Saving(settings.save_seconds, first), monotonic()

    def save(step: int) -> None:
        if main and step > saving.step:
            with saving.of(step):
                save_state(path, step, trained, average, optimizers, made_with, broken, history, kept)

    def tell(step: int) -> None:
        """Show how well it does, where it is time to, and what is done."""
        if log is None:
            return
        sheet = None
        if watched and settings.looks(step):
            with lent(trained, average), torch.autocast(device, torch.bfloat16, enabled=settings.bf16):
                sheet = log.look(step, objective, to_device(watched, processes.device))
        left = (
            (monotonic() - began) / max(1, step - first) * (settings.steps - step) if step > first else None
        )
        loss = history[-1][0] if history else None
        on_progress(Progress(stage, step, settings.steps, loss, sheet, left))

    def mean_losses(playing: Sequence[Player]) -> list[float]:
        """Of a step, whose gradients it leaves behind; stopped within, it leaves `kept` as it was."""
        values = [torch.zeros((), device=processes.device) for _ in playing]
        before = {name: value.clone() for name, value in kept.items()}
        try:
            for part in range(settings.accumulate):
                batch = next(batches)
                _note_broken(broken, batch)
                batch = to_device(batch, processes.device)
                for value, player in zip(values, playing, strict=True):
                    value += player.learn(batch, part + 1 == settings.accumulate)
        except BaseException:
            for name, value in before.items():
                kept[name].copy_(value)
            raise
        return [float(processes.mean(value)) for value in values]

    objective.begin(first)
    try:
        if settings.looks(first) and (first == 0 or first >= settings.steps):
            tell(first)
        for step in range(first, settings.steps):
            rate = learning_rate(settings, step)
            playing = [player for player in players if step >= player.objective.starts]
            objective.begin(step)
            with kept_if_stopped(save, step):
                means = mean_losses(playing)
            for mean in means:
                if not math.isfinite(mean):
                    raise ValueError(
                        f"The loss of step {step + 1} is {mean}: lower the learning rate ({settings.lr:g}) "
                        f"or look at the data. The last good checkpoint is {path}."
                    )
            for player in playing:
                player.step(rate)
            follow(average, trained, min(settings.ema, (step + 1) / (step + 10)))
            objective.end(step, average, processes)
            history.append((means[0], rate))
            if settings.saves(step + 1):
                broken |= dict(processes.gather(list(broken.items())))
            if settings.saves(step + 1) or saving.is_due():
                save(step + 1)
            if log is not None:
                log.step(step + 1, means[0], rate)
            with kept_if_stopped(save, step + 1):
                tell(step + 1)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise OSError(
            f"The disk of {folder} is full. Make room and run the same command again: it goes on from the "
            "last checkpoint."
        ) from error
    finally:
        run.close()
        if log is not None:
            log.close()
    if broken and main:
        logging.getLogger(__name__).warning(
            "%s: %d pictures could not be used and were skipped.", stage, len(broken)
        )
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(average[name])
    objective.to("cpu")
    return [loss for loss, _ in history]


def to_device(batch: Batch, device: torch.device) -> Batch:
    return {key: value.to(device) if isinstance(value, Tensor) else value for key, value in batch.items()}


def _rows(settings: LoopSettings, processes: int) -> int:
    """Samples of one process in one part of a step."""
    parts = processes * settings.accumulate
    if settings.batch % parts:
        raise ValueError(
            f"A batch of {settings.batch} cannot be shared out evenly over {processes} processes in "
            f"{settings.accumulate} parts each: choose a multiple of {parts}."
        )
    return settings.batch // parts


def _batches(
    samples: Samples, settings: LoopSettings, first: int, rows: int, processes: Processes
) -> Iterator[Batch]:
    def shares() -> Iterator[range]:
        for step in range(first, settings.steps):
            start = step * settings.batch
            own = range(start + processes.index, start + settings.batch, processes.count)
            for part in range(settings.accumulate):
                yield own[part * rows : (part + 1) * rows]

    loader = DataLoader(
        samples,  # type: ignore[arg-type]
        batch_sampler=shares(),  # type: ignore[arg-type]
        num_workers=settings.workers,
        collate_fn=collate,
        pin_memory=processes.device.type == "cuda",
    )
    return iter(loader)


def _note_broken(broken: dict[str, str], batch: Batch) -> None:
    for name, why in batch["broken"]:
        if name not in broken:
            logging.getLogger(__name__).warning("Skipped %s: %s", name, why)
            broken[name] = why
