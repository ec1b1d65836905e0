"""What API files read until somebody names their own: a picture, a film and a folder in the input folder."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

from . import HOST, ROOT
from .shipped.film import FILM
from .shipped.folder import PICTURES
from .shipped.parts import EXAMPLE

RATE, SOUND = Fraction(12), 24000
"""Frames and samples a second of an example film."""


def add_example_inputs(folder: Path) -> None:
    """Put them into a server's input folder."""
    shutil.copyfile(HOST / "input" / EXAMPLE, folder / EXAMPLE)
    group = ROOT / "assets" / "examples" / "group_bad.png"
    (folder / PICTURES).mkdir(exist_ok=True)
    shutil.copyfile(group, folder / PICTURES / group.name)
    write_film(folder / FILM, [np.asarray(Image.open(group).convert("RGB"))] * 3)


def write_film(path: Path, frames: Sequence[np.ndarray]) -> None:
    """Of frames uint8 [H, W, 3] with even sides, and a sine whose root mean square is 0.5 in each of two
    channels."""
    with av.open(path, "w") as film:
        pictures = film.add_stream("libx264", rate=RATE, options={"crf": "1"})
        pictures.height, pictures.width = (side // 2 * 2 for side in frames[0].shape[:2])
        pictures.pix_fmt = "yuv420p"
        sound = film.add_stream("aac", rate=SOUND)
        for frame in frames:
            even = np.ascontiguousarray(frame[: pictures.height, : pictures.width])
            film.mux(pictures.encode(av.VideoFrame.from_ndarray(even, "rgb24")))
        film.mux(pictures.encode())
        tone = np.sin(np.arange(SOUND * len(frames) // RATE, dtype=np.float32) / 10)[None]
        heard = av.AudioFrame.from_ndarray(tone, "fltp", "mono")
        heard.sample_rate = SOUND
        film.mux(sound.encode(heard))
        film.mux(sound.encode())
