"""The scoreboard: every method on every case, resumable, with means and intervals over people."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pfstorer_core.checkpoints.files import atomic_write
from pfstorer_core.training.progress import Progress, silent

from .cases import CLEAN, Case, CaseSettings, draw_case, drawing
from .identity import Embedder
from .judges import Judges
from .methods import Method
from .metrics import HIGHER_IS_BETTER, picture_metrics

Result = dict[str, Any]
"""One method on one person: `method`, `preset`, `person`, and each metric's mean over the photos, or null."""


@dataclass(frozen=True)
class EvaluationSettings:
    """Which cases: people 0…`people`-1 of `cases`, each under all `presets`."""

    people: int = 20
    presets: tuple[str, ...] = ("heavy",)
    cases: CaseSettings = field(default_factory=CaseSettings)


@dataclass(frozen=True)
class Scoreboard:
    """What `evaluate` found.

    Attributes:
        about: what the results depend on; a file is resumed where it is the same.
        results: person by person.
        needs: what missing metrics need.
        judges: the judges' own figures.
        metrics: that the results have, in the order of their columns.
    """

    about: Mapping[str, Any]
    results: Sequence[Result]
    needs: Mapping[str, str]
    judges: Mapping[str, Any]
    metrics: Sequence[str] = tuple(HIGHER_IS_BETTER)

    @property
    def rows(self) -> list[dict[str, Any]]:
        """One row a method and preset: each metric's mean over people, and its 95 % interval."""
        return self._rows(self.results)

    def gains(self, over: str | Mapping[str, str] = "base") -> list[dict[str, Any]]:
        """Such rows of the differences from the method `over`, or from that which it names for each method,
        on the same person: people differ far more than methods do, so it is these intervals that tell whether
        a method is better."""
        found = {(r["preset"], r["person"], r["method"]): r for r in self.results}
        pairs = []
        for result in self.results:
            base = over if isinstance(over, str) else over.get(result["method"])
            other = found.get((result["preset"], result["person"], base))
            if other and base != result["method"]:
                pairs.append((result, other))
        return self._rows([self._difference(own, other) for own, other in pairs])

    def to_json(self) -> dict[str, Any]:
        """`rows`, `gains` over the base, and all that they come from."""
        return {
            "rows": self.rows,
            "gains": self.gains(),
            "people": len({result["person"] for result in self.results}),
            "seed": self.about["cases"]["seed"],
            "about": dict(self.about),
            "needs": dict(self.needs),
            "judges": dict(self.judges),
            "results": list(self.results),
        }

    def keeps_clean(self, method: str = "base", within: float = 1.0) -> bool | None:
        """Whether a method leaves clean pictures alone: PSNR at most `within` dB below the autoencoder's own.

        None where the board has no clean preset, or not both rows.
        """
        psnr = {row["method"]: row["psnr"] for row in self.rows if row["preset"] == CLEAN}
        if not {method, "autoencoder"} <= set(psnr):
            return None
        return psnr[method] >= psnr["autoencoder"] - within

    def _rows(self, results: Sequence[Result]) -> list[dict[str, Any]]:
        rows = []
        for preset, method in dict.fromkeys((r["preset"], r["method"]) for r in results):
            own = [r for r in results if (r["preset"], r["method"]) == (preset, method)]
            row: dict[str, Any] = {"method": method, "preset": preset, "people": len(own)}
            for metric in self.metrics:
                values = [r[metric] for r in own if r.get(metric) is not None]
                row[metric] = float(np.mean(values)) if values else None
                row[f"{metric}_ci"] = interval(values)
            rows.append(row)
        return rows

    def _difference(self, own: Result, other: Result) -> Result:
        """`own` with what its metrics have more than `other`'s."""
        known = (m for m in self.metrics if own.get(m) is not None and other.get(m) is not None)
        metrics = {metric: own[metric] - other[metric] for metric in known}
        return {key: own[key] for key in ("method", "preset", "person")} | metrics


def interval(values: Sequence[float], level: float = 0.95) -> list[float] | None:
    """Student's interval [low, high] of the mean; None with fewer than two values."""
    if len(values) < 2:
        return None
    from scipy.stats import t

    half = (
        float(t.ppf(0.5 + level / 2, len(values) - 1))
        * float(np.std(values, ddof=1))
        / math.sqrt(len(values))
    )
    return [float(np.mean(values)) - half, float(np.mean(values)) + half]


def evaluate(
    methods: Mapping[str, Method],
    judges: Judges,
    settings: EvaluationSettings,
    *,
    embedder: Embedder | None = None,
    path: Path | str | None = None,
    made_with: str = "",
    on_progress: Callable[[Progress], None] = silent,
) -> Scoreboard:
    """Run all methods on all cases.

    Args:
        embedder: of the ID; the judges' own where None.
        path: of a JSON file, written after every person; results that it holds already are kept, so that an
            interrupted run goes on and more people, presets or methods are added to it.
        made_with: names weights and settings of the methods and judges; another name is another scoreboard.
    Raises:
        ValueError: `path` holds other results, or a method returned pictures of another size.
    """
    metrics, needs = picture_metrics()
    embedder = embedder or judges.embedder
    made = {"embedder": embedder.name, "made_with": made_with, "drawing": drawing()}
    about = json.loads(json.dumps({"cases": asdict(settings.cases), **made}))
    results = read_results(Path(path), about) if path else []
    done = {(result["preset"], result["person"], result["method"]) for result in results}
    total = len(settings.presets) * settings.people
    board = Scoreboard(about, results, needs, {**judges.figures, "drawing": judges.training.get("drawing")})
    for number, (preset, person) in enumerate(_cases(settings)):
        missing = [name for name in methods if (preset, person, name) not in done]
        case = draw_case(settings.cases, person, preset) if missing else None
        for name in missing:
            assert case is not None
            images = _restored(name, methods[name], case)
            values = {key: metric(images, case.hq) for key, metric in metrics.items()}
            values |= judges.judge(images, case, embedder)
            means = {key: _mean(value.tolist()) for key, value in values.items()}
            results.append({"method": name, "preset": preset, "person": person, **means})
        if path and missing:
            write_board(board, path)
        on_progress(Progress("people", number + 1, total))
    return board


def write_board(board: Scoreboard, path: Path | str) -> None:
    """Write the scoreboard as JSON."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(board.to_json(), indent=1, allow_nan=False) + "\n")


def _cases(settings: EvaluationSettings) -> Iterable[tuple[str, int]]:
    return ((preset, person) for preset in settings.presets for person in range(settings.people))


def _restored(name: str, method: Method, case: Case):
    images = method(case)
    if images.shape != case.hq.shape:
        raise ValueError(
            f"The method {name!r} returned pictures of shape {list(images.shape)} for {list(case.hq.shape)}."
        )
    return images.float().cpu().clamp(0, 1)


def _mean(values: Sequence[float]) -> float | None:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else None


def read_results(path: Path, about: Mapping[str, Any]) -> list[Result]:
    """The results in a file that is resumed; none where there is no file.

    Raises:
        ValueError: it is no scoreboard, or of other settings.
    """
    if not path.exists():
        return []
    try:
        found = json.loads(path.read_text())
        kept, results = found["about"], found["results"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a scoreboard: choose another file name.") from error
    if kept != about:
        differing = sorted(key for key in about if kept.get(key) != about[key])
        raise ValueError(
            f"{path} holds results of other settings ({', '.join(differing)}): choose another file name, or "
            "delete it."
        )
    return results
