"""Whether photos are fit to learn a person from: a verdict a photo, with its reasons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from ..degradation.sheet import sheet_of
from ..imaging.faces import Face, find_faces
from ..imaging.resizing import resize
from ..recognition.likeness import strangers
from ..recognition.shown import Embed, Find, Shown
from .photos import MARGIN, resized, square

GOOD, DOUBTFUL, BAD = "good", "doubtful", "leave out"
"""Verdicts. Doubtful photos are kept: they may be all that there is."""
MOST_ENLARGED = 2.0
"""A face that has to be enlarged by more has no skin, no lashes and no hair that could be learned."""
DETAIL_SIDE = 128
"""Side of the aligned face in which detail is looked for: what small restorers draw, too."""
BLURRED, SOFT = 0.04, 0.09
"""Shares of detail. Sharp photographs have 0.12 to 0.22; under a Gaussian blur of a hundredth of the face's
height 0.05 to 0.08, of two hundredths 0.02."""
ALIKE = 0.99
"""Correlation of two aligned faces: of a photo and its copy, smaller, brighter or compressed, it is 0.993 and
more, of a still face in two photos 0.98."""
ALIGNED, COMPARED = 256, 48
"""Sides of the aligned faces that are compared, and of what is left of them for it: no hair, no pores."""
TURNED = 0.5
"""How far the nose lies off the middle of the eyes, in distances of the eyes: in front views up to 0.1, in
side views 0.8 and more. Recognisers do not know people from the side."""
OWN_SHARE = 0.7
"""Two photos show one person where they are more alike than so much of the way from strangers to photos of
this person. Of openpeople's nine, by dlib's recogniser, five photos of one and one of another: 783 of 864
others are told, and of 63 own ones from the front none; the rest are people whom dlib takes for one."""
FEWEST = 3
"""Photos among which one can be the odd one out."""
SIDE = 512
"""Of the squares that are passed on: no restorer here draws larger faces."""
CELL, COLUMNS, FRAME = 192, 4, 6
"""Pixels of a crop on the sheet, crops in a row, and pixels of the frame about it."""
COLOURS = {GOOD: (0.2, 0.75, 0.3), DOUBTFUL: (1.0, 0.75, 0.0), BAD: (0.9, 0.2, 0.15)}


@dataclass
class PhotoCheck:
    """What was found in a photo.

    Attributes:
        crop: the square [3, S, S] about its largest face, as trainings cut it; without one, its middle.
        shown: that face; None where there is none.
        side: pixels of the longer side of its box.
        detail: share of its contrast that is finer than two pixels of an aligned face of `DETAIL_SIDE`.
        turned: how far it looks aside, see `turned`.
        faults: why it is to be left out.
        doubts: what else a user should know.
    """

    crop: Tensor
    shown: Shown | None = None
    side: float = 0.0
    detail: float = 0.0
    turned: float = 0.0
    faults: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)

    @property
    def verdict(self) -> str:
        return BAD if self.faults else DOUBTFUL if self.doubts else GOOD

    def line(self, number: int) -> str:
        """In words."""
        face = f" (face of {self.side:.0f} pixels, detail {self.detail:.2f})" if self.shown else ""
        why = "; ".join([*self.faults, *self.doubts])
        return f"Photo {number}: {self.verdict}{f', {why}' if why else ''}{face}."


@dataclass(frozen=True)
class CheckedPhotos:
    """All photos, in order, and what there is to say of them together."""

    photos: Sequence[PhotoCheck]
    notes: Sequence[str]

    @property
    def kept(self) -> list[PhotoCheck]:
        return [photo for photo in self.photos if photo.verdict != BAD]

    def squares(self) -> Tensor:
        """The crops of those that are kept [N, 3, SIDE, SIDE]; N may be 0."""
        return torch.cat(
            [torch.empty(0, 3, SIDE, SIDE), *(resized([photo.crop], SIDE) for photo in self.kept)]
        )

    def lines(self) -> list[str]:
        return [*(photo.line(n) for n, photo in enumerate(self.photos, start=1)), *self.notes]

    def sheet(self) -> Tensor:
        """All crops, framed by their verdicts, under number and first reason: [1, 3, H, W] in [0, 1]."""
        panels = [
            (" ".join([str(n), *(photo.faults + photo.doubts or [GOOD])[:1]]), framed(photo))
            for n, photo in enumerate(self.photos, start=1)
        ]
        return sheet_of(panels, CELL, min(COLUMNS, len(panels)))


def check_photos(
    photos: Sequence[Tensor], embed: Embed | None = None, size: int = 256, find: Find = find_faces
) -> CheckedPhotos:
    """Look at photos [3, H, W] in [0, 1] of one person.

    Args:
        embed: of a recogniser, by whom the odd one out is told; None: it is not looked for.
        size: side of the pictures that the restorer draws.
    Raises:
        ValueError: no photos.
    """
    if not photos:
        raise ValueError("There are no photos to check: give at least one.")
    checks = [_looked_at(photo, size, find(photo)) for photo in photos]
    _name_copies(checks)
    with torch.no_grad():
        notes = _name_strangers(checks, embed)
    kept = sum(photo.verdict != BAD for photo in checks)
    return CheckedPhotos(checks, [*notes, f"{kept} of {len(checks)} photos are fit; 3 to 5 are best."])


def _looked_at(photo: Tensor, size: int, faces: Sequence[Face]) -> PhotoCheck:
    """By itself."""
    if not faces:
        return PhotoCheck(square(photo, None), faults=["no face is found"])
    face = max(faces, key=lambda one: (one.box[2] - one.box[0]) * (one.box[3] - one.box[1]))
    side = max(face.box[2] - face.box[0], face.box[3] - face.box[1])
    shown = Shown(photo[None], face.landmarks)
    detail, aside = detail_of(shown.cut(DETAIL_SIDE)), turned(face.landmarks)
    check = PhotoCheck(square(photo, face.box), shown, side, detail, aside)
    around = side * (1 + MARGIN)
    if around * MOST_ENLARGED < size:
        check.faults.append("too small a face")
    elif around < size:
        check.doubts.append("a small face")
    if check.detail < BLURRED:
        check.faults.append("blurred")
    elif check.detail < SOFT:
        check.doubts.append("not quite sharp")
    if len(faces) > 1:
        check.doubts.append(f"{len(faces)} faces, the largest is taken")
    if aside > TURNED:
        check.doubts.append("seen from the side")
    return check


def detail_of(face: Tensor) -> float:
    """What of the contrast in the middle of an aligned face [1, 3, S, S] is lost at half the size."""
    side = face.shape[-1]
    gray = face.mean(1, keepdim=True)
    coarse = resize(resize(gray, (side // 2, side // 2)), (side, side))
    middle = slice(side // 4, side - side // 4)
    fine, whole = (values[..., middle, middle].std() for values in (gray - coarse, gray))
    return float(fine / whole.clamp_min(1e-6))


def turned(landmarks: Tensor) -> float:
    """How far a head is turned by the landmarks [6, 2] of its face, see `TURNED`."""
    right, left, nose = landmarks[:3]
    eyes = left - right
    return float(((nose - (right + left) / 2) @ eyes).abs() / (eyes @ eyes).clamp_min(1e-6))


def _name_copies(checks: Sequence[PhotoCheck]) -> None:
    """Of photos that are nearly the same, the one with the larger face stays."""
    fit = [photo for photo in checks if photo.shown and not photo.faults]
    numbers = {id(photo): n for n, photo in enumerate(checks, start=1)}
    kept: list[tuple[PhotoCheck, Tensor]] = []
    for photo in sorted(fit, key=lambda one: -one.side):
        assert photo.shown
        gray = resize(photo.shown.cut(ALIGNED), (COMPARED, COMPARED)).mean(1).flatten()
        looks = F.normalize(gray - gray.mean(), dim=0)
        same = next((other for other, theirs in kept if float(looks @ theirs) > ALIKE), None)
        if same is None:
            kept.append((photo, looks))
        else:
            photo.faults.append(f"nearly the same as photo {numbers[id(same)]}")


def _name_strangers(checks: Sequence[PhotoCheck], embed: Embed | None) -> list[str]:
    """Who shows somebody else than most do, see `OWN_SHARE`. What cannot be said is in the notes."""
    fit = [photo for photo in checks if photo.shown and not photo.faults]
    if embed is None:
        return ["Without a recogniser nobody looked whether all are the same person."]
    if len(fit) < FEWEST:
        return [f"Of fewer than {FEWEST} fit photos none can be told to be of somebody else."]
    alike = _cosines(torch.cat([photo.shown.embedded(embed) for photo in fit if photo.shown]))
    low = _cosines(embed(2 * strangers() - 1, None))
    best = alike.fill_diagonal_(-1).amax(1)
    others = low[~torch.eye(len(low), dtype=torch.bool)].mean()
    linked = alike > torch.lerp(others, best.median(), OWN_SHARE)
    person = max((_reached(linked, n) for n in range(len(fit))), key=len)
    if len(person) <= len(fit) / 2:
        return [
            "The photos do not look like one person, nor most of them: is there another one's among them?"
        ]
    for n, photo in enumerate(fit):
        if n not in person:
            unsure = photo.turned > TURNED
            (photo.doubts if unsure else photo.faults).append("another person" + "?" * unsure)
    return []


def _cosines(embeddings: Tensor) -> Tensor:
    """[N, N] of embeddings [N, D]."""
    units = F.normalize(embeddings, dim=-1)
    return units @ units.T


def _reached(linked: Tensor, start: int) -> set[int]:
    """Whoever is linked [N, N] to one, or to one of those."""
    found, todo = {start}, [start]
    while todo:
        new = {int(n) for n in linked[todo.pop()].nonzero()} - found
        found |= new
        todo += new
    return found


def framed(photo: PhotoCheck) -> Tensor:
    """The crop [1, 3, CELL, CELL] for a sheet, in a frame of its verdict's colour."""
    inside = CELL - 2 * FRAME
    frame = torch.tensor(COLOURS[photo.verdict])[None, :, None, None].repeat(1, 1, CELL, CELL)
    crop = resize(photo.crop[None], (inside, inside)).clamp(0, 1)
    frame[..., FRAME:-FRAME, FRAME:-FRAME] = crop
    return frame
