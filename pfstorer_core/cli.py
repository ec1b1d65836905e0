"""The command line: ``python -m pfstorer_core VERB``."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars
from rich.table import Table

from .convert import convert
from .inspection import Inspection, inspect_checkpoint
from .pictures import read_picture, write_picture
from .progress import Progress
from .restore import restore
from .restorer import load_restorer, save_restorer
from .schedule import PredictionType
from .training.autoencoder import AutoencoderTraining, load_autoencoder, train_autoencoder
from .training.base import BaseTraining, train_base
from .training.pictures import DrawnPictures, drawn_pictures

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


Addons = Annotated[
    list[Path] | None,
    typer.Option("--addon", help="StableSR's own weights on SD 2.1, a CFW autoencoder. Repeatable."),
]
Prediction = Annotated[str | None, typer.Option(help="eps or v, where header and file name do not tell.")]


@app.command("restore")
def _restore(
    restorer: Annotated[Path, typer.Argument(help="A restorer (.safetensors, .ckpt).")],
    picture: Annotated[Path, typer.Argument(help="The bad picture.")],
    output: Annotated[Path, typer.Argument(help="Where the restored picture goes (.png).")],
    upscale: Annotated[float, typer.Option(help="Factor of both sides, 1 to 20.")] = 4.0,
    steps: Annotated[int, typer.Option(help="Sampling steps.")] = 50,
    seed: Annotated[int, typer.Option(help="Same seed, same picture.")] = 0,
    fidelity: Annotated[float, typer.Option(help="CFW weight w, 0 to 1.")] = 0.0,
    prompt: Annotated[str, typer.Option(help="What the picture shows; needs the text tower.")] = "",
    addon: Addons = None,
    prediction_type: Prediction = None,
) -> None:
    """Restore and enlarge a picture."""
    if output.suffix.lower() != ".png":
        raise ValueError(f"{output} has to end in .png: restored pictures are written as PNG.")
    lq = read_picture(picture)
    model = load_restorer(
        restorer, *(addon or []), prediction_type=_prediction(prediction_type), text=bool(prompt)
    )
    with _bars() as show:
        image = restore(
            model,
            lq,
            upscale=upscale,
            prompt=prompt,
            steps=steps,
            seed=seed,
            fidelity=fidelity,
            on_step=lambda step: show(Progress("restore", step.number + 1, step.total)),
        )
    write_picture(image, output)


@app.command("inspect")
def _inspect(
    file: Annotated[Path, typer.Argument(help="A checkpoint of any kind.")],
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
) -> None:
    """Tell what a checkpoint is: networks, sizes, number formats, prediction type, what is missing."""
    found = inspect_checkpoint(file)
    if as_json:
        sys.stdout.write(json.dumps(asdict(found), indent=2) + "\n")
    else:
        _show(found)


def _show(found: Inspection) -> None:
    console = Console()
    console.print(f"[bold]{found.path}[/] ({found.bytes / 1e6:,.1f} MB): {found.kind}")
    table = Table("network", "parameters", "stored as", "sizes")
    for network in found.networks:
        dtypes = ", ".join(f"{dtype} x {count}" for dtype, count in network.dtypes.items())
        table.add_row(network.name, f"{network.parameters:,}", dtypes, network.faults or network.sizes)
    console.print(table)
    header = found.header
    console.print(
        f"predicts {header.prediction_type} (by {found.header_source}), "
        f"pictures of {header.image_size} pixels, latent scale {header.scale_factor:.5g}"
    )
    for missing in found.missing:
        console.print(f"missing: {missing}")
    if found.ignored:
        console.print(f"not used: {found.ignored} other tensors (buffers, optimizer, losses)")


@app.command("convert")
def _convert(
    output: Annotated[Path, typer.Argument(help="The restorer to write (.safetensors).")],
    checkpoint: Annotated[Path, typer.Argument(help="A StableSR or SD 2.1 checkpoint.")],
    addon: Addons = None,
    dtype: Annotated[str, typer.Option(help="fp16, bf16 or fp32.")] = "fp16",
    prediction_type: Prediction = None,
    text: Annotated[bool, typer.Option(help="Keep the text tower, which only prompts need.")] = True,
) -> None:
    """Turn published files into one restorer, without loading them."""
    with _bars() as show:
        convert(
            output,
            checkpoint,
            addon or [],
            dtype=dtype,
            prediction_type=_prediction(prediction_type),
            text=text,
            on_step=show,
        )


def _prediction(name: str | None) -> PredictionType | None:
    if name is None or name == "eps" or name == "v":
        return name
    raise ValueError(f"No prediction type named {name!r}; choose eps or v.")


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
