"""A person's photos, and the pairs of latents that an adapter learns from."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..checkpoints.header import RestorerHeader
from ..imaging.alignment import aligned_face
from ..imaging.canvas import resize
from ..imaging.faces import Box, cut, face_in, face_square
from ..restorers.base import Restorer
from ..training.degradation import RandomDegradation
from ..training.progress import OnTick, never

MAX_PHOTOS = 10
MARGIN = 0.6
"""Of a face's box about it, as a part of its longer side."""
LEAST_CONTRAST = 0.01
"""Standard deviation of a picture under which it shows nothing."""
LEAST_CROP = 0.8
"""Side of the smallest random crop as a part of the photo's: smaller ones would cut faces that fill it."""
AT_FIRST = 16
"""Pairs that are made before the first step."""
AHEAD = 4
"""Pairs that are made in the background while an accelerator runs a step; on a CPU a pair is made when it is
first needed, since two threads would only be in each other's way."""
TICK = 0.25
"""Seconds between two looks whether a wait is to end."""


@dataclass(frozen=True, eq=False)
class Photos:
    """Photos as a restorer needs them.

    Attributes:
        images: squares about the person [3, S, S] in [0, 1], see `face_crops`.
        latents: of all of them at the restorer's size, scaled [R, C, h, w].
    """

    images: list[Tensor]
    latents: Tensor

    @classmethod
    def of(
        cls,
        restorer: Restorer,
        photos: Sequence[Tensor],
        boxes: Sequence[Box | None] | None = None,
    ) -> Photos:
        """Raises what `face_crops` does."""
        squares = face_crops(photos, boxes, aligned_side(restorer.header))
        return cls.of_squares(restorer, [image for image, _ in squares])

    @classmethod
    def of_squares(cls, restorer: Restorer, images: list[Tensor], on_tick: OnTick = never) -> Photos:
        """Raises what `on_tick` does, which is called before each photo."""
        return cls(images, encoded(restorer, resized(images, restorer.header.image_size), on_tick))


def resized(squares: Sequence[Tensor], side: int) -> Tensor:
    """Squares [3, S, S] in [0, 1] of any sizes as one batch [R, 3, side, side]."""
    return torch.cat([resize(square[None], (side, side)).clamp(0, 1) for square in squares])


def aligned_side(header: RestorerHeader) -> int:
    """Pixels of the aligned faces that a restorer was trained on; 0 where they lay as they liked."""
    return header.image_size if header.aligned else 0


def face_crops(
    photos: Sequence[Tensor],
    boxes: Sequence[Box | None] | None = None,
    aligned: int = 0,
    on_tick: OnTick = never,
) -> list[tuple[Tensor, bool]]:
    """The square [3, S, S] in [0, 1] that is learned from each photo, and whether the face lies in it as the
    restorer knows faces.

    Args:
        boxes: of the face in each; without one, it is the photo's middle.
        aligned: pixels of faces that are aligned as in FFHQ; where eyes and mouth are not found in the box,
            it is the square about it. 0: that for all.
    Raises:
        ValueError: there are none, too many, or some that show nothing.
    """
    check_count(len(photos))
    checked = [(_checked(photo, n), box) for n, (photo, box) in enumerate(paired(photos, boxes), 1)]
    return [_crop_of(photo, box, aligned, on_tick) for photo, box in checked]


def _crop_of(photo: Tensor, box: Box | None, aligned: int, on_tick: OnTick) -> tuple[Tensor, bool]:
    around = square(photo, box)
    if not aligned or box is None:
        return around, box is not None
    face = face_in(box, photo, on_tick)
    if face is None:
        return around, False
    return aligned_face(photo[None], face.landmarks, aligned)[0][0], True


def as_they_lie(seen: Sequence[tuple[Tensor, bool]], boxes: Sequence[Box | None] | None) -> list[str]:
    """Of the photos whose face `face_crops` could not align, a sentence each."""
    return [
        f"Photo {number}: no eyes and mouth were found in the face, so it is taken as it lies, and this "
        "restorer knows aligned faces. Leave the photo out if its crop is not upright."
        for number, ((_, found), box) in enumerate(zip(seen, boxes or [None] * len(seen), strict=True), 1)
        if box is not None and not found
    ]


def paired(photos: Sequence[Tensor], boxes: Sequence[Box | None] | None) -> list[tuple[Tensor, Box | None]]:
    """Each photo with its box; raises ValueError where there are more or fewer boxes."""
    boxes = boxes or [None] * len(photos)
    if len(boxes) != len(photos):
        raise ValueError(f"{len(photos)} photos need as many boxes, got {len(boxes)}.")
    return list(zip(photos, boxes, strict=True))


def check_count(photos: int) -> None:
    """Raise ValueError where there are too few or too many."""
    if not 1 <= photos <= MAX_PHOTOS:
        raise ValueError(f"Give 1 to {MAX_PHOTOS} photos of the person (3 to 5 are best), got {photos}.")


@torch.no_grad()
def encoded(restorer: Restorer, images: Tensor, on_tick: OnTick = never) -> Tensor:
    """`Restorer.encode`, one picture at a time."""
    latents = []
    for image in images:
        on_tick()
        latents.append(restorer.encode(image[None]))
    return torch.cat(latents)


def _checked(photo: Tensor, number: int) -> Tensor:
    photo = photo[0] if photo.ndim == 4 and len(photo) == 1 else photo
    if photo.ndim != 3 or photo.shape[0] != 3:
        raise ValueError(f"Photo {number} must be [3, H, W], got {list(photo.shape)}.")
    if not torch.isfinite(photo).all():
        raise ValueError(f"Photo {number} holds values that are not numbers (NaN or infinity): leave it out.")
    if min(photo.shape[-2:]) < 16:
        raise ValueError(
            f"Photo {number} is {photo.shape[-1]} x {photo.shape[-2]} pixels: too small to show a face."
        )
    if photo.float().std() < LEAST_CONTRAST:
        raise ValueError(f"Photo {number} is all of one colour: it shows nobody. Leave it out.")
    return photo.float().cpu().clamp(0, 1)


def square(photo: Tensor, box: Box | None) -> Tensor:
    """The square about the box with a margin, as far as the photo goes; else about the photo's middle."""
    height, width = photo.shape[-2:]
    left, top, right, bottom = box or (0, 0, width, height)
    if not (0 <= left < right <= width and 0 <= top < bottom <= height):
        raise ValueError(f"The box {box} is not inside its photo of {width} x {height} pixels.")
    return cut(photo, face_square(box, (height, width), MARGIN))


class Pairs:
    """`Samples` of latents: "hq" and "lq" [C, h, w], scaled, and the numbers of the "photo" and of a
    "reference" that is another one where there is one.

    Pair n is a random crop of a photo and its degraded copy, made from (seed, n) alone; step s takes its
    batch from the last `pool` of the first `AT_FIRST + s` pairs, while a thread makes the next ones.
    `close` stops it. Who waits for a pair calls `on_tick` meanwhile.
    """

    def __init__(
        self,
        restorer: Restorer,
        photos: Photos,
        degradation: RandomDegradation,
        p_hq: float,
        pool: int,
        batch: int,
        seed: int,
        on_tick: OnTick = never,
    ) -> None:
        self.on_tick = on_tick
        self.restorer, self.photos, self.degradation, self.p_hq = restorer, photos, degradation, p_hq
        self.pool, self.batch, self.seed = pool, batch, seed
        self._made: dict[int, Future[tuple[dict[str, Tensor], int]]] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="pairs")

    def __len__(self) -> int:
        return 1

    def __getitem__(self, k: int) -> dict[str, Any]:
        step = k // self.batch
        end = AT_FIRST + step
        first = max(0, end - self.pool)
        for number in [number for number in self._made if number < first]:
            del self._made[number]
        rng = np.random.default_rng([self.seed, k, 5])
        chosen = int(rng.integers(first, end))
        further = range(first, end + AHEAD) if self.restorer.device.type != "cpu" else ()
        for number in (chosen, *further):
            if number not in self._made:
                self._made[number] = self._thread.submit(self._make, number)
        latents, photo = self._waited_for(self._made[chosen])
        others = [n for n in range(len(self.photos.images)) if n != photo] or [photo]
        return {
            **latents,
            "photo": torch.tensor(photo),
            "reference": torch.tensor(others[int(rng.integers(len(others)))]),
            "seed": torch.tensor(int(rng.integers(2**62))),
            "broken": [],
        }

    def close(self) -> None:
        """Leave undone what is not begun, and do not wait for what is."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _waited_for(self, pair: Future[tuple[dict[str, Tensor], int]]) -> tuple[dict[str, Tensor], int]:
        self.on_tick()
        while not wait([pair], TICK).done:
            self.on_tick()
        return pair.result()

    def _make(self, number: int) -> tuple[dict[str, Tensor], int]:
        rng = np.random.default_rng([self.seed, number, 4])
        image, photo = self.picture(rng)
        return self.latents(*self.degradation(image[None], [rng], self.p_hq)), photo

    def picture(self, rng: np.random.Generator) -> tuple[Tensor, int]:
        """One to learn from [3, S, S], of the restorer's size, and which photo it is of."""
        photo = int(rng.integers(len(self.photos.images)))
        return crop(self.photos.images[photo], self.restorer.header.image_size, rng), photo

    def latents(self, hq: Tensor, lq: Tensor) -> dict[str, Tensor]:
        """What a sample has of a picture [1, 3, S, S] and its bad copy, which is cleaned first where the
        restorer sees it so."""
        seen = self.restorer.clean(lq) if self.restorer.header.sees_cleaned else lq
        good, bad = encoded(self.restorer, torch.cat([hq, seen])).cpu()
        return {"hq": good, "lq": bad}


def crop(image: Tensor, size: int, rng: np.random.Generator) -> Tensor:
    """A random square of a picture [3, S, S], brought to `size`; not mirrored, since a mole has its side, and
    not enlarged where that can be helped."""
    whole = image.shape[-1]
    side = max(round(whole * rng.uniform(LEAST_CROP, 1)), min(size, whole))
    left, top = rng.integers(0, whole - side + 1, 2)
    return resize(image[None, :, top : top + side, left : left + side], (size, size)).clamp(0, 1)[0]


def in_order(photos: Sequence[Tensor], boxes: Sequence[Box | None] | None) -> list[int]:
    """Numbers of the photos in an order that only what they and their boxes show decides on."""
    pairs = paired(photos, boxes)
    return sorted(range(len(pairs)), key=lambda n: (digest_of(pairs[n][0]), pairs[n][1] or ()))


def digest_of(photo: Tensor) -> bytes:
    """Tells a photo [3, H, W] or [1, 3, H, W] from others by size and content."""
    digest = hashlib.sha256(str(tuple(photo.shape[-3:])).encode())
    digest.update(photo.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.digest()
