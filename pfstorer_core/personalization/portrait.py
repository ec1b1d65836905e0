"""A small picture of the person, which libraries of models show for the adapter: in its file, and beside it.

It is only there where somebody asks for it. Whoever sees the list of models sees the face.
"""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

from PIL import Image
from torch import Tensor

from ..imaging.faces import Box, largest_face
from ..imaging.pictures import to_bytes
from .photos import resized, square
from .previews import preview_path, write_preview

SIDE, QUALITY = 256, 90
"""Pixels, and of the JPEG: ComfyUI reads no header of more than a megabyte for its library."""
MARK = "portrait"
"""Stands in the picture beside an adapter where a preview has its training."""


def portrait_of(photo: Tensor) -> Tensor:
    """The square about the largest face in a photo [1, 3, H, W] in [0, 1], else its middle:
    [1, 3, SIDE, SIDE]."""
    box: Box | None = largest_face(photo[0])
    return resized([square(photo[0], box)], SIDE)


def portrait_metadata(portrait: Tensor) -> dict[str, str]:
    """Of a .safetensors file, by the names that ComfyUI's library, and others, look for."""
    file = io.BytesIO()
    Image.fromarray(to_bytes(portrait[0])).save(file, "JPEG", quality=QUALITY)
    encoded = base64.b64encode(file.getvalue()).decode("ascii")
    return {
        "ssmd_cover_images": json.dumps([encoded]),
        "modelspec.thumbnail": f"data:image/jpeg;base64,{encoded}",
    }


def write_beside(portrait: Tensor, adapter: Path) -> str:
    """Write it beside an adapter's file, unless a picture lies there that is none of ours; says what was
    done."""
    path = preview_path(adapter)
    if write_preview(portrait, path, MARK):
        return (
            f"Its portrait is in the file, and beside it as {path.name}: whoever sees either sees the face."
        )
    return f"Its portrait is in the file; {path.name} is a picture of yours and was left as it is."
