"""The command line: ``python -m pfstorer_core VERB``."""

from __future__ import annotations

import sys

from ..checkpoints.words import LONGEST, plain
from . import (  # noqa: F401 - they register their verbs
    checkpoints,
    degrading,
    evaluating,
    personalizing,
    restoring,
    training,
)
from .app import app

__all__ = ["app", "main"]


def main() -> None:
    """Run the command line; what a user can mend ends in one line and status 1."""
    try:
        app()
    except (OSError, ValueError, ImportError) as error:
        sys.stderr.write(f"error: {plain(error, LONGEST)}\n")
        sys.exit(1)


@app.callback()
def _main() -> None:
    """Personalized face restoration, without ComfyUI."""
