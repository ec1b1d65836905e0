"""check-photos"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from ..checkpoints.files import check_output
from ..imaging.faces import face_finder
from ..imaging.pictures import check_picture_name, read_picture, write_picture
from ..personalization.photo_checks import check_photos
from ..recognition import load_recognizer
from .app import app


@app.command("check-photos")
def _check_photos(
    photos: Annotated[list[Path], typer.Argument(help="Photos of one person.")],
    recognizer: Annotated[
        Path | None, typer.Option(help="What tells the odd one out, such as dlib_resnet29.safetensors.")
    ] = None,
    size: Annotated[int, typer.Option(help="Side of the pictures that the restorer draws.", min=16)] = 256,
    sheet: Annotated[Path | None, typer.Option(help="Picture of all faces with their verdicts.")] = None,
) -> None:
    """Say of each photo whether it is fit to learn the person from, and why not."""
    if sheet is not None:
        check_picture_name(sheet)
        check_output(sheet)
    embed = None if recognizer is None else load_recognizer(recognizer).embed
    checked = check_photos([read_picture(path)[0] for path in photos], embed, size, face_finder())
    names = [f"{number}: {path.name}" for number, path in enumerate(photos, start=1)]
    sys.stdout.write("\n".join([*names, *checked.lines()]) + "\n")
    if sheet is not None:
        write_picture(checked.sheet(), sheet)
