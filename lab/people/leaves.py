"""Dead leaves: occluding textured shapes whose statistics are close to photographs'.

The model is that of A. Lee, D. Mumford and J. Huang, "Occlusion models for natural images", IJCV
2001: shapes of power-law sizes (density r^-3) fall over each other, which gives a picture the
scale invariance and the heavy-tailed gradients of natural scenes.
"""

from __future__ import annotations

import string
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from .fields import fractal, noise

Image = NDArray[Any]


def palette(rng: np.random.Generator, count: int) -> NDArray[Any]:
    """`count` colours [count,3], linear RGB: mostly muted, related in hue, of varied lightness."""
    hue = rng.uniform(0, 1)
    hues = (hue + rng.choice([0.0, 0.0, 0.08, 0.5], count) + rng.normal(0, 0.05, count)) % 1.0
    saturation = np.clip(rng.beta(1.3, 3.0, count) + (rng.random(count) < 0.08) * 0.4, 0, 0.9)
    value = np.exp(rng.normal(-1.5, 0.8, count)).clip(0.01, 0.95)
    wheel = np.clip(np.abs((hues[:, None] * 6 + np.array([0.0, 4.0, 2.0])) % 6 - 3) - 1, 0, 1)
    colour = value[:, None] * (1 - saturation[:, None] * (1 - wheel))
    return colour.astype(np.float32)


def _outline(rng: np.random.Generator, radius: float) -> NDArray[Any]:
    """A closed outline [N,2] about the origin: disc, ellipse, polygon, blob or slab."""
    kind = rng.choice(5, p=(0.25, 0.2, 0.25, 0.2, 0.1))
    turn = rng.uniform(0, 2 * np.pi)
    if kind == 2:
        angles = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(3, 8))))
        shape = np.stack([np.cos(angles), np.sin(angles)], -1) * rng.uniform(0.7, 1.2)
    elif kind == 4:
        shape = np.array([(-1.6, -0.25), (1.6, -0.25), (1.6, 0.25), (-1.6, 0.25)])
        shape = shape * (1.0, rng.uniform(0.2, 3.0))
    else:
        angles = np.linspace(0, 2 * np.pi, 48, endpoint=False)
        reach = np.ones_like(angles)
        if kind == 3:
            for k in range(2, 6):
                reach += rng.normal(0, 0.25 / k) * np.cos(k * angles + rng.uniform(0, 6))
        squeeze = rng.uniform(0.3, 1.0) if kind == 1 else 1.0
        shape = np.stack([reach * np.cos(angles), reach * squeeze * np.sin(angles)], -1)
    c, s = np.cos(turn), np.sin(turn)
    return radius * shape @ np.array([[c, s], [-s, c]])


def _bank(rng: np.random.Generator, side: int) -> NDArray[Any]:
    """Textures [K,side,side] of about zero mean: rough, smooth, grain, weave, stripes, scales."""
    yy, xx = np.mgrid[0:side, 0:side].astype(np.float32)
    bend = noise(rng, side, side, side / 6)
    period = rng.uniform(4, 18)
    grain = noise(rng, side, side, (side / 6, 2.0)) + 0.6 * noise(rng, side, side, (side / 4, 6.0))
    weave = np.sin(2 * np.pi * xx / period) * np.sin(2 * np.pi * yy / period)
    stripes = np.tanh(3 * np.sin(2 * np.pi * xx / rng.uniform(5, 24) + 0.8 * bend))
    scales = np.abs(noise(rng, side, side, 7.0)) - 0.7 + 0.5 * noise(rng, side, side, 2.0)
    rough = fractal(rng, side, side, 32, 6, 0.75)
    soft = fractal(rng, side, side, 64, 3, 0.4)
    return np.stack([rough, rough.T, soft, grain, grain.T, weave, stripes, scales]).astype(np.float32)


def _marks(rng: np.random.Generator, image: Image) -> None:
    """Lines, twigs and lettering, drawn into `image` in place."""
    height, width = image.shape[:2]
    for _ in range(int(rng.integers(2, 9))):
        colour = tuple(float(v) for v in palette(rng, 1)[0])
        start = rng.uniform(0, 1, 2) * (width, height)
        steps = rng.normal(0, width / 14, (int(rng.integers(1, 7)), 2)) + rng.normal(0, width / 9, 2)
        path = np.concatenate([start[None], start + np.cumsum(steps, 0)])
        weight = max(1, int(abs(rng.normal(0, width / 150))))
        cv2.polylines(image, [(path * 16).astype(np.int32)], False, colour, weight, cv2.LINE_AA, 4)
    for _ in range(int(rng.integers(0, 4))):
        letters = rng.choice(list(string.ascii_letters + string.digits + " .-"), rng.integers(3, 16))
        colour = tuple(float(v) for v in palette(rng, 1)[0] * rng.choice([0.2, 1.8]))
        place = (int(rng.integers(-20, width - 20)), int(rng.integers(10, height)))
        size = rng.uniform(0.25, 1.1) * width / 256
        faces = (cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_DUPLEX, cv2.FONT_HERSHEY_COMPLEX)
        face = faces[int(rng.integers(3))]
        for row in range(int(rng.integers(1, 4))):
            at = (place[0], place[1] + int(row * 26 * size))
            weight = max(1, int(1.4 * size + rng.random()))
            ink = np.zeros((height, width), np.uint8)  # OpenCV 5 writes on bytes only
            cv2.putText(ink, "".join(letters), at, face, size, (255,), weight, cv2.LINE_AA)
            image += (ink[..., None] / np.float32(255)) * (np.array(colour, np.float32) - image)


def leaves(
    rng: np.random.Generator, height: int, width: int, count: int = 260, smallest: float = 0.008
) -> Image:
    """`count` leaves over a textured ground; sRGB [H,W,3] in [0, 1]. `smallest` in frame widths."""
    side = int(np.clip(max(height, width), 32, 256)) if count > 100 else 96
    bank = _bank(rng, side)
    colours = palette(rng, 24)
    ground = cv2.resize(bank[int(rng.integers(3))], (width, height))
    image = colours[0] * np.exp(0.25 * ground)[..., None]
    # Inverse transform of the density r^-3 between the smallest and the largest radius; a fifth
    # of the leaves are drawn uniformly large so that they, not the ground, fill the frame.
    low, high = smallest * width, 0.38 * width
    u = rng.random(count)
    radii = 1 / np.sqrt(u / low**2 + (1 - u) / high**2)
    large = rng.random(count) < 0.2
    radii[large] = rng.uniform(0.15 * high, high, int(large.sum()))
    # Far (first drawn) leaves are large more often, as a scene's backdrop is.
    order = np.argsort(-radii * np.exp(rng.normal(0, 0.8, count)))
    focus = rng.uniform(0, 0.6)
    depth_blur = rng.uniform(0, 0.012) * width if rng.random() < 0.6 else 0.0
    light = rng.uniform(0, 2 * np.pi)
    for index, radius in enumerate(radii[order]):
        if depth_blur > 0.5 and index == int(focus * count):
            image = cv2.GaussianBlur(image, (0, 0), depth_blur)
        centre = rng.uniform(-0.05, 1.05, 2) * (width, height)
        points = _outline(rng, float(radius)) + centre
        x0, y0 = np.maximum(np.floor(points.min(0)).astype(int) - 1, 0)
        x1, y1 = np.minimum(np.ceil(points.max(0)).astype(int) + 2, (width, height))
        if x1 - x0 < 2 or y1 - y0 < 2:
            continue
        mask = np.zeros((y1 - y0, x1 - x0), np.uint8)
        cv2.fillPoly(mask, [((points - (x0, y0)) * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
        alpha = mask.astype(np.float32) * np.float32(1 / 255)
        h, w = alpha.shape
        texture = bank[int(rng.integers(len(bank)))]
        if h > side or w > side:
            texture = cv2.resize(texture, (max(w, side), max(h, side)))
        r, c = (int(rng.integers(texture.shape[k] - n + 1)) for k, n in ((0, h), (1, w)))
        tone = abs(rng.normal(0, 0.22)) * texture[r : r + h, c : c + w]
        slope = rng.normal(0, 0.35, 2) + 0.25 * np.array((np.cos(light), np.sin(light)))
        tone += (np.linspace(-1, 1, w, dtype=np.float32) * np.float32(slope[0]))[None]
        tone += (np.linspace(-1, 1, h, dtype=np.float32) * np.float32(slope[1]))[:, None]
        colour = colours[int(rng.integers(24))] * np.float32(np.exp(rng.normal(0, 0.25)))
        fill = np.exp(tone)[..., None] * colour
        patch = image[y0:y1, x0:x1]
        if radius > 0.05 * width and rng.random() < 0.5:
            soft = cv2.GaussianBlur(alpha, (0, 0), float(0.06 * radius + 0.5))
            patch *= 1 - 0.5 * soft[..., None]
        image[y0:y1, x0:x1] = patch + alpha[..., None] * (fill - patch)
    return np.clip(np.maximum(image, 0) ** np.float32(1 / 2.2), 0, 1).astype(np.float32)


def dead_leaves(rng: np.random.Generator, size: int) -> Image:
    """A natural-statistics picture without a face: sRGB float32 [size,size,3] in [0, 1].

    Raises:
        ValueError: `size` below 16.
    """
    if size < 16:
        raise ValueError(f"dead_leaves: size {size} is too small; ask for 16 or more")
    image = leaves(rng, size, size, count=int(rng.integers(50, 260)))
    image = np.ascontiguousarray(image ** np.float32(2.2))
    _marks(rng, image)
    shade = 1 + 0.25 * noise(rng, size, size, size / 2)
    image = image * shade[..., None] * np.float32(np.exp(rng.normal(0.15, 0.25)))
    if rng.random() < 0.25:
        image = cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.4, 1.3)))
    return np.clip(np.maximum(image, 0) ** np.float32(1 / 2.2), 0, 1).astype(np.float32)
