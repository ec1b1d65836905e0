"""mix-people"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pfstorer_core.cli.app import bars

from ..mixed_people import MixedPeople, mix_people
from .app import app

DEFAULTS = MixedPeople()


@app.command("mix-people")
def _mix_people(
    source: Annotated[Path, typer.Argument(help="A folder of photographs for each of a few people.")],
    folder: Annotated[Path, typer.Argument(help="Where the pictures go; a second call goes on.")],
    people: Annotated[int, typer.Option(help="How many people are mixed.")] = DEFAULTS.people,
    photos: Annotated[int, typer.Option(help="Pictures of each.")] = DEFAULTS.photos,
    size: Annotated[int, typer.Option(help="Side of the pictures in pixels.")] = DEFAULTS.size,
    seed: Annotated[int, typer.Option(help="Same seed, same pictures.")] = DEFAULTS.seed,
) -> None:
    """Mix many people from photographs of a few, several pictures of each, as the trainings of `python -m
    pfstorer_core` take them by --data FOLDER where folders are people."""
    with bars() as show:
        mix_people(source, MixedPeople(people, photos, size, seed), folder, show)
