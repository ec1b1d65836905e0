"""Whom restored faces are taken for: how like the true face and a person they are, who of many is nearest,
and whether eyes, nose and mouth are where they were."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from pfstorer_core.imaging.faces import Face, face_finder, face_in
from pfstorer_core.recognition import Recognizer, cosines, mean_of_units
from pfstorer_core.recognition.shown import embedding_of, largest_face_in
from pfstorer_core.recognition.subject import direction_of

SEEN = ("true", "person", "right")
"""What a gallery measures; see `Gallery.measured`."""
FEATURES = 4
"""The first of `Face.landmarks`: eyes, nose and mouth. Ears are guessed where hair is."""


def faces_of(pictures: Tensor) -> list[Face | None]:
    """The largest face in each of true pictures [M, 3, H, W] in [0, 1]: they are looked for there, so that
    how well they are found in bad ones does not count."""
    find = face_finder()
    return [largest_face_in(2 * picture - 1, find) for picture in pictures]


def embeddings(recognizer: Recognizer, pictures: Tensor, faces: Sequence[Face | None]) -> Tensor:
    """[M, D] of pictures [M, 3, H, W] in [0, 1] with their faces at these places; a picture without one is
    a face as in FFHQ."""
    pairs = zip((2 * pictures - 1).split(1), faces, strict=True)
    return torch.cat([embedding_of(recognizer.embed, one, face and face.landmarks) for one, face in pairs])


def landmark_distances(pictures: Tensor, faces: Sequence[Face | None]) -> Tensor:
    """How far [M] eyes, nose and mouth lie from where they are in the true pictures, on the mean, in percent
    of the distance of the eyes; NaN where the detector sees no face there.

    Args:
        pictures: [M, 3, H, W] in [0, 1].
        faces: of the true pictures.
    """
    distances = []
    for picture, true in zip(pictures, faces, strict=True):
        found = true and face_in(true.box, picture)
        if true is None or found is None:
            distances.append(torch.tensor(torch.nan))
            continue
        apart = (found.landmarks - true.landmarks)[:FEATURES].norm(dim=1).mean()
        distances.append(100 * apart / (true.landmarks[0] - true.landmarks[1]).norm())
    return torch.stack(distances)


@dataclass(frozen=True, eq=False)
class Gallery:
    """People as a recogniser knows them.

    Attributes:
        people: directions [D] by a person's number.
        strangers: those of others [N, D].
    """

    recognizer: Recognizer
    people: Mapping[int, Tensor]
    strangers: Tensor

    @classmethod
    def of(cls, recognizer: Recognizer, people: Mapping[int, Tensor], strangers: Sequence[Tensor]) -> Gallery:
        """Of photos [R, 3, H, W] in [0, 1] of each person, and of strangers' faces [1, 3, S, S], as they lie
        in FFHQ."""
        directions = {who: direction_of(recognizer, photos.split(1)) for who, photos in people.items()}
        found = [F.normalize(recognizer.embed(2 * face - 1)) for face in strangers]
        return cls(recognizer, directions, torch.cat(found))

    def __len__(self) -> int:
        return len(self.people) + len(self.strangers)

    def measured(
        self, pictures: Tensor, truth: Tensor, faces: Sequence[Face | None], person: int
    ) -> dict[str, Tensor]:
        """Of restored pictures [M, 3, H, W] in [0, 1] of a person, one value each.

        Args:
            truth, faces: the true pictures, and where the faces lie in them.
        Returns:
            under the recogniser's name and one of `SEEN`, cosines to the true picture and to the person, and
            100 where the person is the nearest of all people here, else 0.
        """
        name, found = self.recognizer.name, embeddings(self.recognizer, pictures, faces)
        own = cosines(found, self.people[person])
        others = [direction for who, direction in self.people.items() if who != person]
        others = torch.stack([*others, *self.strangers])
        nearest = (F.normalize(found) @ others.T).amax(1)
        true = cosines(found, embeddings(self.recognizer, truth, faces))
        values = (true, own, 100.0 * (own > nearest))
        return {f"{name} {what}": value for what, value in zip(SEEN, values, strict=True)}


def without(recognizer: Recognizer, faces: Tensor, people: Sequence[Tensor]) -> Tensor:
    """Of faces [N, 3, S, S] of people, each shown once, those of others than these.

    Args:
        people: photos [R, 3, H, W] of each, two or more. Whose photo is the nearest of all faces, and no less
            like than the photos are among themselves, is shown.
    """
    known, kept = recognizer.embed(2 * faces - 1), torch.ones(len(faces), dtype=torch.bool)
    for photos in people:
        own = embeddings(recognizer, photos, faces_of(photos))
        others = [mean_of_units(torch.cat([own[:n], own[n + 1 :]])) for n in range(len(own))]
        likenesses = cosines(known, mean_of_units(own))
        if likenesses.max() >= cosines(own, torch.stack(others)).min():
            kept[likenesses.argmax()] = False
    return faces[kept]
