"""The command line: ``python -m pfstorer_core VERB``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars

from .pictures import read_picture, write_picture
from .restore import restore
from .restorer import load_restorer, save_restorer
from .training.autoencoder import AutoencoderTraining, load_autoencoder, train_autoencoder
from .training.base import BaseTraining, train_base
from .training.pictures import DrawnPictures, drawn_pictures
from .training.progress import Progress

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


def main() -> None:
    """Run the command line; what a user can mend ends in one line and status 1."""
    try:
        app()
    except (OSError, ValueError) as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(1)


@app.callback()
def _main() -> None:
    """Personalized face restoration, without ComfyUI."""


Folder = Annotated[
    Path,
    typer.Argument(help="Folder of the run: drawn pictures and checkpoints. A second call resumes."),
]


@app.command("restore")
def _restore(
    restorer: Annotated[Path, typer.Argument(help="A restorer (.safetensors).")],
    picture: Annotated[Path, typer.Argument(help="The bad picture.")],
    output: Annotated[Path, typer.Argument(help="Where the restored picture goes (.png).")],
    upscale: Annotated[float, typer.Option(help="Factor of both sides, 1 to 20.")] = 4.0,
    steps: Annotated[int, typer.Option(help="Sampling steps.")] = 50,
    seed: Annotated[int, typer.Option(help="Same seed, same picture.")] = 0,
    fidelity: Annotated[float, typer.Option(help="CFW weight w, 0 to 1.")] = 0.0,
) -> None:
    """Restore and enlarge a picture."""
    if output.suffix.lower() != ".png":
        raise ValueError(f"{output} has to end in .png: restored pictures are written as PNG.")
    model = load_restorer(restorer)
    lq = read_picture(picture)
    with _bars() as show:
        image = restore(
            model,
            lq,
            upscale=upscale,
            steps=steps,
            seed=seed,
            fidelity=fidelity,
            on_step=lambda step: show(Progress("restore", step.number + 1, step.total)),
        )
    write_picture(image, output)


@app.command("train-autoencoder")
def _train_autoencoder(
    folder: Folder,
    steps: Annotated[int, typer.Option(help="Steps of the autoencoder.")] = AutoencoderTraining().loop.steps,
    cfw_steps: Annotated[
        int, typer.Option(help="Steps of the CFW layers.")
    ] = AutoencoderTraining().cfw_loop.steps,
    people: Annotated[int, typer.Option(help="Drawn people to train on.")] = DrawnPictures().people,
) -> None:
    """Train the tiny autoencoder and its CFW on drawn pictures."""
    settings = AutoencoderTraining()
    settings = replace(
        settings,
        loop=replace(settings.loop, steps=steps),
        cfw_loop=replace(settings.cfw_loop, steps=cfw_steps),
    )
    with _bars() as show:
        pictures = drawn_pictures(DrawnPictures(people=people), folder, show)
        train_autoencoder(pictures, settings, folder, show)


@app.command("train-base")
def _train_base(
    folder: Folder,
    output: Annotated[Path, typer.Argument(help="The restorer to write (.safetensors).")],
    steps: Annotated[
        int, typer.Option(help="Steps of the U-Net and the LQ encoder.")
    ] = BaseTraining().loop.steps,
    people: Annotated[int, typer.Option(help="Drawn people to train on.")] = DrawnPictures().people,
) -> None:
    """Train the tiny base restorer on the autoencoder that `train-autoencoder` left in FOLDER."""
    settings = BaseTraining()
    settings = replace(settings, loop=replace(settings.loop, steps=steps))
    with _bars() as show:
        pictures = drawn_pictures(DrawnPictures(people=people), folder, show)
        autoencoder = load_autoencoder(AutoencoderTraining(), folder)
        restorer = train_base(autoencoder, pictures, settings, folder, show)
    save_restorer(restorer, output)


@contextmanager
def _bars() -> Iterator[Callable[[Progress], None]]:
    """One progress bar a stage; yields what a training calls after each step."""
    tasks: dict[str, TaskID] = {}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Bars(*columns, TimeRemainingColumn(), TextColumn("{task.fields[loss]}")) as bars:

        def show(progress: Progress) -> None:
            if progress.stage not in tasks:
                tasks[progress.stage] = bars.add_task(progress.stage, total=progress.steps, loss="")
            loss = "" if progress.loss is None else f"loss {progress.loss:.4f}"
            bars.update(tasks[progress.stage], completed=progress.step, loss=loss)

        yield show
