"""Pieces of prompts, and what they need on the server, that several modules share."""

from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

from harness.host import ComfyServer
from pfstorer_core import Restorer
from pfstorer_core.restorers.files import save_restorer

from ..unit.small import small_diffbir, small_restorer


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def png(pixels: np.ndarray) -> bytes:
    """Of uint8 [H, W, 3]."""
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def add_small_restorer(server: ComfyServer, name: str) -> None:
    """Put the unit tests' restorer where the server finds it."""
    _add(server, name, small_restorer())


def add_small_diffbir(server: ComfyServer, name: str) -> None:
    """And their DiffBIR, for pictures of 32 pixels."""
    _add(server, name, small_diffbir())


def _add(server: ComfyServer, name: str, restorer: Restorer) -> None:
    folder = server.base / "models" / "restorers"
    folder.mkdir(parents=True, exist_ok=True)
    save_restorer(restorer, folder / name)
