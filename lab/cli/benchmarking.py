"""benchmark"""

from __future__ import annotations

import subprocess
import sys
from typing import Annotated

import typer

from .. import benchmarks
from .app import app

SPEED = ("memory", "operations", "personalized_step", "reference_step", "step", "tiles")
QUALITY = (
    "choosing",
    "first_stage",
    "guidance",
    "layouts",
    "personalization",
    "photographs",
    "prior",
    "samplers",
)
"""These take long, and only run when they are named."""

# --help belongs to the benchmark that is named.
PASSED_ON = {"ignore_unknown_options": True, "allow_extra_args": True}


@app.command("benchmark", context_settings=PASSED_ON, add_help_option=False)
def _benchmark(
    context: typer.Context,
    name: Annotated[
        str,
        typer.Argument(help=f"{', '.join((*SPEED, *QUALITY))}. Default: those of speed, {', '.join(SPEED)}."),
    ] = "",
) -> None:
    """Measure speed, memory or quality against a baseline in the same run. `benchmark NAME --help` tells the
    options of one."""
    if name == "--help":
        typer.echo(context.get_help())
        return
    if name and name not in SPEED + QUALITY:
        raise ValueError(f"No benchmark named {name!r}; choose one of {', '.join((*SPEED, *QUALITY))}.")
    for one in [name] if name else SPEED:
        command = [sys.executable, "-m", f"{benchmarks.__name__}.{one}", *context.args]
        if status := subprocess.run(command).returncode:
            raise typer.Exit(status)
