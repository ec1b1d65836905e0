"""Whom pictures show: where their faces are, and who they are to look like."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ..imaging.faces import Face, face_finder
from .recognizer import cosines, mean_of_units
from .shown import embedding_of, largest_face_in, shown_in

CONTEXT = 0.75
"""What is decoded about a face, as a part of its box: the recogniser's view is wider than that, and the
decoder looks about, too."""


class Embedder(Protocol):
    """A `Recognizer`, or what stands for one where a host looks after its network."""

    def embed(self, pictures: Tensor, places: Tensor | None = None) -> Tensor:
        """See `Recognizer.embed`."""
        ...


Decode = Callable[[Tensor], Tensor]
"""Latents [1, C, h, w] -> pictures [1, 3, H, W], about [-1, 1], through which gradients flow."""
SPREADS = (0.3, 0.3, 0.3, 0.4)
"""Standard deviations of what belongs to the eyes, the nose and the mouth, as parts of the distance of the
eyes."""

Region = tuple[slice, slice]
"""Rows and columns of latent cells."""


@dataclass(frozen=True, eq=False)
class Subject:
    """The faces in the pictures that are to be restored.

    Attributes:
        recognizer: what they are recognised by.
        wanted: embeddings [B, D] of whom they are to look like.
        landmarks: of each face [6, 2] in pixels of its region; None where none was found.
        regions: what of each latent the recogniser sees.
    """

    recognizer: Embedder
    wanted: Tensor
    landmarks: Sequence[Tensor | None]
    regions: Sequence[Region]

    def features(self, latents: Tensor, downscale: int) -> Tensor:
        """Masks [B, 1, h, w] in [0, 1] of eyes, nose and mouth on latents [B, C, h, w]; 1 all over where no
        face was found."""
        masks = latents.new_ones(len(latents), 1, *latents.shape[-2:])
        rows, columns = (torch.arange(side) + 0.5 for side in latents.shape[-2:])
        for mask, landmarks, (down, across) in zip(masks, self.landmarks, self.regions, strict=True):
            if landmarks is None:
                continue
            points = landmarks[: len(SPREADS)] / downscale + torch.tensor([across.start, down.start])
            reach = torch.tensor(SPREADS) * (points[0] - points[1]).norm()
            distances = [torch.hypot(columns - x, rows[:, None] - y) for x, y in points]
            blobs = [
                torch.exp(-0.5 * (d / r.clamp_min(0.5)) ** 2) for d, r in zip(distances, reach, strict=True)
            ]
            mask[0] = torch.stack(blobs).amax(0)
        return masks

    def likeness(self, decode: Decode, x0: Tensor, number: int) -> Tensor:
        """The cosine [1] of the picture that a latent x0 [1, C, h, w] decodes to, [1, 3, H, W] in [-1, 1],
        and of whom the picture of this number is to look like."""
        down, across = self.regions[number]
        found = embedding_of(self.recognizer.embed, decode(x0[..., down, across]), self.landmarks[number])
        return cosines(found, self.wanted[number : number + 1].to(found))


def find_subject(
    recognizer: Embedder,
    pictures: Tensor,
    downscale: int,
    person: Tensor | None = None,
    blend: float = 1.0,
    on_tick: Callable[[], object] = lambda: None,
) -> Subject:
    """The largest face in each of the bad, or cleaned, pictures.

    Args:
        pictures: [B, 3, H, W], about [-1, 1].
        downscale: pixels along one side of a latent cell.
        person: direction [D] of the person whom all of them show, see `direction_of`; None: each is to look
            like itself (CLR-Face's way, with the picture of its Identity Recovery Network).
        blend: of both: 1 is the person alone, 0 the picture.
        on_tick: called again and again; raise in it to stop.
    Raises:
        ValueError: no face in a picture that is no portrait.
    """
    wanted, landmarks, regions = list[Tensor](), list[Tensor | None](), list[Region]()
    cells = pictures.shape[-2] // downscale, pictures.shape[-1] // downscale
    find = face_finder(on_tick=on_tick)
    for picture in pictures.split(1):
        face = largest_face_in(picture[0], find)
        down, across = region_of(face, downscale, cells)
        corner = torch.tensor([across.start, down.start]) * float(downscale)
        wanted.append(_wanted(recognizer, picture, face, person, blend))
        landmarks.append(None if face is None else face.landmarks - corner)
        regions.append((down, across))
    return Subject(recognizer, torch.cat(wanted), landmarks, regions)


def direction_of(
    recognizer: Embedder, photos: Sequence[Tensor], on_tick: Callable[[], object] = lambda: None
) -> Tensor:
    """The direction [D] of the person whom photos [1, 3, H, W] in [0, 1] show, by the largest face of each.

    Raises:
        ValueError: no face in a photo that is no portrait.
    """
    find = face_finder(on_tick=on_tick)
    return mean_of_units(torch.cat([shown_in(photo, find).embedded(recognizer.embed) for photo in photos]))


def region_of(face: Face | None, downscale: int, cells: tuple[int, int]) -> Region:
    """What of a latent of so many rows and columns shows a face, with `CONTEXT`."""
    if face is None:
        return slice(0, cells[0]), slice(0, cells[1])
    left, top, right, bottom = face.box
    context = CONTEXT * max(right - left, bottom - top)

    def span(first: float, last: float, count: int) -> slice:
        start, end = (first - context) // downscale, -((-last - context) // downscale)
        return slice(max(0, int(start)), min(count, int(end)))

    return span(top, bottom, cells[0]), span(left, right, cells[1])


def _wanted(
    recognizer: Embedder, picture: Tensor, face: Face | None, person: Tensor | None, blend: float
) -> Tensor:
    if person is not None and blend == 1:
        return person[None].to(picture)
    shown = F.normalize(embedding_of(recognizer.embed, picture, None if face is None else face.landmarks))
    return shown if person is None else torch.lerp(shown, person[None].to(shown), blend)
