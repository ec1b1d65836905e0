"""Contact sheets: pictures side by side, to be looked at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray


def contact_sheet(
    rows: Sequence[Sequence[NDArray[Any]]], cell: int | None = None, gap: int = 4
) -> NDArray[Any]:
    """Rows of RGB images [H,W,3] in [0, 1] on a white sheet; every image scaled to `cell` pixels.

    `cell` is the first image's height where not given. Short rows leave white room.

    Raises:
        ValueError: no image at all.
    """
    if not any(len(row) for row in rows):
        raise ValueError("contact_sheet: no image given; pass at least one row with one image")
    side = cell or next(row[0].shape[0] for row in rows if len(row))
    columns = max(len(row) for row in rows)
    sheet = np.ones((len(rows) * (side + gap) + gap, columns * (side + gap) + gap, 3), np.float32)
    for r, row in enumerate(rows):
        for c, image in enumerate(row):
            method = cv2.INTER_AREA if image.shape[0] > side else cv2.INTER_CUBIC
            scaled = cv2.resize(image, (side, side), interpolation=method)
            top, left = gap + r * (side + gap), gap + c * (side + gap)
            sheet[top : top + side, left : left + side] = np.clip(scaled, 0, 1)
    return sheet
