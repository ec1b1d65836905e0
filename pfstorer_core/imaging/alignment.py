"""Faces as they lie in FFHQ (Karras et al. 2019): turned upright, of one size, and put back as they were.

Points are (x, y) in pixels; pixel k covers k…k+1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from kornia.filters import gaussian_blur2d
from torch import Tensor

from .faces.windows import blended, smooth_step
from .resizing import resize

ALIGNMENTS = ("auto", "none", "FFHQ")
"""What can be asked for; auto is what a restorer's header says of itself."""
SIZE = 512
"""Pixels of an aligned face's side, in which all that follows is measured."""
HEAD_CENTRE, HEAD_RADII = (256.0, 262.0), (205.0, 245.0)
"""The ellipse that is put back: of forehead, chin and ears, with what hair lies about them. The corners of
the square show what stands beside, often another face."""
MIRRORED_BLUR = 10.0
"""Standard deviation of the blur of what is mirrored, FFHQ's: half a face twice is not to look like two."""
STILL_FRAMES, STILL_PIXELS = 3.0, 10.0
"""How near in time and place landmarks are when they are taken for those of a face that keeps still: standard
deviations, of frames and of pixels."""
LEAST_STEP, MOST_STEP = 1.05, 4.0
"""Pixels of the source a pixel of the result: from which it is their mean, and from which the source is
reduced first, for the memory's sake."""

Matrix = tuple[tuple[float, float, float], tuple[float, float, float]]


def check_alignment(name: str) -> None:
    """Raise ValueError unless it is one of `ALIGNMENTS`."""
    if name not in ALIGNMENTS:
        raise ValueError(f"No alignment named {name!r}; choose {' or '.join(ALIGNMENTS)}.")


@dataclass(frozen=True)
class Template:
    """Where an aligned face has its landmarks.

    Attributes:
        used: which of `Face.landmarks`; what is named twice counts twice.
        points: (x, y) of each, in pixels of a square.
        side: of that square.
    """

    used: tuple[int, ...]
    points: tuple[tuple[float, float], ...]
    side: int


FFHQ = Template((0, 1, 3), ((193.48, 240.45), (319.40, 240.69), (257.68, 371.78)), SIZE)
"""Right eye, left eye and mouth of FFHQ's mean face: facexlib's points, by which GFPGAN, CodeFormer and
DiffBIR align, the mouth between its two corners. The nose is left out: it leans where a head is turned."""


@dataclass(frozen=True)
class Alignment:
    """Where an aligned face lies in a picture.

    Attributes:
        matrix: rows whose products with (x, y, 1) of the picture are x and y in the face.
        side: of the face, in pixels.
        size: height and width of the picture.
    """

    matrix: Matrix
    side: int
    size: tuple[int, int]

    def scaled(self, size: tuple[int, int]) -> Alignment:
        """The same face in the picture at another size."""
        wide, tall = self.size[1] / size[1], self.size[0] / size[0]
        across, down = ((a * wide, b * tall, c) for a, b, c in self.matrix)
        return Alignment((across, down), self.side, size)

    def inverse(self) -> Tensor:
        """[2, 3]: from the face to the picture."""
        return torch.linalg.inv(torch.tensor((*self.matrix, (0, 0, 1)), dtype=torch.float64))[:2]


def similarity(source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The least-squares similarity target = a·source + b, points (x, y) taken as complex numbers. It never
    mirrors (Umeyama 1991 without reflection).

    Args:
        source, target: [..., K, 2].
    Returns:
        a, b: complex [...].
    """
    z, w = (torch.complex(points[..., 0], points[..., 1]) for points in (source, target))
    z0, w0 = z.mean(-1, keepdim=True), w.mean(-1, keepdim=True)
    a = ((z - z0).conj() * (w - w0)).sum(-1) / ((z - z0).abs() ** 2).sum(-1).clamp_min(1e-12)
    return a, w0.squeeze(-1) - a * z0.squeeze(-1)


def alignment_of(
    landmarks: Tensor, size: tuple[int, int], side: int = SIZE, template: Template = FFHQ
) -> Alignment:
    """The similarity that brings landmarks as near to a template's as it can.

    Args:
        landmarks: [6, 2] as `Face` has them.
        size: height and width of their picture.
        side: of the aligned face.
    Raises:
        ValueError: landmarks that are not numbers, or in one point.
    """
    points = landmarks[template.used, :].double().cpu()
    if not points.isfinite().all() or torch.pdist(points).max() < 1e-3:
        raise ValueError("Eyes and mouth of the face are unknown: find it with another detector, or crop it "
                         "without align.")  # fmt: skip
    target = torch.tensor(template.points, dtype=torch.float64) * (side / template.side)
    a, b = similarity(points, target)
    re, im = a.real.item(), a.imag.item()
    return Alignment(((re, -im, b.real.item()), (im, re, b.imag.item())), side, size)


def aligned_face(picture: Tensor, landmarks: Tensor, size: int = SIZE) -> tuple[Tensor, Alignment]:
    """A face, upright and in its place as in FFHQ; mirrored and blurred where the picture ends, as there.

    Args:
        picture: [B, 3, H, W] in [0, 1], the face at one place in all.
        landmarks: [6, 2] as `Face` has them.
        size: side of the result.
    Returns:
        face [B, 3, size, size] in [0, 1], and where it lies in the picture.
    Raises:
        ValueError: landmarks that are not numbers, or in one point.
    """
    alignment = alignment_of(landmarks, (picture.shape[-2], picture.shape[-1]), size)
    return cut_aligned(picture, alignment), alignment


def cut_aligned(picture: Tensor, alignment: Alignment) -> Tensor:
    """The face [B, 3, side, side] in [0, 1] of a picture [B, 3, H, W] of any size."""
    place = alignment.scaled((picture.shape[-2], picture.shape[-1]))
    to_picture, size = place.inverse(), (place.side, place.side)
    face = warp(picture, to_picture, size)
    beyond = _beyond(to_picture, size, place.size) * (SIZE / place.side)
    if beyond.any():
        deviation = MIRRORED_BLUR * place.side / SIZE
        kernel = 2 * math.ceil(3 * deviation) + 1
        blurred = gaussian_blur2d(face, (kernel, kernel), (deviation, deviation))
        face = torch.lerp(face, blurred, smooth_step(beyond / MIRRORED_BLUR).to(face).expand_as(face))
    return face.clamp(0, 1)


def paste_aligned(
    picture: Tensor,
    face: Tensor,
    alignment: Alignment,
    feather: float = 0.1,
    strength: float = 1.0,
    keep: Tensor | None = None,
) -> Tensor:
    """Put a face back as it lay; what lies outside of the head's ellipse stays as it is, bit for bit.

    Args:
        picture: [B, 3, H, W], of the alignment's size or a larger one of the same.
        face: [B, 3, h, w] in [0, 1], of any size.
        feather: width of the soft border as a part of the aligned square, 0…0.5.
        strength: 0 for the picture as it is, 1 for the face.
        keep: [B, 1, h, w] in [0, 1]: what stays as it is, whatever lies there; of any size.
    """
    place = alignment.scaled((picture.shape[-2], picture.shape[-1]))
    corners = torch.tensor([[0, 1, 0, 1], [0, 0, 1, 1]]) * float(place.side)
    back = place.inverse()
    reached = back @ torch.cat([corners, torch.ones(1, 4)]).double()
    low, high = reached.min(1).values.floor().int().tolist(), reached.max(1).values.ceil().int().tolist()
    left, top = (max(0, value) for value in low)
    right, bottom = min(high[0], place.size[1]), min(high[1], place.size[0])
    if left >= right or top >= bottom:
        return picture.clone()
    region, size = (slice(top, bottom), slice(left, right)), (bottom - top, right - left)
    to_face = torch.tensor(place.matrix, dtype=torch.float64)
    to_face[:, 2] += to_face[:, :2] @ torch.tensor([left, top]).double()
    stretched = torch.tensor([[face.shape[-1]], [face.shape[-2]]]) / place.side
    part = warp(face.to(picture), to_face * stretched, size).clamp(0, 1)
    weight = _head(to_face * (SIZE / place.side), size, feather).to(picture)
    return blended(picture, part, region, weight, strength, keep)


def _head(to_face: Tensor, size: tuple[int, int], feather: float) -> Tensor:
    """Weights [h, w] of what is put back: 1 in the head, 0 outside of it."""
    x, y = _points(to_face, size)
    distance = torch.hypot((x - HEAD_CENTRE[0]) / HEAD_RADII[0], (y - HEAD_CENTRE[1]) / HEAD_RADII[1])
    # Less than a pixel would be a flight of stairs.
    soft = max(feather * SIZE, _step(to_face))
    return smooth_step((1 - distance) * min(HEAD_RADII) / soft).float()


def _beyond(to_picture: Tensor, size: tuple[int, int], ends: tuple[int, int]) -> Tensor:
    """How far [h, w] outside of a picture that ends there each pixel lies, in pixels of the face."""
    x, y = _points(to_picture, size)
    across = (-x).maximum(x - ends[1]).clamp(min=0)
    down = (-y).maximum(y - ends[0]).clamp(min=0)
    return torch.hypot(across, down) / _step(to_picture)


def _step(matrix: Tensor) -> float:
    """Pixels of the source a pixel of the result."""
    return float(matrix[:, :2].norm(dim=0).max())


def _points(matrix: Tensor, size: tuple[int, int], fine: int = 1) -> tuple[Tensor, Tensor]:
    """x and y [h·fine, w·fine] in the source, of the middles of a result's pixels or parts of them."""
    down, across = ((torch.arange(side * fine).double() + 0.5) / fine for side in size)
    x, y = (row[0] * across[None] + row[1] * down[:, None] + row[2] for row in matrix)
    return x, y


def warp(picture: Tensor, matrix: Tensor, size: tuple[int, int], ends: str = "reflection") -> Tensor:
    """[B, C, H, W] -> [B, C, *size], bicubic; a pixel that covers several is their mean. Gradients flow
    through it.

    Args:
        matrix: [2, 3], from points of the result to those of the picture.
        ends: what lies beyond the picture: "reflection" of it, or "zeros".
    """
    step, (height, width) = _step(matrix), picture.shape[-2:]
    if step > MOST_STEP:
        picture = resize(picture, (math.ceil(2 * height / step), math.ceil(2 * width / step)))
    # A pixel that covers several is sampled as finely as they lie, and then reduced: nothing is skipped.
    fine = max(1, math.ceil(min(step / LEAST_STEP, 2 if step > MOST_STEP else MOST_STEP)))
    x, y = _points(matrix, size, fine)
    grid = torch.stack([2 * x / width - 1, 2 * y / height - 1], -1).to(picture)
    grid = grid.expand(len(picture), -1, -1, -1)
    return resize(F.grid_sample(picture, grid, "bicubic", ends, align_corners=False), size)


def steady(landmarks: Sequence[Tensor | None]) -> list[Tensor | None]:
    """The landmarks of a face in a film, without the detector's trembling.

    Each frame's are the mean of those that are near in time (`STILL_FRAMES`) and place (`STILL_PIXELS` of the
    aligned face): a face that moves is not held back, and pictures that have nothing to do with each other
    keep their own.

    Args:
        landmarks: [6, 2] of each frame, None where there is no face.
    """
    there = [n for n, points in enumerate(landmarks) if points is not None]
    result = list(landmarks)
    if not there:
        return result
    every = torch.stack([points for points in landmarks if points is not None]).double()
    used = every[:, FFHQ.used]
    template = torch.tensor(FFHQ.points, dtype=torch.float64)
    scales = similarity(used, template.expand_as(used))[0].abs()
    frames = torch.tensor(there).double()
    for n, frame in enumerate(there):
        near = (frames - frame).abs() <= 3 * STILL_FRAMES
        apart = (used[near] - used[n]).norm(dim=-1).amax(1) * scales[n]
        weights = torch.exp(
            -0.5 * (((frames[near] - frame) / STILL_FRAMES) ** 2 + (apart / STILL_PIXELS) ** 2)
        )
        result[frame] = torch.einsum("n,nkc->kc", weights / weights.sum(), every[near]).float()
    return result
