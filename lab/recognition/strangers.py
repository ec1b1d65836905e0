"""The atlas of people whom a likeness is held against."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from einops import rearrange
from PIL import Image

from pfstorer_core.imaging.alignment import aligned_face
from pfstorer_core.imaging.faces import find_faces
from pfstorer_core.imaging.pictures import read_picture
from pfstorer_core.recognition.likeness import CELL, COLUMNS

QUALITY = 88


def cut_strangers(photos: Sequence[Path], output: Path) -> None:
    """Write the largest face of each photo, as it lies in FFHQ, into one JPEG file.

    Raises:
        ValueError: a photo without a face, or more or less of them than make full rows.
    """
    if not photos or len(photos) % COLUMNS:
        raise ValueError(f"{len(photos)} photos do not fill rows of {COLUMNS}.")
    faces = []
    for path in photos:
        picture = read_picture(path)
        found = find_faces(picture[0])
        if not found:
            raise ValueError(f"No face is found in {path}.")
        largest = max(found, key=lambda face: face.box[2] - face.box[0])
        faces.append(aligned_face(picture, largest.landmarks, CELL)[0][0])
    cells = rearrange(np.stack([face.numpy() for face in faces]), "(r c) k h w -> (r h) (c w) k", c=COLUMNS)
    Image.fromarray((cells * 255).round().astype(np.uint8)).save(output, quality=QUALITY)
