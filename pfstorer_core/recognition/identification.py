"""Which of several people, or none of them, a face is of (open-set identification), in pictures and films.

What a recogniser sees of any face has much in common, dlib's embeddings most of all. So faces are held
against people by what is left beyond the mean of strangers. What blur makes of an embedding is taken out, too
(nuisance attribute projection, Solomonoff et al. 2005), and people are embedded as their photos show them and
blurred.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ..imaging.faces import Box
from ..imaging.resizing import resize
from .likeness import strangers
from .shown import Embed, Shown

BLURS = (48, 32, 24)
"""Sides that an aligned face is reduced to for its blurred copies."""
COPY_SIDE = 256
BLUR_DIRECTIONS = 8
"""Of 27 that the atlas gives: with less a blurred face is like nobody, with more a sharp one is."""
THRESHOLD = 0.5
"""Likeness from which a face is taken for a person's, chosen on six of openpeople's nine by `benchmark
choosing`, three of them known and three strangers, and the other way round: from 0.45 to 0.5 strangers who
are taken for somebody fall from 7 % to 1 %, and own faces that go to their person from 76 % to 71 %."""
OVERLAP, GAP = 0.3, 5
"""Of a film: a face is the one of a frame before, up to so many frames ago, whose box it shares so much of
their union with …"""
LINKED = 0.6
"""… and whose likeness is so high: of two people in one place of two pictures, 99 % are less alike."""


def unit_faces(embed: Embed, shown: Sequence[Shown]) -> Tensor:
    """Unit embeddings [1 + len(BLURS), N, D] of faces, and of their blurred copies."""
    size = COPY_SIDE, COPY_SIDE
    with torch.no_grad():
        found = [torch.cat([one.embedded(embed) for one in shown])]
        for side in BLURS:
            small = [resize(one.cut(COPY_SIDE), (side, side)) for one in shown]
            copies = [embed(2 * resize(one, size).clamp(0, 1) - 1, None) for one in small]
            found.append(torch.cat(copies))
    return F.normalize(torch.stack(found), dim=-1)


def mean_face(embed: Embed, shown: Sequence[Shown]) -> Tensor:
    """The mean [D] of `unit_faces`; its length is up to 1."""
    return unit_faces(embed, shown).mean((0, 1))


@dataclass(frozen=True, eq=False)
class Gallery:
    """People whom faces are held against.

    Attributes:
        centre: the mean face [D] of strangers.
        blur: unit vectors [K, D] along which blur moves embeddings.
        people: direction [P, D] of each.
    """

    centre: Tensor
    blur: Tensor
    people: Tensor

    @classmethod
    def of(cls, embed: Embed, people: Tensor) -> Gallery:
        """Of people's mean faces [P, D]."""
        units = unit_faces(embed, [Shown(face[None], None) for face in strangers()]).to(people)
        moved = (units[1:] - units[:1]).flatten(0, 1)
        count = min(BLUR_DIRECTIONS, people.shape[-1] // 8)
        blur = torch.linalg.svd(moved, full_matrices=False)[2][:count]
        gallery = cls(units.mean((0, 1)), blur, people)
        return replace(gallery, people=gallery._from_centre(people))

    def directions(self, faces: Tensor) -> Tensor:
        """[N, D] of raw embeddings [N, D]."""
        return self._from_centre(F.normalize(faces.to(self.centre), dim=-1))

    def likenesses(self, directions: Tensor) -> Tensor:
        """[N, P], in [-1, 1]: 0 is as strangers are, 1 as like as can be."""
        return directions @ self.people.T

    def _from_centre(self, faces: Tensor) -> Tensor:
        away = faces - self.centre
        return F.normalize(away - away @ self.blur.T @ self.blur, dim=-1)


@dataclass(eq=False)
class Track:
    """A face that is seen in one or more pictures.

    Attributes:
        places: which of the faces it is, by the number of the picture.
        directions: [D] in each.
        box: where it was last.
    """

    places: dict[int, int]
    directions: list[Tensor]
    box: Box

    @property
    def direction(self) -> Tensor:
        """[D]: the mean of all."""
        return F.normalize(torch.stack(self.directions).mean(0), dim=0)


def tracks_of(boxes: Sequence[Sequence[Box]], directions: Sequence[Tensor]) -> list[Track]:
    """The faces of a film, each followed from frame to frame; in pictures that have nothing to do with one
    another each is by itself.

    Args:
        boxes: of the faces in each picture.
        directions: of the same faces [N, D], see `Gallery.directions`.
    """
    found = list[Track]()
    for number, (places, looks) in enumerate(zip(boxes, directions, strict=True)):
        recent = [track for track in found if number - max(track.places) <= GAP]
        pairs = sorted(
            (-overlap(track.box, box), t, k)
            for t, track in enumerate(recent)
            for k, box in enumerate(places)
            if overlap(track.box, box) >= OVERLAP and float(track.directions[-1] @ looks[k]) >= LINKED
        )
        taken: dict[int, Track] = {}
        for _, t, k in pairs:
            if k not in taken and recent[t] not in taken.values():
                taken[k] = recent[t]
        for k, box in enumerate(places):
            track = taken.get(k)
            if track is None:
                found.append(Track({number: k}, [looks[k]], box))
            else:
                track.places[number] = k
                track.directions.append(looks[k])
                track.box = box
    return found


def overlap(one: Box, other: Box) -> float:
    """Intersection over union of two boxes."""
    left, top, right, bottom = (max(one[0], other[0]), max(one[1], other[1]),
                                min(one[2], other[2]), min(one[3], other[3]))  # fmt: skip
    both = max(0.0, right - left) * max(0.0, bottom - top)
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return both / (areas - both) if both else 0.0


def identify(tracks: Sequence[Track], likenesses: Tensor, threshold: float) -> list[int | None]:
    """Who each face is: the most like first, each person once in a picture; None: nobody.

    Args:
        likenesses: of each to each person [T, P].
        threshold: who is less like a person is not that person.
    """
    people = list[int | None]([None] * len(tracks))
    seen: dict[int, set[int]] = {}
    table = [(-value, t, p) for t, row in enumerate(likenesses.tolist()) for p, value in enumerate(row)]
    for minus, t, p in sorted(table):
        pictures = set(tracks[t].places)
        if -minus >= threshold and people[t] is None and not pictures & seen.setdefault(p, set()):
            people[t] = p
            seen[p] |= pictures
    return people
