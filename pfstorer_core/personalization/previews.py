"""Pictures of a person's training: the crops that it learns from, above what it has come to."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from ..imaging.canvas import resize
from ..imaging.pictures import read_picture, write_picture

MARK = "pfstorer.run_key"
"""Text in the PNG files of ours: the training that a preview is of."""
ACROSS = 4
"""Pictures in a row of a preview."""
ALONE = 256
"""Side of a crop in pixels where there is no other picture to go by."""
GUESSED = (1.0, 0.6, 0.0)
"""Colour of the frame about a crop in which no face was found."""


def crops_sheet(crops: Sequence[tuple[Tensor, bool]], side: int) -> Tensor:
    """Squares [3, S, S] in rows of four, in the order of the photos: [1, 3, rows · side, 4 · side].

    Those that are a photo's middle, since nobody knows where its face is, have an orange frame; so have those
    whose face could not be aligned.
    """
    cells = [resize(crop[None].float().cpu(), (side, side)).clamp(0, 1)[0] for crop, _ in crops]
    wide = max(1, side // 32)
    for cell, (_, found) in zip(cells, crops, strict=True):
        if not found:
            inside = cell[:, wide:-wide, wide:-wide].clone()
            cell[:] = torch.tensor(GUESSED)[:, None, None]
            cell[:, wide:-wide, wide:-wide] = inside
    cells += [torch.zeros(3, side, side)] * (-len(cells) % ACROSS)
    rows = [torch.cat(cells[k : k + ACROSS], dim=-1) for k in range(0, len(cells), ACROSS)]
    return torch.cat(rows, dim=-2)[None]


def with_crops(crops: Sequence[tuple[Tensor, bool]], sheet: Tensor | None) -> Tensor:
    """A sheet of four pictures in a row [1, 3, H, 4 · side], or none, below `photos.face_crops`."""
    if sheet is None:
        return crops_sheet(crops, ALONE)
    sheet = sheet.float().cpu()
    return torch.cat([crops_sheet(crops, sheet.shape[-1] // ACROSS), sheet], dim=-2)


def preview_path(adapter: Path) -> Path:
    return adapter.with_suffix(".png")


def write_preview(sheet: Tensor, path: Path, key: str) -> bool:
    """Write the preview of the training `key`, unless a picture lies there that is none of ours."""
    if path.exists() and preview_key(path) is None:
        return False
    write_picture(sheet, path, {MARK: key})
    return True


def read_preview(path: Path, key: str) -> Tensor | None:
    """The preview of the training `key`; None where there is none."""
    return read_picture(path) if path.exists() and preview_key(path) == key else None


def preview_key(path: Path) -> str | None:
    """Of which training a picture is; None for one that is not ours."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a large picture, which is not read
            with Image.open(path, formats=("PNG",)) as image:
                return image.info.get(MARK)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None
