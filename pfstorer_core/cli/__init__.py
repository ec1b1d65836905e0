"""The command line: ``python -m pfstorer_core VERB``."""

from __future__ import annotations

from . import (  # noqa: F401 - they register their verbs
    aligning,
    checking,
    checkpoints,
    cleaning,
    controlling,
    degrading,
    first_stage,
    masking,
    personalizing,
    priors,
    restoring,
    starting,
    training,
    verifying,
)
from .app import app, run

__all__ = ["app", "main"]


def main() -> None:
    """Run the command line; what a user can mend ends in one line and status 1."""
    run(app)


@app.callback()
def _main() -> None:
    """Personalized face restoration, without ComfyUI."""
