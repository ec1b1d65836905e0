"""The shipped workflows as a server takes them: the files of workflows/api."""

from __future__ import annotations

import json
from typing import Any

from . import ROOT
from .console import HarnessError

FOLDER = ROOT / "workflows" / "api"
PATIENCE = 3600.0
"""Seconds that one of them may run."""


def read_api(workflow: str) -> dict[str, Any]:
    """A workflow by its name.

    Raises:
        HarnessError: this copy of the repository lacks it.
    """
    path = FOLDER / f"{workflow}.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise HarnessError(f"{path.relative_to(ROOT)} is missing from this copy") from None
