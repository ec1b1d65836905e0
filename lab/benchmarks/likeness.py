"""Likeness of restored photographs to a person: how it is measured, and tables of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..evaluation.cases import Case
from ..evaluation.methods import Method
from ..evaluation.recognizer import descriptors, distances
from ..evaluation.scoreboard import Result, Scoreboard

METRICS = ("psnr", "own", "other")
"""PSNR in dB, and distances of dlib's recogniser: to the person, and to the next one."""
DIGITS = {"psnr": 2}


def measured(
    methods: Mapping[str, Method], cases: Sequence[Case], results: Sequence[Result]
) -> Iterator[Result]:
    """Means over a case's pictures, of each method and case that is not among the results yet. A person is
    the mean of the descriptors of the photos that are learned from."""
    done = {(one["preset"], one["person"], one["method"]) for one in results}
    people = {case.person: descriptors(case.references).mean(0) for case in cases}
    for name, method in methods.items():
        for case in cases:
            if (case.preset, case.person, name) in done:
                continue
            images = method(case).float().cpu().clamp(0, 1)
            psnr = -10 * (images - case.hq).square().mean((1, 2, 3)).clamp_min(1e-10).log10()
            row: Result = {"method": name, "preset": case.preset, "person": case.person}
            row["psnr"] = float(psnr.mean())
            for whose, person in (("own", case.person), ("other", (case.person + 1) % len(people))):
                row[whose] = float(distances(images, case.hq, people[person]).mean())
            yield row


def compared_with(methods: Sequence[str], over: str) -> dict[str, str]:
    """For each method what it is compared with: the method `over`, at its strength where there is one.
    `lora@0.5` is compared with `pfstorer@0.5`."""
    found: dict[str, str] = {}
    for name in methods:
        _, at, strength = name.partition("@")
        same = f"{over}{at}{strength}"
        found[name] = same if same in methods else over
    return found


def tables(board: Scoreboard, over: str) -> str:
    """Markdown: a table a preset, of means, and of differences from `over` with their 95 % intervals over
    people and person by person."""
    pairs = compared_with([*dict.fromkeys(one["method"] for one in board.results)], over)
    gains = {(one["preset"], one["method"]): one for one in board.gains(pairs)}
    values = {(one["preset"], one["method"], one["person"]): one for one in board.results}
    lines = list[str]()
    for preset in dict.fromkeys(one["preset"] for one in board.rows):
        names = [*METRICS, *(f"{name}, difference" for name in METRICS[:2]), "of each"]
        lines += ["", f"| {preset} | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
        for row in (one for one in board.rows if one["preset"] == preset):
            cells = [row["method"], *(f"{row[name]:.{DIGITS.get(name, 3)}f}" for name in METRICS)]
            if gain := gains.get((preset, row["method"])):
                cells += [_with_interval(gain, name) for name in METRICS[:2]]
                own = [values[key] for key in values if key[:2] == (preset, row["method"])]
                base = [values[preset, pairs[row["method"]], one["person"]] for one in own]
                each = (a["own"] - b["own"] for a, b in zip(own, base, strict=True))
                cells.append(", ".join(f"{one:+.3f}" for one in each))
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _with_interval(gain: Mapping[str, Any], metric: str) -> str:
    value, bounds, digits = gain[metric], gain[f"{metric}_ci"], DIGITS.get(metric, 3)
    return f"{value:+.{digits}f}" + (f" ± {(bounds[1] - bounds[0]) / 2:.{digits}f}" if bounds else "")
