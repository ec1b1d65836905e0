"""draw-people"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pfstorer_core.cli.app import bars

from ..people.drawn import DrawnPictures, draw_pictures
from .app import app

DEFAULTS = DrawnPictures()


@app.command("draw-people")
def _draw_people(
    folder: Annotated[Path, typer.Argument(help="Where the pictures go; a second call goes on.")],
    people: Annotated[int, typer.Option(help="How many people are drawn.")] = DEFAULTS.people,
    photos: Annotated[int, typer.Option(help="Photos of each.")] = DEFAULTS.photos,
    leaves: Annotated[int, typer.Option(help="Pictures of overlapping shapes, besides.")] = DEFAULTS.leaves,
    size: Annotated[int, typer.Option(help="Side of the pictures in pixels.")] = DEFAULTS.size,
    seed: Annotated[int, typer.Option(help="Same seed, same pictures.")] = DEFAULTS.seed,
) -> None:
    """Draw people to train a restorer on: pictures and, beside each, its caption in a .txt file, as the
    trainings of `python -m pfstorer_core` take them by --data FOLDER."""
    with bars() as show:
        draw_pictures(DrawnPictures(people, photos, leaves, size, seed), folder, show)
