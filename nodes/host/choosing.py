"""Which adapter a face belongs to: what ChooseIdentity finds in pictures, and how it tells it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import comfy.model_management as mm
import torch
from torch import Tensor

from ...pfstorer_core.degradation.sheet import sheet_of
from ...pfstorer_core.imaging.faces import Box, Face, cut, face_finder, face_in, face_square
from ...pfstorer_core.personalization.base import Adapter
from ...pfstorer_core.personalization.face import PersonFace
from ...pfstorer_core.recognition.identification import Gallery, Track, identify, tracks_of
from ...pfstorer_core.recognition.shown import Shown
from .faces import KNOWN, OTHERS, PICTURE, faces_of, host_boxes
from .images import from_image
from .recognition import HostedRecognizer

LEAVE, BASE = "leave as they are", "restore by the base"
CELL, COLUMNS, MOST_SHOWN = 128, 6, 60
"""Of the sheet: pixels of a face, faces in a row, and faces."""
HOW_TO_ADD = (
    "connect photos of the person to Save Identity Adapter, or run `python -m pfstorer_core add-face`"
)


@dataclass
class Chosen:
    """Faces and whose they are.

    Attributes:
        adapters: of each person who is to be restored; None: nobody's, for the base.
        boxes: of each of them, the host's boxes for each picture, none or one.
        images: of each of them, the IMAGE with the person in it.
        lines: who is who, in words.
        panels: the same as faces [1, 3, CELL, CELL] in [0, 1] with captions.
    """

    adapters: list[Adapter | None] = field(default_factory=list)
    boxes: list[list[list[dict[str, Any]]]] = field(default_factory=list)
    images: list[Tensor] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    panels: list[tuple[str, Tensor]] = field(default_factory=list)

    @property
    def sheet(self) -> Tensor:
        """[1, 3, H, W] in [0, 1]."""
        return sheet_of(self.panels, CELL, min(COLUMNS, len(self.panels)))


def faces_known(adapters: Mapping[str, Adapter | None], recognizer: HostedRecognizer) -> Tensor:
    """The mean faces [P, D] of adapters by the inputs' names.

    Raises:
        ValueError: one that has none, or one by another recogniser.
    """
    found = list[list[float]]()
    for name, adapter in adapters.items():
        face: PersonFace | None = None if adapter is None else adapter.header.face
        if face is None:
            raise ValueError(
                f"The adapter of {name} holds no face by which its person could be found: {HOW_TO_ADD}."
            )
        if face.weights != recognizer.recognizer.fingerprint:
            raise ValueError(
                f"The face in the adapter of {name} was made by the recogniser {face.recognizer}, and this "
                f"one is {recognizer.name}, which sees other things in a face: connect Load Face Recognizer "
                f"with {face.recognizer}, or {HOW_TO_ADD}."
            )
        found.append(list(face.embedding))
    if not found:
        raise ValueError("There is no adapter to choose from: connect one, or several.")
    if len({len(one) for one in found}) > 1:
        raise ValueError("The faces in the adapters are of different lengths: one of the files is damaged.")
    return torch.tensor(found)


def faces_in(pictures: Tensor, bboxes: Any) -> list[list[Face]]:
    """The faces of each of the pictures [B, 3, H, W], in given boxes or by the built-in detector."""
    tick = mm.throw_exception_if_processing_interrupted
    if bboxes is not None:
        return faces_of(bboxes, len(pictures))
    find = face_finder(on_tick=tick)
    return [find(picture) for picture in pictures]


def shown_at(face: Face, picture: Tensor) -> Shown:
    """What is seen of a face in a picture [3, H, W], by its eyes and mouth; where these are not found, the
    square about its box."""
    marks: Tensor | None = face.landmarks
    if not face.landmarks[:KNOWN].isfinite().all():
        found = face_in(face.box, picture, mm.throw_exception_if_processing_interrupted)
        marks = found and found.landmarks
    if marks is not None:
        return Shown(picture[None], marks)
    window = face_square(face.box, (picture.shape[-2], picture.shape[-1]), 0.6)
    return Shown(cut(picture[None], window), None)


@dataclass(frozen=True, eq=False)
class Choosing:
    """Whom faces may belong to, and by what they are recognised."""

    adapters: Sequence[Adapter]
    gallery: Gallery
    recognizer: HostedRecognizer

    @classmethod
    def among(cls, adapters: Mapping[str, Sequence[Adapter]], recognizer: HostedRecognizer) -> Choosing:
        """People by the inputs' names; raises what `faces_known` does."""
        people = {
            name if len(of) == 1 else f"{name}, number {n}": adapter
            for name, of in adapters.items()
            for n, adapter in enumerate(of, start=1)
        }
        known = faces_known(people, recognizer)
        return cls([*people.values()], Gallery.of(recognizer.loaded().embed, known), recognizer)

    def choose(self, rounds: Sequence[Sequence[Any]]) -> Chosen:
        """Give each face to its person.

        Args:
            rounds: IMAGE [B, H, W, C] in [0, 1] (one picture, several, or the frames of a film), boxes or
                None, the threshold, and what becomes of others; of each of a list of pictures.
        Raises:
            ValueError: there is no face, or nobody's face is to be restored.
        """
        chosen, looked_at, several = Chosen(), 0, len(rounds) > 1
        for number, (image, bboxes, threshold, others) in enumerate(rounds):
            pictures = from_image(image).cpu().clamp(0, 1)
            faces, looked_at = faces_in(pictures, bboxes), looked_at + len(pictures)
            found = self._among(pictures, faces, threshold, others) if any(faces) else Chosen()
            lines = [f"Picture {number + 1}: {line}" for line in found.lines or ["no face."]]
            chosen.adapters += found.adapters
            chosen.boxes += [numbered(boxes, number) if several else boxes for boxes in found.boxes]
            chosen.images += [image] * len(found.adapters)
            chosen.lines += lines if several else found.lines
            chosen.panels += found.panels[: MOST_SHOWN - len(chosen.panels)]
        if not chosen.panels:
            where = "the picture" if looked_at == 1 else f"any of the {looked_at} pictures"
            raise ValueError(
                f"No face was found in {where}, so that nobody can be recognised: connect bboxes of Find "
                "Faces with another detector, or apply the person's adapter without this node."
            )
        if not chosen.adapters:
            raise ValueError(
                f"Nobody's face is near enough ({rounds[0][2]:g}) to a person, so that nothing would be "
                f"restored: {' '.join(chosen.lines)} Lower the threshold, or set others to “{BASE}”."
            )
        return chosen

    def _among(
        self, pictures: Tensor, faces: Sequence[Sequence[Face]], threshold: float, others: str
    ) -> Chosen:
        """Of pictures [B, 3, H, W] with so many faces each."""
        embed = self.recognizer.loaded().embed
        shown = [[shown_at(f, picture) for f in of] for of, picture in zip(faces, pictures, strict=True)]
        directions = list[Tensor]()
        for of in shown:
            mm.throw_exception_if_processing_interrupted()
            raw = [one.embedded(embed) for one in of]
            none = self.gallery.people.new_empty(0)
            directions.append(self.gallery.directions(torch.cat(raw).cpu()) if raw else none)
        boxes: list[list[Box]] = [[face.box for face in of] for of in faces]
        tracks = tracks_of(boxes, directions)
        table = self.gallery.likenesses(torch.stack([track.direction for track in tracks]))
        people = identify(tracks, table, threshold)
        chosen = Chosen(
            lines=told(tracks, people, table, len(pictures)), panels=panels(tracks, people, table, shown)
        )
        for person, adapter in enumerate(self.adapters):
            own = [track for track, who in zip(tracks, people, strict=True) if who == person]
            if own:
                chosen.adapters.append(adapter)
                chosen.boxes.append(boxes_by_picture(own, faces))
        for track, who in zip(tracks, people, strict=True):
            if who is None and others == BASE:
                chosen.adapters.append(None)
                chosen.boxes.append(boxes_by_picture([track], faces))
        return chosen


def numbered(boxes: list[list[dict[str, Any]]], picture: int) -> list[list[dict[str, Any]]]:
    """Boxes that say which picture of a list they are in, for Paste Face."""
    return [[{**box, PICTURE: picture} for box in of] for of in boxes]


def boxes_by_picture(tracks: Sequence[Track], faces: Sequence[Sequence[Face]]) -> list[list[dict[str, Any]]]:
    """The host's boxes of what is one person, for each picture."""
    found = list[list[dict[str, Any]]]([[] for _ in faces])
    for track in tracks:
        for picture, number in track.places.items():
            others = [list(face.box) for k, face in enumerate(faces[picture]) if k != number]
            found[picture] = [{**host_boxes([faces[picture][number]])[0], OTHERS: others}]
    return found


def told(tracks: Sequence[Track], people: Sequence[int | None], table: Tensor, pictures: int) -> list[str]:
    """A line for each face."""
    lines = []
    for number, (track, who) in enumerate(zip(tracks, people, strict=True), start=1):
        first, last = min(track.places) + 1, max(track.places) + 1
        where = "" if pictures == 1 else f" (in pictures {first} to {last})"
        near = ", ".join(f"{p} {value:.2f}" for p, value in enumerate(table[number - 1].tolist(), start=1))
        lines.append(f"Face {number}{where}: {named(who)}. Likeness to person {near}.")
    return lines


def named(who: int | None) -> str:
    return "nobody" if who is None else f"person {who + 1}"


def panels(
    tracks: Sequence[Track], people: Sequence[int | None], table: Tensor, shown: Sequence[Sequence[Shown]]
) -> list[tuple[str, Tensor]]:
    """Each face as it is first seen, under whose it is."""
    found = []
    for track, who, row in list(zip(tracks, people, table, strict=True))[:MOST_SHOWN]:
        picture, number = next(iter(track.places.items()))
        near = float(row.max() if who is None else row[who])
        found.append((f"{named(who)} {near:.2f}", shown[picture][number].cut(CELL)))
    return found
