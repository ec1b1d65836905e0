"""Parts of a picture: cut out about a face, with what is around it, and put back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..canvas import resize
from .face import Box

ROUNDING = 1 / 512
"""Half a step of 8 bits: nearer to 1 than that, a mask that was resized is 1."""


@dataclass(frozen=True)
class Window:
    """A part of a picture, in whole pixels.

    Attributes:
        size: height and width of the picture that it was cut from.
    """

    left: int
    top: int
    right: int
    bottom: int
    size: tuple[int, int]

    def scaled(self, size: tuple[int, int]) -> Window:
        """The same part of the picture at another size."""
        tall, wide = size[0] / self.size[0], size[1] / self.size[1]
        left, right = round(self.left * wide), round(self.right * wide)
        top, bottom = round(self.top * tall), round(self.bottom * tall)
        return Window(left, top, max(right, left + 1), max(bottom, top + 1), size)


def box_of_mask(mask: Tensor) -> tuple[int, int, int, int] | None:
    """About what a mask [H, W] shows; None where that is nothing."""
    rows, columns = (mask > 0.5).nonzero().unbind(1)
    if not len(rows):
        return None
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


def masks_of_boxes(boxes: Sequence[Box], size: tuple[int, int]) -> Tensor:
    """A mask [N, H, W] of each box."""
    masks = torch.zeros(len(boxes), *size)
    for mask, (left, top, right, bottom) in zip(masks, boxes, strict=True):
        mask[round(top) : round(bottom), round(left) : round(right)] = 1
    return masks


def mask_of_others(own: Box, others: Sequence[Box], size: tuple[int, int], soft: float) -> Tensor:
    """Where other faces are, to be kept as they are while one is put back beside them.

    Args:
        own: of that face: where another box lies in it, this one's face goes on.
        size: height and width of the picture.
        soft: pixels over which a box's surroundings, too, are kept, less and less.
    Returns:
        [1, 1, H, W]: 1 in the other boxes, 0 in its own.
    """
    mask = torch.zeros(1, 1, *size)
    for box in others:
        left, top = (max(0, math.floor(low - soft)) for low in box[:2])
        right, bottom = (
            min(math.ceil(high + soft), end) for high, end in zip(box[2:], size[::-1], strict=True)
        )
        if left < right and top < bottom:
            away, from_own = (_distances(one, (left, top, right, bottom)) for one in (box, own))
            near = smooth_step(1 - away / max(soft, 1)) * smooth_step(from_own / max(soft, 1))
            near = near.masked_fill((away == 0) & (from_own > 0), 1).masked_fill(from_own == 0, 0)
            part = mask[0, 0, top:bottom, left:right]
            part.copy_(torch.maximum(part, near))
    return mask


def _distances(box: Box, region: tuple[int, int, int, int]) -> Tensor:
    """Of each pixel of a region, as far as it has to go to touch a box; [h, w]."""
    x, y = (torch.arange(region[k], region[k + 2], dtype=torch.float32) for k in (0, 1))
    outside = [
        torch.maximum(low - at - 1, at - high).clamp_min(0)
        for at, low, high in ((x, box[0], box[2]), (y, box[1], box[3]))
    ]
    return torch.hypot(outside[0][None], outside[1][:, None])


def face_square(box: Box | None, size: tuple[int, int], context: float = 0.6) -> Window:
    """As `face_windows`, but a square also where the picture is less high or wide than that: it is smaller
    then. Without a box, the middle of the picture."""
    height, width = size
    whole = (0, 0, width, height)
    side = min(round(_side(box) * (1 + context)) if box else height, height, width)
    return _about(box or whole, side, side, size)


def face_windows(
    boxes: Sequence[Box | None], size: tuple[int, int], context: float = 0.6
) -> tuple[Window | None, ...]:
    """A square about the face in each frame of a film, as far as the picture of that size (height, width)
    allows; None where there is no face. All are of one size, that of the largest face, so that the face
    neither grows nor shrinks by itself.

    Args:
        context: what is added to the longer side of the box, as a part of it.
    Raises:
        ValueError: a box is empty or lies outside.
    """
    height, width = size
    for number, box in enumerate(boxes, start=1):
        if box is not None and not _lies_in(box, size):
            raise ValueError(
                f"The face in picture {number}, {box}, does not lie in the picture of {width} x {height} "
                "pixels: give boxes that were found in this very picture, at this size."
            )
    side = round(max((_side(box) for box in boxes if box is not None), default=0) * (1 + context))
    wide, tall = (max(1, min(side, limit)) for limit in (width, height))
    return tuple(None if box is None else _about(box, wide, tall, size) for box in boxes)


def _side(box: Box) -> float:
    """The longer one."""
    return max(box[2] - box[0], box[3] - box[1])


def _about(box: Box, wide: int, tall: int, size: tuple[int, int]) -> Window:
    """A window of that size with the box in its middle, moved into the picture."""
    x = min(max(0, round((box[0] + box[2] - wide) / 2)), size[1] - wide)
    y = min(max(0, round((box[1] + box[3] - tall) / 2)), size[0] - tall)
    return Window(x, y, x + wide, y + tall, size)


def _lies_in(box: Box, size: tuple[int, int]) -> bool:
    left, top, right, bottom = box
    return (
        all(map(math.isfinite, box))
        and max(0, left) < min(right, size[1])
        and max(0, top) < min(bottom, size[0])
    )


def cut(images: Tensor, window: Window) -> Tensor:
    """The part [B, 3, h, w] of pictures [B, 3, H, W]."""
    return images[..., window.top : window.bottom, window.left : window.right]


def paste(
    images: Tensor,
    crops: Tensor,
    window: Window,
    feather: float = 0.1,
    strength: float = 1.0,
    keep: Tensor | None = None,
) -> Tensor:
    """Put crops back into pictures; what lies outside of the window stays as it is, bit for bit.

    Args:
        images: [B, 3, H, W], of the window's size or larger ones of the same picture.
        crops: [B, 3, h, w] of any size.
        feather: width of the soft border as a part of the window, 0…0.5; none where the picture ends.
        strength: 0 for the pictures as they are, 1 for the crops.
        keep: [B, 1, h, w] in [0, 1]: what stays as it is, whatever lies there; of any size.
    """
    height, width = images.shape[-2:]
    window = window.scaled((height, width))
    tall, wide = window.bottom - window.top, window.right - window.left
    crops = resize(crops.to(images), (tall, wide)).clamp(0, 1)
    soft = feather * max(tall, wide)
    down = _ramp(tall, soft, window.top > 0, window.bottom < height)
    across = _ramp(wide, soft, window.left > 0, window.right < width)
    region = slice(window.top, window.bottom), slice(window.left, window.right)
    return blended(images, crops, region, (down[:, None] * across[None]).to(images), strength, keep)


def blended(
    images: Tensor,
    parts: Tensor,
    region: tuple[slice, slice],
    weight: Tensor,
    strength: float,
    keep: Tensor | None,
) -> Tensor:
    """Pictures [B, 3, H, W] with parts [B, 3, h, w] in a region of rows and columns, by a weight [h, w] in
    [0, 1], as far as `strength` says, and not where `keep` [B, 1, H, W] is 1. What has no weight stays as it
    is, bit for bit."""
    weight = weight * strength
    if keep is not None:
        whole = resize(keep.to(images), (images.shape[-2], images.shape[-1]))
        free = (1 - whole[(..., *region)]).clamp(0, 1)
        weight = weight * free.masked_fill(free < ROUNDING, 0)
    before = images[(..., *region)]
    result = images.clone()
    # A blend by nothing would turn -0.0 to 0.0, and NaN into everything.
    blend = torch.lerp(before, parts, weight.expand_as(before))
    result[(..., *region)] = torch.where(weight > 0, blend, before)
    return result


def _ramp(length: int, soft: float, starts: bool, ends: bool) -> Tensor:
    """Weights along an axis: rising from 0 where the picture goes on."""
    if soft < 1:
        return torch.ones(length)
    position = torch.arange(length) + 0.5
    rising = position / soft if starts else torch.ones(length)
    falling = (length - position) / soft if ends else torch.ones(length)
    return smooth_step(torch.minimum(rising, falling))


def smooth_step(weight: Tensor) -> Tensor:
    """0 up to 0, 1 from 1, and without a corner between: a straight one would show where it begins."""
    weight = weight.clamp(0, 1)
    return weight * weight * (3 - 2 * weight)
