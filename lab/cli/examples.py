"""example-pictures"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..architecture import ROOT
from .app import app


@app.command("example-pictures")
def _example_pictures(
    people: Annotated[Path, typer.Argument(help="Folder with photos/ and masks/ of PyPI's openpeople.")],
    output: Annotated[Path, typer.Argument(help="Where the pictures go.")] = ROOT / "assets" / "examples",
) -> None:
    """Make the pictures that the node Example Pictures offers; the same photographs give the same files."""
    from ..example_pictures import make_example_pictures

    make_example_pictures(people, output)
