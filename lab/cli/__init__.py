"""The command line: ``python -m lab VERB``."""

from __future__ import annotations

from pfstorer_core.cli.app import run

from . import architecture, benchmarking, drawing, evaluating, recognising  # noqa: F401 - they register their verbs
from .app import app

__all__ = ["app", "main"]


def main() -> None:
    """Run the command line; what a user can mend ends in one line and status 1."""
    run(app)


@app.callback()
def _main() -> None:
    """Drawn people, the scoreboard, its judges, the benchmarks and the picture of the architecture."""
