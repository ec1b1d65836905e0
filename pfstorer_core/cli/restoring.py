"""restore"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from ..checkpoints.files import check_output
from ..imaging.alignment import check_alignment
from ..imaging.originals import Original
from ..imaging.pictures import check_picture_name
from ..restore.folder import restore_folder
from ..restore.restorer import PictureRestorer
from ..restore.settings import RestoreSettings
from ..restore.sources import pictures_in
from ..training.journal import key_of
from ..training.processes import Processes, launched_processes
from ..training.progress import Progress
from .app import app, bars
from .options import gathers
from .restore_options import Whom, settings_options, whom_options
from .restorer_options import Loading, Recognised, loading_options, recognised_options


@dataclass(frozen=True)
class Many:
    """How a folder is restored."""

    batch: int
    ending: str
    overwrite: bool


def many_options(
    batch: Annotated[
        int,
        typer.Option(help="Of a folder: pictures of one size that go through the network together.", min=1),
    ] = 1,
    format: Annotated[
        str, typer.Option(help="Of a folder's results, such as png; default: that of each picture.")
    ] = "",
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Of a folder: make anew what is finished, or was there before."),
    ] = False,
) -> Many:
    """How a folder is restored."""
    ending = format.lower().removeprefix(".")
    return Many(batch, ending and f".{ending}", overwrite)


@app.command("restore")
@gathers(
    settings=settings_options,
    recognised=recognised_options,
    whom=whom_options,
    many=many_options,
    loading=loading_options,
)
def _restore(
    restorer: Annotated[Path, typer.Argument(help="A restorer (.safetensors, .ckpt).")],
    picture: Annotated[
        Path, typer.Argument(help="The bad picture, the first of several in a file; or a folder of them.")
    ],
    output: Annotated[
        Path,
        typer.Argument(
            help="Where the restored picture goes (.png, .jpg, .webp, .tif, .bmp); of a folder another one."
        ),
    ],
    *,
    settings: RestoreSettings,
    align: Annotated[
        str,
        typer.Option(
            help="FFHQ restores the largest face alone, aligned, and puts it back (with --people all); none "
            "all of the picture; auto what the restorer says of itself, where a face is found."
        ),
    ] = "auto",
    recognised: Recognised,
    whom: Whom,
    many: Many,
    loading: Loading,
) -> None:
    """Restore and enlarge a picture, or all of a folder and the folders in it, which as many processes share
    as `accelerate launch` starts. A second call goes on where the first was stopped."""
    check_alignment(align)
    if recognised.photos and whom.people:
        raise ValueError("--photo is one person and --people are several: choose one.")
    processes, original = launched_processes(), None
    # Others wait: what is wrong is said once.
    with processes.main_first():
        if not picture.is_dir():
            original = _original(picture, output, processes)
        elif processes.is_main:
            pictures_in(picture, output, many.ending)
        guidance = recognised.load()
        model = loading.load(restorer, settings, processes)
        identities, notes = whom.identities(model)
        people, left_out = whom.known(model)
        ready = PictureRestorer(
            model, settings, align, identities, people, guidance, many.batch, loading.graphs
        )
    for note in [*notes, *left_out] if processes.is_main else []:
        typer.echo(note)
    if original is not None:
        with bars() as show:
            [done] = ready.restore([original.picture], lambda step, of: show(Progress("restore", step, of)))
        original.write(done.image, output)
        for note in recognised.notes(guidance):
            typer.echo(note)
        return
    numbers = settings, align, *whom.numbers, recognised.strength, recognised.mask, *loading.numbers
    files = [restorer, *loading.files, *recognised.files, *whom.files(people)]
    with bars(stopped=f"Stopped. What is done is in {output}: the same command goes on from there.") as show:
        summary = restore_folder(
            ready,
            picture,
            output,
            key=key_of(numbers, files),
            ending=many.ending,
            overwrite=many.overwrite,
            processes=processes,
            on_progress=show,
        )
    if processes.is_main:
        sys.stdout.write(summary.told("restored", output))
        sys.exit(bool(summary.failed))


def _original(picture: Path, output: Path, processes: Processes) -> Original:
    """The one picture; raises ValueError or OSError where it cannot be read, or its result not be written."""
    if processes.count > 1:
        raise ValueError(f"{processes.count} processes share a folder, not a picture: start one process.")
    check_picture_name(output)
    check_output(output)
    return Original.read(picture)
