"""Inputs that several nodes have."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io


def percent(name: str, default: float, what: str) -> Any:
    """How far sampling is, 0…1, when a node begins or ends to act."""
    return io.Float.Input(name, default=default, min=0.0, max=1.0, step=0.01, optional=True,
                          advanced=True, tooltip=f"How far sampling is when it {what}.")  # fmt: skip
