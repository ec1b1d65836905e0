"""degrade, degrade-sheet"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import torch
import typer

from ..checkpoints.files import atomic_write, check_output
from ..degradation import PRESETS, degradation_sheet, degrade, draw
from ..imaging.pictures import check_picture_name, read_picture, write_picture
from .app import app


@app.command("degrade")
def _degrade(
    picture: Annotated[Path, typer.Argument(help="The good picture.")],
    output: Annotated[
        Path, typer.Argument(help="Where the bad picture goes (.png, .jpg, .webp, .tif, .bmp).")
    ],
    preset: Annotated[str, typer.Option(help=f"{', '.join(PRESETS)}.")] = "moderate",
    seed: Annotated[int, typer.Option(help="Same seed, same damage.")] = 0,
    keep_size: Annotated[bool, typer.Option(help="Enlarge it back to its size.")] = True,
) -> None:
    """Make a bad picture of a good one; prints what was done to it, as JSON."""
    check_picture_name(output)
    check_output(output)
    image = read_picture(picture)
    drawn = draw(preset, 1, torch.Generator().manual_seed(seed))
    write_picture(degrade(image, drawn, keep_size=keep_size), output)
    sys.stdout.write(json.dumps(drawn[0].to_json()) + "\n")


@app.command("degrade-sheet")
def _sheet(
    picture: Annotated[Path, typer.Argument(help="A good picture of a face.")],
    output: Annotated[Path, typer.Argument(help="Where the sheet goes (.png).")],
    seed: Annotated[int, typer.Option(help="Same seed, same sheet.")] = 0,
) -> None:
    """Show a picture under every stage and preset of the degradation."""
    if output.suffix.lower() != ".png":
        raise ValueError(f"{output} has to end in .png: sheets are written as PNG.")
    check_output(output)
    sheet = degradation_sheet(read_picture(picture), seed)
    with atomic_write(output) as temporary:
        sheet.save(temporary, "PNG")
