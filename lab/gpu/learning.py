"""C: a person is learned by the library's own entry: time and memory of a step, what waits for what."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pfstorer_core as pf
from pfstorer_core import AdapterTraining, Identity
from pfstorer_core.personalization.photos import Pairs
from pfstorer_core.training.degradation import RandomDegradation

from .measuring import new_profiler, summary
from .networks import pictures
from .restoring import restored
from .session import Session

TRACED = 3
"""Steps that a profiler sees."""


class Stop(Exception):
    """Enough steps were seen."""


@dataclass
class Watch:
    """What a training does, seen from outside.

    Attributes:
        made: pairs by seed and number, so that a second training has them at hand.
        marks: when each step was told, and whether with a picture.
        waits: seconds that the training had waited for pairs by then.
    """

    session: Session
    made: dict[tuple[int, int], Any]
    warm: int
    measured: int
    limit: float
    finish: bool
    begun: float = 0.0
    marks: list[tuple[float, bool]] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    pair_s: list[float] = field(default_factory=list)
    degrading_s: list[float] = field(default_factory=list)
    waited: float = 0.0
    profiler: Any = None
    profiled_from: float = 0.0
    measured_until: int = -1
    traced: int = 0
    wall: float | None = None

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Pairs and degradations are timed meanwhile."""
        make, get, degrade = Pairs._make, Pairs.__getitem__, RandomDegradation.__call__

        def timed_make(pairs: Pairs, number: int) -> Any:
            key = (pairs.seed, number)
            if key not in self.made:
                begun = time.perf_counter()
                self.made[key] = make(pairs, number)
                self.pair_s.append(time.perf_counter() - begun)
            return self.made[key]

        def timed_degrade(degradation: Any, *given: Any) -> Any:
            begun = time.perf_counter()
            found = degrade(degradation, *given)
            self.degrading_s.append(time.perf_counter() - begun)
            return found

        def timed_get(pairs: Pairs, k: int) -> Any:
            begun = time.perf_counter()
            found = get(pairs, k)
            self.waited += time.perf_counter() - begun
            return found

        Pairs._make, Pairs.__getitem__ = timed_make, timed_get  # type: ignore[method-assign]
        RandomDegradation.__call__ = timed_degrade  # type: ignore[method-assign]
        try:
            yield
        finally:
            Pairs._make, Pairs.__getitem__ = make, get  # type: ignore[method-assign]
            RandomDegradation.__call__ = degrade  # type: ignore[method-assign]

    def on_progress(self, progress: Any) -> None:
        if not self.marks:
            self.session.sync()
        now = time.perf_counter()
        self.marks.append((now, progress.picture is not None))
        self.waits.append(self.waited)
        if progress.loss is not None:
            self.losses.append(progress.loss)
        if not self.finish:
            self.trace(now)

    def trace(self, now: float) -> None:
        """Profile the steps after the measured ones, and stop."""
        number, elapsed = len(self.marks) - 1, now - self.begun
        enough = number >= self.warm + self.measured or (elapsed > self.limit - 7 and number >= self.warm + 3)
        if self.profiler is None and enough:
            self.session.sync()
            self.profiler = new_profiler(self.session.cuda)
            self.measured_until = number
            self.profiler.start()
            self.profiled_from = time.perf_counter()
        elif self.profiler is not None:
            self.traced += 1
            if self.traced == TRACED or time.perf_counter() - self.begun > self.limit:
                self.session.sync()
                self.wall = time.perf_counter() - self.profiled_from
                self.profiler.stop()
                raise Stop

    def row(self, batch: int, ended: float) -> dict[str, Any]:
        until = self.measured_until if self.measured_until >= 0 else len(self.marks) - 1 - self.finish
        spans = [
            (b[0] - a[0], w1 - w0, b[1])
            for a, b, w0, w1 in zip(self.marks, self.marks[1:], self.waits, self.waits[1:], strict=False)
        ]
        kept = [(s, w) for s, w, picture in spans[self.warm : until] if not picture]
        previews = [s for s, _, picture in spans if picture]
        row: dict[str, Any] = {"batch": batch, "steps_measured": len(kept), **self.session.memory()}
        if self.marks:
            row["until_first_step_s"] = self.marks[0][0] - self.begun
        if kept:
            row |= {
                "step_s_mean": statistics.mean(s for s, _ in kept),
                "step_s_median": statistics.median(s for s, _ in kept),
                "waiting_for_pairs_s_mean": statistics.mean(w for _, w in kept),
                "step_without_waiting_s": statistics.mean(s - w for s, w in kept),
            }
            extra = [s - row["step_s_mean"] for s in previews]
            looks = 5 * statistics.median(extra) if extra else 0.0
            row["preview_s"] = extra
            row["seconds_of_500_steps"] = row["until_first_step_s"] + 500 * row["step_s_mean"] + looks
            row["seconds_of_500_steps_without_waiting"] = 500 * row["step_without_waiting_s"] + looks
        if self.pair_s:
            count, mean, most = len(self.pair_s), statistics.mean(self.pair_s), max(self.pair_s)
            row["pair_s"] = {"count": count, "mean": mean, "max": most}
            row["of_it_damage_s_mean"] = statistics.mean(self.degrading_s) if self.degrading_s else None
        row["losses_finite"] = all(map(math.isfinite, self.losses))
        row["losses"] = self.losses[:2] + self.losses[-2:]
        row["after_last_step_s"] = ended - (self.marks[-1][0] if self.marks else self.begun)
        row["total_s"] = ended - self.begun
        return row


def learn(session: Session, key: str, batch: int, watch: Watch, graphs: bool = False) -> Any:
    """A training by the library's own entry; stopped after the measured steps unless it is to finish."""
    photos = list(pictures(5, session.sizes.header.image_size * 5 // 4, 9))
    every = 1000 if watch.finish else max(4, watch.measured // 2)
    count = watch.warm + watch.measured + 1 if watch.finish else 500
    settings = AdapterTraining(steps=count, batch=batch, save_every=1000, preview_every=every)
    restorer = session.restorer
    session.sync()
    session.memory(reset=True)
    watch.begun = time.perf_counter()
    adapter = None
    try:
        with watch.watching():
            adapter = pf.train_identity_adapter(
                restorer, photos, settings, on_progress=watch.on_progress, graphs=graphs
            )
    except Stop:
        pass
    finally:
        if watch.profiler is not None and watch.wall is None:
            with session.attempt("C", f"{key}_end_of_profile"):
                watch.profiler.stop()
        with session.attempt("C", f"{key}_end"):
            session.sync()
        session.put("C", key, watch.row(batch, time.perf_counter()))
    if watch.wall is not None:
        with session.attempt("C", f"{key}_profile"):
            seen = summary(watch.profiler, max(1, watch.traced), watch.wall)
            session.put("C", f"{key}_profile", seen)
    return adapter


def part_c(session: Session) -> None:
    made: dict[tuple[int, int], Any] = {}
    begun = time.perf_counter()
    with session.attempt("C", "tensorboard"):
        import torch.utils.tensorboard
    session.put("C", "import_tensorboard_s", time.perf_counter() - begun)
    with session.attempt("C", "batch_4"):
        measured, limit = 40 if session.cuda else 4, session.left_of_part() - 20
        learn(session, "batch_4", 4, Watch(session, made, 5 if session.cuda else 1, measured, limit, False))
    session.tidy()
    with session.attempt("C", "batch_4_graphs"):
        measured, limit = 40 if session.cuda else 2, session.left_of_part() - 10
        watch = Watch(session, made, 5 if session.cuda else 2, measured, limit, False)
        learn(session, "batch_4_graphs", 4, watch, graphs=True)
    session.tidy()
    with session.attempt("C", "batch_1"):
        left = session.left_of_part()
        measured = min(20 if session.cuda else 3, max(3, int((left - 6) / 0.35)))
        watch = Watch(session, made, 4 if session.cuda else 1, measured, left, True)
        adapter = learn(session, "batch_1_pairs_at_hand", 1, watch)
        weights = [p for block in adapter.blocks.values() for p in block.parameters()]
        session.put("C", "learned_adapter_finite", all(bool(torch.isfinite(p).all()) for p in weights))
        side = session.sizes.header.image_size // 4
        known = [Identity(adapter)]
        restored(session, "C", "restored_with_learned", session.restorer, side, 3, identities=known)
