"""The app that every verb registers with, and what verbs share."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import torch
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

from ..checkpoints.words import LONGEST, plain
from ..diffusion.schedule import PredictionType
from ..restorers.convert import DTYPES
from ..training.processes import Processes
from ..training.progress import Progress

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

Folder = Annotated[
    Path,
    typer.Argument(help="Folder of the run: checkpoints, sheets, logs. A second call resumes."),
]
Addons = Annotated[
    list[Path] | None,
    typer.Option(
        "--addon",
        help="StableSR's own weights or DiffBIR's control network on SD 2.1, a CFW autoencoder, DiffBIR's "
        "cleaner (SwinIR). Repeatable.",
    ),
]
Prediction = Annotated[str | None, typer.Option(help="eps or v, where header and file name do not tell.")]
Variant = Annotated[
    str | None,
    typer.Option(
        help="Which of DiffBIR's weights: v1_face, v1_general, v2 or v2.1; else header or name tell."
    ),
]


Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, …")]
OwnDevice = Annotated[
    str | None,
    typer.Option(
        "--device",
        help="cpu, cuda, cuda:1, …; default: of several processes each its own GPU, of one the cpu.",
        show_default=False,
    ),
]
Graphs = Annotated[
    bool,
    typer.Option(
        "--graphs",
        help="Replay what the network launches as CUDA graphs. Nobody has run this on a GPU yet.",
    ),
]


def run(app: typer.Typer) -> None:
    """Run a command line; what a user can mend ends in one line and status 1."""
    try:
        app()
    except (OSError, ValueError, ImportError) as error:
        sys.stderr.write(f"error: {plain(error, LONGEST)}\n")
        sys.exit(1)


def device_named(name: str) -> torch.device:
    """The device of that name; raises ValueError where there is none, before anything is loaded."""
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(
            f"No device named {name!r} can be used here: choose cpu, or cuda on a GPU."
        ) from error
    if device.type == "meta":
        raise ValueError("The device meta holds no numbers: choose cpu or cuda.")
    return device


def device_of(name: str | None, processes: Processes) -> torch.device:
    """The device of that name; without one, of several processes each its own."""
    if name is not None:
        return device_named(name)
    return processes.device if processes.count > 1 else torch.device("cpu")


def dtype_named(name: str) -> torch.dtype:
    """The number format of that name; raises ValueError."""
    if name not in DTYPES:
        raise ValueError(f"No dtype named {name!r}; choose one of {', '.join(DTYPES)}.")
    return DTYPES[name]


def prediction_named(name: str | None) -> PredictionType | None:
    """The prediction type of that name; raises ValueError."""
    if name is None or name == "eps" or name == "v":
        return name
    raise ValueError(f"No prediction type named {name!r}; choose eps or v.")


@contextmanager
def bars(stderr: bool = False, stopped: str = "") -> Iterator[Callable[[Progress], None]]:
    """One progress bar a stage; yields what a training calls after each step.

    Args:
        stderr: show them there, since what is written to stdout is a result.
        stopped: said where the user stops it after a first step (Ctrl-C).
    """
    tasks: dict[str, TaskID] = {}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    loss = TextColumn("{task.fields[loss]}")
    bars = Bars(*columns, TimeRemainingColumn(), loss, console=Console(stderr=stderr))

    def show(progress: Progress) -> None:
        if not tasks:
            bars.start()  # not before: without a task it would leave an empty line, ahead of an error
        if progress.stage not in tasks:
            tasks[progress.stage] = bars.add_task(progress.stage, total=progress.steps, loss="")
        loss = "" if progress.loss is None else f"loss {progress.loss:.4f}"
        bars.update(tasks[progress.stage], completed=progress.step, loss=loss)

    said = ""
    try:
        yield show
    except KeyboardInterrupt:
        said = stopped if tasks else ""
        raise
    finally:
        if tasks:
            bars.stop()
        if said:
            sys.stderr.write(f"{said}\n")


def kept_in(folder: Path, then: str = "") -> str:
    """What is said where a training in that folder is stopped.

    Args:
        then: how else one may go on.
    """
    return f"Stopped. What was trained so far is in {folder}: the same command goes on from there{then}."
