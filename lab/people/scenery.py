"""Scenery: the backgrounds that stand behind a head."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from .fields import fractal, noise, spread
from .leaves import leaves, palette

Image = NDArray[Any]


def _ramp(rng: np.random.Generator, height: int, width: int) -> Image:
    angle = rng.uniform(0, 2 * np.pi)
    yy, xx = np.mgrid[0:height, 0:width].astype(np.float32)
    t = float(np.cos(angle)) * (xx / width - 0.5) + float(np.sin(angle)) * (yy / height - 0.5) + 0.5
    return spread(np.clip(t, 0, 1))


def background(rng: np.random.Generator, kind: str, height: int, width: int, blur: float) -> Image:
    """A background [H,W,3] in linear RGB; `blur` in [0, 1] is how far out of focus it lies.

    Raises:
        ValueError: `kind` is none of `shot.BACKGROUNDS`.
    """
    colours = palette(rng, 6).astype(np.float32)
    yy, xx = np.mgrid[0:height, 0:width].astype(np.float32)
    ramp = _ramp(rng, height, width)
    if kind == "studio":
        cx, cy = rng.uniform(0.2, 0.8, 2)
        glow = np.exp(-2.2 * ((xx / width - float(cx)) ** 2 + (yy / height - float(cy)) ** 2))
        tone = (0.35 + 0.9 * glow) * (1 + 0.05 * fractal(rng, height, width, width / 4, 5))
        image = spread(tone) * colours[0]
    elif kind == "gradient":
        image = colours[0] * ramp + colours[1] * (1 - ramp)
        image = image * spread(1 + 0.03 * fractal(rng, height, width, width / 8, 4))
    elif kind == "leaves":
        image = leaves(rng, height, width, count=48, smallest=0.04) ** 2.2
    elif kind == "bokeh":
        image = colours[0] * 0.3 * (0.5 + ramp)
        for _ in range(int(rng.integers(8, 40))):
            radius = int(width * rng.uniform(0.02, 0.09)) + 1
            row, column = int(rng.integers(height)), int(rng.integers(width))
            spot = np.zeros((2 * radius + 5, 2 * radius + 5), np.float32)
            middle = (radius + 2, radius + 2)
            cv2.circle(spot, middle, radius, 1.0, -1, cv2.LINE_AA)
            cv2.circle(spot, middle, radius, 1.2, max(1, radius // 8), cv2.LINE_AA)
            top, left = max(0, row - radius - 2), max(0, column - radius - 2)
            part = image[top : row + radius + 3, left : column + radius + 3]
            spot = spot[top - row + radius + 2 :, left - column + radius + 2 :]
            spot = np.ascontiguousarray(spot[: part.shape[0], : part.shape[1]])
            part += np.float32(rng.uniform(0.1, 0.7)) * spread(spot) * colours[int(rng.integers(6))]
        return np.clip(cv2.GaussianBlur(image, (0, 0), width / 180), 0, 1).astype(np.float32)
    elif kind == "stripes":
        angle, period = rng.uniform(0, np.pi), width * rng.uniform(0.02, 0.16)
        phase = (float(np.cos(angle)) * xx + float(np.sin(angle)) * yy) / float(period)
        wave = spread(1 / (1 + np.exp(-6 * np.sin(2 * np.pi * phase))))
        image = (colours[0] * wave + colours[1] * (1 - wave)) * (0.6 + 0.6 * ramp)
        image = image * spread(1 + 0.05 * fractal(rng, height, width, width / 8, 5))
    elif kind == "wood":
        stretch = noise(rng, height, width, (height / 2.0, width / 26.0))
        grain = noise(rng, height, width, (height / 3.0, 2.0))
        rings = np.sin(9 * stretch + 0.06 * xx)
        board = np.floor(xx / float(width * rng.uniform(0.12, 0.3)))
        tone = 1 + 0.16 * rings + 0.12 * grain + 0.10 * np.sin(board * 12.9)
        image = np.array((0.32, 0.17, 0.08), np.float32) * spread(tone) * (0.5 + 0.8 * ramp)
        image = image * (0.6 + 0.4 * colours[0] / colours[0].max())
    elif kind == "cloth":
        period = width * rng.uniform(0.012, 0.03)
        weave = np.sin(2 * np.pi * xx / period) * np.sin(2 * np.pi * yy / period)
        folds = fractal(rng, height, width, width / 3, 3)
        tone = (1 + 0.18 * weave) * (1 + 0.22 * np.sin(2.2 * folds))
        image = colours[0] * spread(tone) * (0.6 + 0.5 * ramp)
    else:
        raise ValueError(f"background: kind {kind!r} is unknown; see shot.BACKGROUNDS")
    image = np.clip(image, 0.003, 1).astype(np.float32)
    sigma = blur * width * 0.022
    if sigma > 0.6:
        scale = 2 if sigma > 2.5 else 1
        small = cv2.resize(image, (width // scale, height // scale), interpolation=cv2.INTER_AREA)
        small = cv2.GaussianBlur(small, (0, 0), sigma / scale)
        image = cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)
    return image.astype(np.float32)
