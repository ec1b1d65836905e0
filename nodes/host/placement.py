"""Which pictures, and which part of them, a latent shows: what lies on the pictures has to follow it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import comfy.utils
import torch
import torch.nn.functional as F
from torch import Tensor

from .images import finite

CANDIDATES = 64
"""Places that are looked at for a cut, of those where the first cell agrees."""

Span = tuple[float, float]
Frame = tuple[Span, Span]
"""From where to where, in parts of a picture's height and of its width, an encoded picture reaches: less than
the whole where it was cut to the size of cells, more where it was padded."""
WHOLE: Frame = ((0.0, 1.0), (0.0, 1.0))
FRAME = "pfstorer_frame"
"""Of the LQ latent in a conditioning's values."""


@dataclass(frozen=True)
class Placement:
    """Where the rows of a latent are on a batch of encoded pictures. Sizes (height, width) in latent cells.

    Attributes:
        rows: number of the picture that each row shows.
        total: of the pictures.
        size: of the latent.
        corner: (y, x) and `whole` the size of the encoded picture that it was cut from; None for no cut.
    """

    rows: Sequence[int]
    total: int
    size: tuple[int, int]
    corner: tuple[int, int] | None = None
    whole: tuple[int, int] = (0, 0)

    def of(self, canvas: Tensor, method: str, frame: Frame = WHOLE) -> Tensor:
        """What lies on the pictures [total, …] or on all alike [1, …] -> the same on the latent. As many as
        the latent has rows are taken to be in its order already.

        Args:
            canvas: [B, C, H, W] of any size; it covers the whole pictures.
            method: of the host's resizing.
            frame: what of the pictures was encoded.
        Raises:
            ValueError: as many as there are neither pictures nor rows.
        """
        if len(canvas) == self.total > 1:
            canvas = canvas[list(self.rows)]
        elif len(canvas) not in (1, len(self.rows)):
            raise ValueError(
                f"{len(canvas)} masks do not fit {self.total} pictures: give one, or one for each."
            )
        if self.corner is None:
            return _framed(canvas, self.size, method, frame)
        (y, x), (height, width) = self.corner, self.size
        return _framed(canvas, self.whole, method, frame)[..., y : y + height, x : x + width]


def frame_of(picture: Sequence[int], encoded: Sequence[int], corner: Sequence[int] = (0, 0)) -> Frame:
    """The frame of an encoded picture that begins at this pixel (y, x) of a picture; sizes in pixels."""
    height, width = (
        (first / whole, (first + part) / whole)
        for first, part, whole in zip(corner, encoded, picture, strict=True)
    )
    return height, width


def check_latent(latent: Tensor, channels: int, name: str) -> None:
    """Raise ValueError where a latent is no batch of a restorer's, of so many channels, or not finite.

    Args:
        name: of the latent, for the error.
    """
    if latent.ndim != 4 or latent.shape[1] != channels:
        raise ValueError(
            f"The {name} is of another restorer: its shape is {list(latent.shape)}, this MODEL's latents are "
            f"[B, {channels}, height, width]. Connect MODEL and VAE of one Load Base Restorer everywhere."
        )
    finite(latent, name, "latent")


def placement_of(lq: Tensor, rows: int, size: tuple[int, int], start: Tensor | None) -> Placement:
    """Where a latent is on the pictures whose LQ latents are these.

    Args:
        lq: [P, C, H, W].
        rows: of the latent, and its size.
        start: the latent that sampling begins with [rows, C, height, width], in the scale of `lq`. Where it
            is cut or chosen from the pictures, it tells what it shows.
    Raises:
        ValueError: numbers that do not fit, or another part of the picture than can be known.
    """
    total, whole = len(lq), (lq.shape[-2], lq.shape[-1])
    empty = start is None or not start.any()
    if start is not None and not empty and (found := _cut(lq, start)):
        return Placement(found[0], total, size, found[1] if size != whole else None, whole)
    if rows % total:
        raise ValueError(
            f"The LATENT holds {rows} pictures, its conditioning {total}, and which belongs to which cannot "
            "be told. Give one picture, or as many; to take many a few at a time, put Rebatch Images before "
            "Restoration Conditioning."
        )
    if size != whole and not (_enlarged(size, whole) or (empty and _enlarged(whole, size))):
        raise ValueError(
            f"The LATENT has {size[1]} x {size[0]} cells, the picture in its conditioning {whole[1]} x "
            f"{whole[0]}, and which part it shows cannot be told. Crop and resize the picture before "
            "Restoration Conditioning; a LATENT may only be enlarged, with the same aspect."
        )
    return Placement([row % total for row in range(rows)], total, size)


def _cut(lq: Tensor, start: Tensor) -> tuple[list[int], tuple[int, int]] | None:
    """The picture of each row of `start`, and the corner at which all were cut; None where one was not."""
    channels, height, width = lq.shape[1:]
    if start.shape[1] != channels or start.shape[2] > height or start.shape[3] > width:
        return None
    pictures, corners = list[int](), set[tuple[int, int]]()
    for row, one in enumerate(start):
        if (found := next(_places(lq, one, row % len(lq)), None)) is None:
            return None  # of a film that was sampled already, no further row needs to be looked for
        picture, *corner = found
        pictures.append(picture)
        corners.add((corner[0], corner[1]))
    return (pictures, corners.pop()) if len(corners) == 1 else None


def _places(lq: Tensor, one: Tensor, likely: int) -> Iterator[tuple[int, int, int]]:
    """(picture, y, x) where a latent [C, h, w] is found, in the likely picture first."""
    height, width = one.shape[-2:]
    tall, wide = lq.shape[-2] - height + 1, lq.shape[-1] - width + 1
    for picture in sorted(range(len(lq)), key=lambda picture: picture != likely):
        hits = (lq[picture, :, :tall, :wide] == one[:, :1, :1]).all(0).nonzero()[:CANDIDATES].tolist()
        for y, x in hits:
            if torch.equal(lq[picture, :, y : y + height, x : x + width], one):
                yield picture, y, x


def _enlarged(size: tuple[int, int], of: tuple[int, int]) -> bool:
    """Whether a size is another one enlarged, each side rounded up, down or off."""
    factors = [((side - 0.5) / length, (side + 1) / length) for side, length in zip(size, of, strict=True)]
    larger = all(side > length for side, length in zip(size, of, strict=True))
    return larger and max(low for low, _ in factors) < min(high for _, high in factors)


def _framed(canvas: Tensor, size: tuple[int, int], method: str, frame: Frame) -> Tensor:
    """What covers a picture, in the cells of what was encoded of it; padding continues what is beside it."""
    seen, cells = list[slice](), list[int]()
    for (first, last), side, count in zip(frame, canvas.shape[-2:], size, strict=True):
        end = min(last, 1.0)
        start = min(round(first * side), side - 1)
        seen.append(slice(start, max(round(end * side), start + 1)))
        cells.append(max(round(count * (end - first) / (last - first)), 1))
    shown = _resized(canvas[..., seen[0], seen[1]], (cells[0], cells[1]), method)
    return F.pad(shown, (0, size[1] - cells[1], 0, size[0] - cells[0]), mode="replicate")


def _resized(canvas: Tensor, size: tuple[int, int], method: str) -> Tensor:
    if tuple(canvas.shape[-2:]) == size:
        return canvas
    return comfy.utils.common_upscale(canvas, size[1], size[0], method, "disabled")
