"""architecture"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..architecture import ROOT, draw_architecture
from .app import app


@app.command("architecture")
def _architecture(
    picture: Annotated[Path, typer.Argument(help="PNG to write.")] = ROOT / "docs" / "architecture.png",
) -> None:
    """Draw the rooms of the project and which imports which (needs matplotlib)."""
    draw_architecture(picture)
