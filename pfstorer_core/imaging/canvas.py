"""From a bad picture to the canvas that is restored, and back to a picture of the size asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import lcm

import torch.nn.functional as F
from torch import Tensor

from ..checkpoints.header import RestorerHeader
from .color import color_fix
from .resizing import resize, short_side

MAX_UPSCALE = 20.0
MAX_PIXELS = 2**28
"""Of a canvas: 3 GB a picture in fp32, as many again for each copy."""
MAX_ASPECT = 8
"""Long to short side of the canvases that are enlarged to the restorer's size."""
BLACK = 64
"""Pixels that sides are made multiples of for DiffBIR, whose networks see the black until the end."""


@dataclass(frozen=True)
class Canvas:
    """An enlarged picture, padded for the networks.

    Attributes:
        picture: [B, 3, H, W] in [0, 1], sides multiples of what the networks want.
        content: height and width of what is not padding.
        target: height and width of the result.
        on_strip: hears of every strip of a large picture; what it raises stops the work.
    """

    picture: Tensor
    content: tuple[int, int]
    target: tuple[int, int]
    on_strip: Callable[[], object] = lambda: None

    def finish(self, restored: Tensor, fix: str = "none") -> Tensor:
        """[B, 3, H, W] -> [B, 3, *target] in [0, 1]: without the padding, at the size asked for, in the
        colours of the bad picture by the colour fix of that name. What is given may be overwritten."""
        if fix != "none":
            restored = color_fix(restored, self.picture, fix, self.on_strip)
        height, width = self.content
        return resize(restored[..., :height, :width], self.target, self.on_strip).clamp_(0, 1)

    def area(self, mask: Tensor, cells: tuple[int, int]) -> Tensor:
        """What covers the whole bad picture [B, 1, h, w], of any size, in the cells [B, 1, *cells] of the
        picture with its padding, which continues what is beside it."""
        height, width = (
            max(1, round(count * part / whole))
            for count, part, whole in zip(cells, self.content, self.picture.shape[-2:], strict=True)
        )
        padding = (0, cells[1] - width, 0, cells[0] - height)
        return F.pad(resize(mask.float(), (height, width)), padding, mode="replicate")

    def enlarged(self) -> Tensor:
        """The bad picture [B, 3, *target] in [0, 1]."""
        height, width = self.content
        picture = self.picture[..., :height, :width]
        smaller = self.content != self.target
        return resize(picture, self.target, self.on_strip).clamp_(0, 1) if smaller else picture


def canvas_for(
    header: RestorerHeader,
    image: Tensor,
    upscale: float,
    factor: int,
    on_strip: Callable[[], object] = lambda: None,
) -> Canvas:
    """`prepare_canvas` for a restorer of this header, whose autoencoder has this factor."""
    black = header.condition == "control"
    multiple = lcm(BLACK, factor) if black else factor
    return prepare_canvas(image, upscale, header.image_size, multiple, on_strip, header.size_rule, black)


def prepare_canvas(
    image: Tensor,
    upscale: float,
    image_size: int,
    multiple: int,
    on_strip: Callable[[], object] = lambda: None,
    size_rule: str = "tiled",
    black: bool = False,
) -> Canvas:
    """Enlarge a picture for restoration.

    Args:
        image: [B, 3, H, W] in [0, 1].
        upscale: of the result, 1…20.
        image_size: the side that the restorer was trained on. A result with a shorter side is
            restored larger and reduced afterwards, as StableSR does: below it the restorer is blind.
            (Panoramas only as far as their long side stays within `MAX_ASPECT` of it.)
        multiple: of the canvas's sides; what lacks is added below and on the right.
        on_strip: see `Canvas`.
        size_rule: "fixed": the shorter side is brought to `image_size`, whatever `upscale` says; the longer
            one is rounded up, as in DiffBIR.
        black: pad with black, as DiffBIR does, instead of the nearest colours.
    Raises:
        ValueError: upscale out of range, an empty picture, or a result of more than `MAX_PIXELS`.
    """
    if image.ndim != 4 or not image.numel():
        raise ValueError(f"Expected pictures [B, 3, H, W], got a tensor of shape {list(image.shape)}.")
    height, width = image.shape[-2:]
    if size_rule == "fixed":
        upscale, target = image_size / min(height, width), short_side(height, width, image_size)
    elif 1 <= upscale <= MAX_UPSCALE:
        target = _times((height, width), upscale)
    else:
        raise ValueError(f"upscale must be from 1 to {MAX_UPSCALE:g}, got {upscale:g}.")
    if target[0] * target[1] > MAX_PIXELS:
        raise ValueError(
            f"The result would have {target[1]} x {target[0]} pixels, more than {MAX_PIXELS}: lower upscale "
            f"({upscale:g}), or make the picture ({image.shape[-1]} x {image.shape[-2]}) smaller first."
        )
    # A panorama is not blown up without end for the sake of its short side.
    longest = max(1.0, MAX_ASPECT * image_size / max(target))
    content = _times(target, max(1.0, min(image_size / min(target), longest)))
    bottom, right = (-side % multiple for side in content)
    picture = resize(image, content, on_strip)
    picture = image.clamp(0, 1) if picture is image else picture.clamp_(0, 1)
    # A mirrored border would need pictures larger than the padding; the nearest colour always works.
    if bottom or right:
        picture = F.pad(picture, (0, right, 0, bottom), mode="constant" if black else "replicate")
    return Canvas(picture, content, target, on_strip)


def _times(size: tuple[int, ...], factor: float) -> tuple[int, int]:
    height, width = (max(1, round(side * factor)) for side in size)
    return height, width
