"""Identity against PSNR: what a method's strength trades."""

from __future__ import annotations

from pathlib import Path

from pfstorer_core.checkpoints.files import atomic_write

from ..evaluation.scoreboard import Scoreboard

UNLEARNED = ("input", "autoencoder", "base", "diffbir")
"""Methods without a person."""


def write_frontier(path: Path, board: Scoreboard, gamma: float) -> None:
    """A PNG: ID against PSNR of each method over its strengths, `gamma` where its name has none, a panel a
    preset and whose picture it is."""
    from matplotlib.figure import Figure

    presets = list(dict.fromkeys(row["preset"] for row in board.rows))
    figure = Figure((9, 4 * len(presets)), layout="constrained")
    for place, (preset, prefix) in enumerate((p, x) for p in presets for x in ("", "other:")):
        axes = figure.add_subplot(len(presets), 2, place + 1)
        rows = [row for row in board.rows if row["preset"] == preset]
        base = next(row for row in rows if row["method"] == "base")
        axes.plot(base["psnr"], base["id"], "k*", markersize=11, label="base")
        curves: dict[str, list[tuple[float, float, float]]] = {}
        for row in rows:
            kind, _, strength = row["method"].removeprefix(prefix).partition("@")
            if kind not in UNLEARNED and row["method"].startswith(prefix) and ":" not in kind:
                point = (float(strength or gamma), row["psnr"], row["id"])
                curves.setdefault(kind, []).append(point)
        for kind, points in curves.items():
            strengths, psnr, identity = zip(*sorted(points), strict=True)
            axes.plot([base["psnr"], *psnr], [base["id"], *identity], "o-", label=kind)
            for g, x, y in zip(strengths, psnr, identity, strict=True):
                axes.annotate(f"{g:g}", (x, y), textcoords="offset points", xytext=(4, 4), fontsize=8)
        axes.set_title(f"{preset}, {'another' if prefix else 'the own'} person's picture", fontsize=10)
        axes.set_xlabel("PSNR (dB)")
        axes.set_ylabel("ID")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
