"""Restoring pictures, one or several at once: all of each, or its faces, each as who it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ..imaging.alignment import Alignment, aligned_face, check_alignment, paste_aligned
from ..imaging.canvas import prepare_canvas
from ..imaging.faces import Box, Face, Window, cut, face_finder, face_windows, mask_of_others, paste
from ..personalization.face_guidance import FaceGuidance
from ..personalization.identity import Identity
from ..recognition.shown import Find
from ..restorers.base import Restorer
from .people import Guess, People
from .picture import restore
from .settings import RestoreSettings

CONTEXT = 0.6
"""What is restored about a known face where faces are not aligned, as a part of its box."""
FEATHER = 0.1
"""Width of the soft border with which a face is put back, as a part of what was cut out."""

OnStep = Callable[[int, int], object]
"""(steps that are done, steps in all); raises where the work is to stop."""


@dataclass(frozen=True, eq=False)
class Piece:
    """A part of a picture, as it goes through the network.

    Attributes:
        picture: which of the pictures it is of.
        lq: [1, 3, h, w] in [0, 1].
        upscale: of this part.
        place: where it lies; None: it is all of the picture.
        face, others: boxes of the face in it, and of the others in the picture.
        person: who it is, of `People`; None: nobody, or not asked.
    """

    picture: int
    lq: Tensor
    upscale: float
    place: Window | Alignment | None = None
    face: Box | None = None
    others: Sequence[Box] = ()
    person: int | None = None


@dataclass(frozen=True, eq=False)
class Restored:
    """A restored picture [1, 3, h, w] in [0, 1], and who of `People` the faces in it are."""

    image: Tensor
    faces: Sequence[Guess] = ()


@dataclass(frozen=True, eq=False)
class PictureRestorer:
    """A restorer, and all that is to hold for every picture.

    Attributes:
        align: one of `ALIGNMENTS`: "FFHQ" restores faces alone, aligned, and puts them back into the enlarged
            picture: the largest one, with `people` all; "none" all of the picture, with `people` each known
            face once more; "auto" what the restorer says of itself, where there is a face.
        identities: whom all pictures show.
        people: who may be in them. What is nobody's face is as the restorer makes it.
        guidance: by a face recogniser.
        batch: parts of one size and person that go through the network together. Each is what it would be
            alone, but for rounding.
        graphs: see `restore`.
    Raises:
        ValueError: a setting out of range, or an identity of another base; before any work.
    """

    restorer: Restorer
    settings: RestoreSettings
    align: str = "auto"
    identities: Sequence[Identity] = ()
    people: People | None = None
    guidance: FaceGuidance | None = None
    batch: int = 1
    graphs: bool = False

    def __post_init__(self) -> None:
        check_alignment(self.align)
        if self.batch < 1:
            raise ValueError(f"The batch must be 1 or more, got {self.batch}.")
        self.settings.check(self.restorer)
        for identity in self.identities:
            identity.adapter.check_base(self.restorer.fingerprint)
            identity.adapter.check_fit(self.restorer.unet, self.restorer.header.image_size)

    @cached_property
    def find(self) -> Find:
        """Finds faces."""
        return face_finder()

    def restore(self, pictures: Sequence[Tensor], on_step: OnStep = lambda *_: None) -> list[Restored]:
        """Restore pictures [1, 3, H, W] in [0, 1], of any sizes.

        Raises:
            ValueError: see `restore`; or no face was found where faces alone are asked for.
        """
        seen = [self._faces(picture) for picture in pictures]
        pieces = [
            list(self._pieces(number, picture, faces))
            for number, (picture, faces) in enumerate(zip(pictures, seen, strict=True))
        ]
        batches = list(self._batches([piece for of in pieces for piece in of]))
        done: dict[Piece, Tensor] = {}
        for number, pieces_of_batch in enumerate(batches):
            images = self._restored(pieces_of_batch, number, len(batches), on_step)
            done |= zip(pieces_of_batch, images.split(1), strict=True)
        return [
            Restored(self._assembled(picture, of, done), [guess for _, guess in faces if guess])
            for picture, of, faces in zip(pictures, pieces, seen, strict=True)
        ]

    def _faces(self, picture: Tensor) -> list[tuple[Face, Guess | None]]:
        """Those of a picture, and who they are, as far as that matters."""
        if not (self._aligned or self.people):
            return []
        faces = self.find(picture[0])
        guesses = self.people.who(picture, faces) if self.people else [None] * len(faces)
        return list(zip(faces, guesses, strict=True))

    @property
    def _aligned(self) -> bool:
        chosen = self.restorer.header.aligned if self.align == "auto" else self.align
        return chosen == "FFHQ"

    def _pieces(
        self, number: int, picture: Tensor, faces: Sequence[tuple[Face, Guess | None]]
    ) -> Iterator[Piece]:
        upscale, size = self.settings.upscale, self.restorer.header.image_size
        if not faces and self.align == "FFHQ":
            raise ValueError("No face was found in the picture: restore all of it by --align none.")
        alone = self._aligned and bool(faces)
        if not alone:
            yield Piece(number, picture, upscale)
        largest = max((face.box[3] - face.box[1] for face, _ in faces), default=0.0)
        chosen = [
            (face, guess and guess.person)
            for face, guess in faces
            if guess or face.box[3] - face.box[1] == largest
        ]
        for face, person in chosen:
            others = [other.box for other, _ in faces if other is not face]
            if alone:
                part, place = aligned_face(picture, face.landmarks, size)
                yield Piece(number, part, 1.0, place, face.box, others, person)
            elif person is not None:
                place = _window(face, picture)
                yield Piece(number, cut(picture, place), upscale, place, face.box, others, person)

    def _batches(self, pieces: Sequence[Piece]) -> Iterator[list[Piece]]:
        """Those of one size and person together."""
        alike: dict[object, list[Piece]] = {}
        for piece in pieces:
            alike.setdefault((piece.lq.shape, piece.upscale, piece.person), []).append(piece)
        for several in alike.values():
            yield from (several[k : k + self.batch] for k in range(0, len(several), self.batch))

    def _restored(self, pieces: Sequence[Piece], number: int, batches: int, on_step: OnStep) -> Tensor:
        identities, person = [*self.identities], pieces[0].person
        if self.people and person is not None:
            identities.append(self.people.identities[person])
        given = self.settings.arguments | {
            "upscale": pieces[0].upscale,
            "seed": [self.settings.seed] * len(pieces),
        }
        return restore(
            self.restorer,
            torch.cat([piece.lq for piece in pieces]),
            identities=identities,
            face=self.guidance,
            graphs=self.graphs,
            on_step=lambda step: on_step(number * step.total + step.number + 1, batches * step.total),
            **given,
        )

    def _assembled(self, picture: Tensor, pieces: Sequence[Piece], done: dict[Piece, Tensor]) -> Tensor:
        whole = [done[piece] for piece in pieces if piece.place is None]
        image = whole[0] if whole else prepare_canvas(picture, self.settings.upscale, 1, 1).picture
        for piece in pieces:
            keep = _others(piece, picture, image)
            if isinstance(piece.place, Alignment):
                image = paste_aligned(image, done[piece], piece.place, FEATHER, keep=keep)
            elif piece.place is not None:
                image = paste(image, done[piece], piece.place, FEATHER, keep=keep)
        return image


def _window(face: Face, picture: Tensor) -> Window:
    [window] = face_windows([face.box], (picture.shape[-2], picture.shape[-1]), CONTEXT)
    assert window is not None
    return window


def _others(piece: Piece, picture: Tensor, image: Tensor) -> Tensor | None:
    """What is kept [1, 1, h, w] of an image while a face is put into it: the other faces."""
    if piece.face is None or not piece.others:
        return None
    size = image.shape[-2], image.shape[-1]
    tall, wide = size[0] / picture.shape[-2], size[1] / picture.shape[-1]
    own, *others = (
        (left * wide, top * tall, right * wide, bottom * tall)
        for left, top, right, bottom in (piece.face, *piece.others)
    )
    soft = FEATHER * max(own[2] - own[0], own[3] - own[1])
    return mask_of_others(own, others, size, soft)
