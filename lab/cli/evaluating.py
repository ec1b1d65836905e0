"""evaluate, train-judges"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from pfstorer_core.cli.app import Folder, bars

from .app import app


@app.command("evaluate")
def _evaluate(
    people: Annotated[int, typer.Option(help="Drawn people that no training has seen.")] = 20,
    photos: Annotated[int, typer.Option(help="Photos of each.")] = 4,
    preset: Annotated[
        list[str] | None, typer.Option(help="Degradation, or clean. Repeatable; heavy where none is named.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Same seed, same people and photos.")] = 0,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Scoreboard to write, person by person; it is resumed.")
    ] = None,
    sheet: Annotated[Path | None, typer.Option(help="Pictures to write (.png).")] = None,
    plot: Annotated[Path | None, typer.Option(help="Plot to write (.png); needs matplotlib.")] = None,
    restorer: Annotated[Path | None, typer.Option(help="In place of the embedded restorer.")] = None,
    judges: Annotated[
        Path | None, typer.Option(help="From train-judges, in place of the embedded ones.")
    ] = None,
    embedder: Annotated[
        Path | None, typer.Option(help="ArcFace of yours for the ID: ONNX or TorchScript.")
    ] = None,
    steps: Annotated[int, typer.Option(help="Sampling steps.")] = 50,
    fidelity: Annotated[float, typer.Option(help="CFW weight w, 0 to 1.")] = 0.0,
    size: Annotated[int, typer.Option(help="Side of the pictures; 0: the restorer's own.")] = 0,
    damage_at: Annotated[
        int, typer.Option(help="Side at which pictures are degraded; lower is heavier. 0: the default.")
    ] = 0,
) -> None:
    """Print the scoreboard of the paper's Table 1, on drawn people: means and 95 % intervals over people."""
    from ..evaluation.commands import run_evaluate
    from ..evaluation.figures import notes, tables

    chosen = {"restorer": restorer, "judges": judges, "damage_at": damage_at}
    with bars() as show:
        board = run_evaluate(
            people=people,
            photos=photos,
            presets=tuple(preset or ("heavy",)),
            size=size,
            steps=steps,
            fidelity=fidelity,
            seed=seed,
            embedder=embedder,
            json_path=json_file,
            sheet=sheet,
            plot=plot,
            on_progress=show,
            **{name: value for name, value in chosen.items() if value},
        )
    console = Console()
    for name, head, rows in tables(board.rows):
        table = Table(*head, title=name)
        for row in rows:
            table.add_row(*row)
        console.print(table)
    for note in notes(board):
        console.print(note, highlight=False, soft_wrap=True)


@app.command("train-judges")
def _train_judges(
    folder: Folder,
    output: Annotated[Path, typer.Argument(help="The judges to write (.safetensors).")],
    people: Annotated[int | None, typer.Option(help="Drawn people to train on.")] = None,
    photos: Annotated[int | None, typer.Option(help="Photos of each.")] = None,
    steps: Annotated[int | None, typer.Option(help="Steps of the identity embedder.")] = None,
    landmark_steps: Annotated[int | None, typer.Option(help="Steps of the landmark detector.")] = None,
) -> None:
    """Train what `evaluate` reads faces with: identity embedder, trait readings and landmark detector."""
    from ..evaluation.commands import run_train_judges

    chosen = {"people": people, "photos": photos, "steps": steps, "landmark_steps": landmark_steps}
    with bars() as show:
        trained = run_train_judges(
            folder,
            output,
            on_progress=show,
            **{name: value for name, value in chosen.items() if value is not None},
        )
    sys.stdout.write(json.dumps(trained.figures, indent=1) + "\n")
