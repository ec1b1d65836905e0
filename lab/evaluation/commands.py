"""The command line's verbs of this package, without the command line."""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from pfstorer_core.restorers.files import load_restorer
from pfstorer_core.training.progress import Progress, silent

from .. import ASSETS
from .cases import CaseSettings, draw_case
from .figures import write_plot, write_sheet
from .identity import load_embedder
from .judge_training import JudgeTraining, train_judges
from .judges import Judges, load_judges, save_judges
from .methods import standard_methods
from .scoreboard import EvaluationSettings, Scoreboard, evaluate

RESTORER = ASSETS / "pfstorer_tiny.safetensors"
JUDGES = ASSETS / "pfstorer_judges.safetensors"

SHEET_PEOPLE = 8
"""Rows of a sheet."""


def run_evaluate(
    restorer: Path = RESTORER,
    judges: Path = JUDGES,
    *,
    people: int = 20,
    photos: int = 4,
    presets: tuple[str, ...] = ("heavy",),
    size: int = 0,
    damage_at: int = 0,
    steps: int = 50,
    fidelity: float = 0.0,
    seed: int = 0,
    embedder: Path | None = None,
    json_path: Path | None = None,
    sheet: Path | None = None,
    plot: Path | None = None,
    on_progress: Callable[[Progress], None] = silent,
) -> Scoreboard:
    """The rows `input`, `autoencoder` and `base` of a restorer.

    Args:
        size: of the pictures; 0 takes the size that the restorer was trained on.
        steps, fidelity: of the restorations; see `restore`.
        embedder: see `load_embedder`.
        json_path, sheet, plot: files to write; the JSON file is resumed.
    Raises:
        FileNotFoundError: no restorer or judges at these places.
        ValueError: a setting out of range, or files that do not fit.
    """
    if people < 1:
        raise ValueError(f"people must be 1 or more, got {people}.")
    model, own = load_restorer(restorer), load_judges(judges)
    size = size or model.header.image_size
    if size % model.autoencoder.config.downscale:
        raise ValueError(f"size must be a multiple of {model.autoencoder.config.downscale}, got {size}.")
    model.autoencoder.check_fidelity(fidelity)
    cases = CaseSettings(photos, size=size, damage_at=damage_at, seed=seed)
    methods = standard_methods(model, steps, fidelity)
    made_with = [named(path) for path in (restorer, judges, embedder) if path]
    board = evaluate(
        methods,
        own,
        EvaluationSettings(people, presets, cases),
        embedder=load_embedder(embedder) if embedder else None,
        path=json_path,
        made_with=", ".join([*made_with, f"{steps} steps", f"fidelity {fidelity:g}"]),
        on_progress=on_progress,
    )
    if sheet:
        shown = range(min(SHEET_PEOPLE, people))
        write_sheet(sheet, methods, [draw_case(cases, person, presets[0]) for person in shown])
    if plot:
        write_plot(plot, board.rows)
    return board


def run_train_judges(
    folder: Path,
    output: Path,
    *,
    people: int = JudgeTraining().people,
    photos: int = JudgeTraining().photos,
    steps: int = JudgeTraining().face_loop.steps,
    landmark_steps: int = JudgeTraining().landmark_loop.steps,
    on_progress: Callable[[Progress], None] = silent,
) -> Judges:
    """Train the judges in `folder`, from where a second call resumes, and write them to `output`."""
    settings = JudgeTraining(people, photos)
    settings = replace(
        settings,
        face_loop=replace(settings.face_loop, steps=steps),
        landmark_loop=replace(settings.landmark_loop, steps=landmark_steps),
    )
    judges = train_judges(settings, folder, on_progress)
    save_judges(judges, output)
    return judges


def named(path: Path) -> str:
    """The file's name, and what tells it from another of this name."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return f"{path.name} {hashlib.sha256(content).hexdigest()[:12]}"
