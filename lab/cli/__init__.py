"""The command line: ``python -m lab VERB``."""

from __future__ import annotations

from pfstorer_core.cli.app import run

from . import (  # noqa: F401 - they register their verbs
    architecture,
    benchmarking,
    drawing,
    evaluating,
    examples,
    mixing,
    recognising,
)
from .app import app

__all__ = ["app", "main"]


def main() -> None:
    """Run the command line; what a user can mend ends in one line and status 1."""
    run(app)


@app.callback()
def _main() -> None:
    """Drawn people, example pictures, the scoreboard, its judges, benchmarks, the architecture."""
