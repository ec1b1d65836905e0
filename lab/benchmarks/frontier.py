"""Identity against PSNR: what a method's strength trades."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pfstorer_core.checkpoints.files import atomic_write

UNLEARNED = ("truth", "input", "autoencoder", "base", "diffbir")
"""Methods without a person."""
TITLES = {"id": "ID", "own": "distance to the person (less is more alike)"}
"""Axes by metric; a distance's is upside down, so that what is better is higher."""


def write_frontier(path: Path, rows: Sequence[Mapping[str, Any]], gamma: float, metric: str = "id") -> None:
    """A PNG: a metric of likeness against PSNR of each method over its strengths, `gamma` where its name has
    none, a panel a preset and whose picture it is.

    Args:
        rows: a board's; they have a base for every preset.
        metric: of `TITLES`.
    """
    from matplotlib.figure import Figure

    presets = list(dict.fromkeys(row["preset"] for row in rows))
    others = any(row["method"].startswith("other:") for row in rows)
    owners = ["", "other:"] if others else [""]
    figure = Figure((4.5 * max(len(owners), 1.5), 4 * len(presets)), layout="constrained")
    for place, (preset, prefix) in enumerate((p, x) for p in presets for x in owners):
        axes = figure.add_subplot(len(presets), len(owners), place + 1)
        own = [row for row in rows if row["preset"] == preset]
        base = next(row for row in own if row["method"] == "base")
        axes.plot(base["psnr"], base[metric], "k*", markersize=11, label="base")
        for kind, points in curves(own, prefix, gamma, metric).items():
            strengths, psnr, likeness = zip(*points, strict=True)
            axes.plot([base["psnr"], *psnr], [base[metric], *likeness], "o-", label=kind)
            for g, x, y in zip(strengths, psnr, likeness, strict=True):
                axes.annotate(f"{g:g}", (x, y), textcoords="offset points", xytext=(4, 4), fontsize=8)
        axes.set_title(f"{preset}, {'another' if prefix else 'the own'} person's picture", fontsize=10)
        axes.set_xlabel("PSNR (dB)")
        axes.set_ylabel(TITLES[metric])
        if metric == "own":
            axes.invert_yaxis()
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")


def curves(
    rows: Sequence[Mapping[str, Any]], prefix: str, gamma: float, metric: str
) -> dict[str, list[tuple[float, float, float]]]:
    """Of each method that learned a person its strengths, in order, PSNR and the metric; of rows whose names
    begin with the prefix."""
    found: dict[str, list[tuple[float, float, float]]] = {}
    for row in rows:
        kind, _, strength = row["method"].removeprefix(prefix).partition("@")
        if kind not in UNLEARNED and row["method"].startswith(prefix) and ":" not in kind:
            found.setdefault(kind, []).append((float(strength or gamma), row["psnr"], row[metric]))
    return {kind: sorted(points) for kind, points in found.items()}
