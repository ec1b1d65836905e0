"""Aligned faces: five landmarks brought to where face recognition expects them."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from kornia.color import rgb_to_grayscale
from kornia.geometry.transform import warp_affine
from torch import Tensor

from pfstorer_core.imaging.alignment import similarity

FIVE = ("left_pupil", "right_pupil", "nose_tip", "left_mouth", "right_mouth")
"""Landmarks that a face is aligned by, the picture's left first."""

TEMPLATE = (
    (38.2946, 51.6963),
    (73.5318, 51.5014),
    (56.0252, 71.7366),
    (41.5493, 92.3655),
    (70.7299, 92.2041),
)
"""Where ArcFace (Deng et al. 2019) has them in a crop of 112 x 112 pixels."""

CROP = 112


def align(images: Tensor, five: Tensor, zoom: float = 1.0, size: int = CROP) -> Tensor:
    """Cut out faces, turned and scaled so that their five landmarks lie on the template.

    Args:
        images: [B, 3, H, W] in [0, 1].
        five: [B, 5, 2] pixels (x, y) of the FIVE; pixel i covers i…i+1.
        zoom: of the template about the crop's centre: 1 is ArcFace's tight crop, less shows more.
    Returns:
        [B, 3, size, size]; grey where the picture ends.
    """
    template = torch.tensor(TEMPLATE, dtype=five.dtype) + 0.5
    template = ((template - CROP / 2) * zoom + CROP / 2) * (size / CROP)
    a, b = similarity(template.to(five.device).expand_as(five), five)
    # Where a pixel of the crop covers several of the picture, it is their mean.
    fine = max(1, math.ceil(float(a.abs().max()) - 0.25))
    # From the picture to the crop, as OpenCV counts: the middle of a pixel at (0, 0).
    turn, middle = fine / a, 0.5 + 0.5j
    shift = turn * (middle - b) - middle
    rows = torch.stack([turn.real, -turn.imag, shift.real, turn.imag, turn.real, shift.imag], -1)
    matrix = rearrange(rows, "b (xy column) -> b xy column", xy=2).to(images)
    crops = warp_affine(images - 0.5, matrix, (size * fine, size * fine)) + 0.5
    return F.avg_pool2d(crops, fine)


def without_colour(crops: Tensor) -> Tensor:
    """Grey copies whose mean is 0.5 and whose deviation is 0.2: no hue, no exposure, no contrast is left.

    Args:
        crops: [B, 3, H, W] in [0, 1].
    """
    luma = rgb_to_grayscale(crops)
    mean, std = luma.mean((2, 3), keepdim=True), luma.std((2, 3), keepdim=True)
    return (0.5 + 0.2 * (luma - mean) / std.clamp_min(1e-3)).clamp(0, 1).expand_as(crops)
