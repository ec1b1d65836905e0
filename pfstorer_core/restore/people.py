"""The people whose faces are looked for in pictures: who is who, and who is nobody of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..checkpoints.errors import CheckpointError
from ..imaging.faces import Face
from ..personalization.base import Adapter
from ..personalization.face import PersonFace
from ..personalization.identity import Identity
from ..personalization.registry import is_adapter, load_identity_adapter
from ..recognition import Recognizer
from ..recognition.identification import THRESHOLD, Gallery, Track, identify
from ..recognition.shown import Shown
from ..restorers.base import Restorer

SAME_FACE = 0.99
"""Cosine of two mean faces from which on they are of the same photos."""


class Guess(NamedTuple):
    """Which of several people a face is, None for nobody; their name, or whom it is most like; how like."""

    person: int | None
    name: str
    likeness: float


@dataclass(frozen=True, eq=False)
class People:
    """People who may be in pictures.

    Attributes:
        names: of their files.
        identities: as whom they are restored.
        gallery, recognizer: how their faces are told apart.
        threshold: the likeness that a face needs to be somebody's, see `identification.THRESHOLD`.
    """

    names: Sequence[str]
    identities: Sequence[Identity]
    gallery: Gallery
    recognizer: Recognizer
    threshold: float = THRESHOLD

    @classmethod
    def of(
        cls,
        adapters: Mapping[str, Adapter],
        restorer: Restorer,
        recognizer: Recognizer,
        gamma: float = 1.0,
        threshold: float = THRESHOLD,
    ) -> tuple[People, list[str]]:
        """Those of these adapters, by name, that the restorer can use and the recogniser can tell; and a
        sentence for each who is left out.

        Raises:
            ValueError: a number out of range; or nobody is left.
        """
        if not -1 <= threshold <= 1:  # NaN is in no range
            raise ValueError(f"The threshold must be from -1 to 1, got {threshold}.")
        known, notes = dict[str, tuple[Identity, Tensor]](), list[str]()
        for name, adapter in adapters.items():
            face = adapter.header.face
            fault = fault_of(adapter, restorer) or fault_of_face(face, recognizer)
            if fault or face is None:
                notes.append(f"{name} is left out: {fault}")
                continue
            mean = torch.tensor(face.embedding)
            twins = [other for other, (_, seen) in known.items() if _cosine(mean, seen) > SAME_FACE]
            if twins:
                notes.append(f"{name} is left out: it is of the same face as {twins[0]}.")
                continue
            known[name] = Identity(adapter, gamma), mean
        if not known:
            raise ValueError(f"Nobody can be looked for. {' '.join(notes)}".rstrip())
        identities, faces = zip(*known.values(), strict=True)
        gallery = Gallery.of(recognizer.embed, torch.stack(faces))
        return cls([*known], identities, gallery, recognizer, threshold), notes

    def who(self, picture: Tensor, faces: Sequence[Face]) -> list[Guess]:
        """Which of them each of the faces in a picture [1, 3, H, W] in [0, 1] is, each at most once."""
        if not faces:
            return []
        shown = [Shown(picture, face.landmarks).embedded(self.recognizer.embed).cpu() for face in faces]
        directions = self.gallery.directions(torch.cat(shown))
        found = zip(faces, directions, strict=True)
        tracks = [Track({0: number}, [looks], face.box) for number, (face, looks) in enumerate(found)]
        table = self.gallery.likenesses(directions)
        guesses = list[Guess]()
        for person, row in zip(identify(tracks, table, self.threshold), table, strict=True):
            like = int(row.argmax()) if person is None else person
            guesses.append(Guess(person, self.names[like], float(row[like])))
        return guesses


def load_people(folder: Path) -> dict[str, Adapter]:
    """The adapters in a folder by their files' names; other files are let be.

    Raises:
        ValueError: no folder, or no adapter in it.
        CheckpointError, OSError: see `load_identity_adapter`.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder: give one with the adapters of people.")
    files = [path for path in sorted(folder.glob("*.safetensors")) if is_adapter(path)]
    if not files:
        raise ValueError(f"{folder} holds no identity adapter (.safetensors): learn people by `personalize`.")
    return {path.stem: load_identity_adapter(path) for path in files}


def fault_of(adapter: Adapter, restorer: Restorer) -> str:
    """Why a restorer cannot use an adapter, a sentence; "" where it can."""
    try:
        adapter.check_base(restorer.fingerprint)
        adapter.check_fit(restorer.unet, restorer.header.image_size)
    except (CheckpointError, ValueError) as error:
        return str(error)
    return ""


def fault_of_face(face: PersonFace | None, recognizer: Recognizer) -> str:
    """Why a person cannot be found by that recogniser, a sentence; "" where they can."""
    if face is None:
        return "it holds no face by which its person could be found: give it one by `add-face`."
    if face.weights != recognizer.fingerprint:
        return (
            f"its face was made by the recogniser {face.recognizer}, and this one is {recognizer.name}: "
            "choose that, or make it anew by `add-face`."
        )
    return ""


def _cosine(one: Tensor, other: Tensor) -> float:
    return float(F.cosine_similarity(one, other, dim=0)) if one.shape == other.shape else 0.0
