"""The scoreboard to look at: a table, a sheet of pictures and a plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from pfstorer_core.checkpoints.files import atomic_write
from pfstorer_core.imaging.pictures import to_bytes

from .cases import Case
from .methods import Method
from .metrics import HIGHER_IS_BETTER, IDENTICAL
from .scoreboard import Scoreboard

LABELS: Mapping[str, str] = {
    "psnr": "PSNR", "ssim": "SSIM", "lpips": "LPIPS", "musiq": "MUSIQ", "lmse": "LMSE", "id": "ID",
    "id_gray": "ID grey", "colour": "colour", "geometry": "geometry", "marks": "marks", "spots": "spots",
}  # fmt: skip
DIGITS: Mapping[str, int] = {"psnr": 2, "ssim": 3, "lpips": 3, "musiq": 2, "lmse": 2, "id": 2, "id_gray": 2}
"""Decimals as in the paper's table; 1 for the others."""

GAP, STRIP = 6, 20
JPEG_QUALITY = 88


def label(metric: str) -> str:
    """The metric's name and which way is better."""
    return f"{LABELS[metric]}{'↑' if HIGHER_IS_BETTER[metric] else '↓'}"


def tables(board_rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[str], list[list[str]]]]:
    """A table a preset of a board's `rows` or `gains`: its name, its head (the methods), and its rows, one a
    metric that any method has: mean ± half of the 95 % interval."""
    found = []
    for preset in dict.fromkeys(row["preset"] for row in board_rows):
        rows = [row for row in board_rows if row["preset"] == preset]
        metrics = [name for name in HIGHER_IS_BETTER if any(row[name] is not None for row in rows)]
        lines = [[label(name), *(_cell(row, name) for row in rows)] for name in metrics]
        found.append((preset, ["", *(row["method"] for row in rows)], lines))
    return found


def _cell(row: Mapping[str, Any], metric: str) -> str:
    value, bounds, digits = row[metric], row[f"{metric}_ci"], DIGITS.get(metric, 1)
    half = f" ± {(bounds[1] - bounds[0]) / 2:.{digits}f}" if bounds else ""
    return "–" if value is None else f"{value:.{digits}f}{half}"


def notes(board: Scoreboard) -> list[str]:
    """What belongs under the table: missing metrics, how good the judges are, whether clean pictures stay."""
    lines = [f"{LABELS[name]} {why}" for name, why in board.needs.items()]
    judges = board.judges
    if judges:
        right, gray = judges["verification"], judges["verification_gray"]
        lines.append(
            f"The judges, on clean pictures of {judges['people']} people unseen in training: verification "
            f"{right:.2f} % at equal error ({gray:.2f} % without colour), LMSE {judges['lmse']:.2f}."
        )
        if judges.get("drawing") != board.about["drawing"]:
            lines.append("The judges were trained on another state of the drawing: run `train-judges` again.")
    kept = board.keeps_clean()
    if kept is not None:
        lines.append(
            f"Clean pictures are {'kept' if kept else 'NOT kept'}: "
            f"base is {'at most' if kept else 'more than'} 1 dB below the autoencoder's PSNR."
        )
    return lines


def write_sheet(
    path: Path | str,
    methods: Mapping[str, Method],
    cases: Sequence[Case],
    cell: int = 192,
    labels: Sequence[str] = (),
) -> None:
    """A PNG, or a JPEG where the path ends so, with one row a case: what each method makes of its first
    photo, and the true picture.

    Args:
        labels: of the rows, written into their first pictures; none for none.
    Raises:
        ValueError: no case.
    """
    if not cases:
        raise ValueError("A sheet needs at least one case.")
    names = [*methods, "truth"]
    step = cell + GAP
    sheet = Image.new("RGB", (len(names) * step + GAP, len(cases) * step + STRIP + GAP), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for column, name in enumerate(names):
        pen.text((GAP + column * step + 2, 3), name, "black", font)
    for row, case in enumerate(cases):
        one = case.only(0)
        pictures = [method(one) for method in methods.values()] + [one.hq]
        for column, picture in enumerate(pictures):
            sheet.paste(_thumbnail(picture[0], cell), (GAP + column * step, STRIP + row * step))
    for row, text in enumerate(labels):
        at = (GAP + 4, STRIP + row * step + 4)
        left, top, right, bottom = pen.textbbox(at, text, font)
        pen.rectangle((left - 3, top - 3, right + 3, bottom + 3), "white")
        pen.text(at, text, "black", font)
    jpeg = Path(path).suffix.lower() in (".jpg", ".jpeg")
    with atomic_write(path) as temporary:
        sheet.save(temporary, "JPEG" if jpeg else "PNG", quality=JPEG_QUALITY)


def write_plot(
    path: Path | str, rows: Sequence[Mapping[str, Any]], title: str = "means and 95 % intervals"
) -> None:
    """A PNG with one panel a metric: the means of a board's `rows` or `gains`, with their 95 % intervals over
    people.

    Raises:
        ValueError: no rows.
        ImportError: no matplotlib.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("A plot needs matplotlib: pip install matplotlib") from error
    if not rows:
        raise ValueError("A plot needs at least one row.")
    metrics = [name for name in HIGHER_IS_BETTER if any(row[name] is not None for row in rows)]
    presets = list(dict.fromkeys(row["preset"] for row in rows))
    methods = list(dict.fromkeys(row["method"] for row in rows))
    columns = min(4, len(metrics))
    height = -(-len(metrics) // columns)
    figure = Figure((3.2 * columns, (0.5 + 0.28 * len(rows)) * height + 0.9), layout="constrained")
    for number, metric in enumerate(metrics):
        axes = figure.add_subplot(height, columns, number + 1)
        for place, row in enumerate(rows):
            if row[metric] is None or (metric == "psnr" and row[metric] >= IDENTICAL):
                continue
            low, high = row[f"{metric}_ci"] or (row[metric], row[metric])
            colour = f"C{methods.index(row['method'])}"
            axes.plot([low, high], [place, place], color=colour, linewidth=2)
            axes.plot(row[metric], place, "o", color=colour, markersize=5)
        names = [f"{r['method']}, {r['preset']}" if len(presets) > 1 else r["method"] for r in rows]
        axes.set_yticks(range(len(rows)), names if number % columns == 0 else [""] * len(rows))
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_title(label(metric), fontsize=10)
        axes.grid(axis="x", alpha=0.3)
        axes.locator_params(axis="x", nbins=5)
    figure.suptitle(f"{max(row['people'] for row in rows)} people: {title}", fontsize=11)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")


def _thumbnail(picture: Tensor, cell: int) -> Image.Image:
    image = Image.fromarray(to_bytes(picture))
    filter_ = Image.Resampling.LANCZOS if image.height > cell else Image.Resampling.NEAREST
    return image.resize((cell, cell), filter_)
