"""align-faces"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from ..imaging.alignment import SIZE, aligned_face
from ..imaging.faces import face_finder
from ..imaging.pictures import read_picture, write_picture
from ..training.data import SUFFIXES
from ..training.progress import Progress, silent
from .app import app, bars

LEAST = 0.5
"""A face that has to be enlarged more than by twice is left out: what is learned from should be sharp."""


def align_faces(
    folder: Path, output: Path, size: int = SIZE, on_progress: Callable[[Progress], None] = silent
) -> tuple[int, list[str]]:
    """Cut the faces out of all pictures of a folder, upright and in their place as in FFHQ, and write them as
    PNG files; a caption (name.txt) goes with its picture.

    Returns:
        how many faces were written, and a sentence for each picture that has none large enough.
    Raises:
        NotADirectoryError: no such folder. ValueError: no pictures in it; the same folder twice.
        OSError: a picture that cannot be read, or a folder that cannot be written.
    """
    if folder.resolve() == output.resolve():
        raise ValueError("The aligned faces would lie among the pictures: name another folder for them.")
    pictures = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if not pictures:
        raise ValueError(f"{folder} holds no pictures ({', '.join(SUFFIXES)}).")
    output.mkdir(parents=True, exist_ok=True)
    written, left_out, find = 0, list[str](), face_finder()
    for number, path in enumerate(pictures, 1):
        picture, faces = read_picture(path), 0
        for face in find(picture[0]):
            crop, place = aligned_face(picture, face.landmarks, size)
            if (place.matrix[0][0] ** 2 + place.matrix[0][1] ** 2) ** -0.5 < LEAST:
                continue
            name = f"{path.stem}{f'_{faces + 1}' if faces else ''}"
            write_picture(crop, output / f"{name}.png")
            if (caption := path.with_suffix(".txt")).is_file():
                (output / f"{name}.txt").write_bytes(caption.read_bytes())
            faces += 1
        written += faces
        if not faces:
            left_out.append(f"{path.name}: no face of {round(size * LEAST)} pixels or more")
        on_progress(Progress("align", number, len(pictures)))
    return written, left_out


@app.command("align-faces")
def _align_faces(
    folder: Annotated[Path, typer.Argument(help="Photographs of people.")],
    output: Annotated[Path, typer.Argument(help="Where the faces go, each a .png.")],
    size: Annotated[int, typer.Option(help="Side of the aligned faces in pixels.", min=16)] = SIZE,
) -> None:
    """Cut faces out of photographs as in FFHQ: what train-prior, train-mask, train-cleaner --recognizer and
    train-control --aligned learn from."""
    with bars() as show:
        written, left_out = align_faces(folder, output, size, show)
    sys.stdout.write("\n".join([f"{written} faces in {output}", *left_out]) + "\n")
