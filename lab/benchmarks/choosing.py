"""Whether faces in bad pictures go to the right person, and strangers to nobody, by what adapters know.

`python -m lab benchmark choosing PEOPLE --json FILE [--known P004,P007,P008] [--references 5] [--tests 8]
[--presets none,moderate,heavy] [--draws 2] [--thresholds 0,0.5] [--groups 10] [--seed 0]`

Of each of the folders, by file name, the first photos with a face are what is known of a known person; the
next are cut to the face with what is around it (256 pixels), degraded, and looked through for a face. Whoever
is not known is a stranger. Rows are counts of faces; those of the example group give each person one face.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pfstorer_core.checkpoints.files import atomic_write
from pfstorer_core.degradation import PRESETS, applied_at
from pfstorer_core.imaging.faces import Face, find_faces
from pfstorer_core.imaging.pictures import read_picture
from pfstorer_core.personalization.face import face_of
from pfstorer_core.personalization.photos import MARGIN
from pfstorer_core.recognition import load_recognizer
from pfstorer_core.recognition.identification import THRESHOLD, Gallery, identify, tracks_of
from pfstorer_core.recognition.recognizer import Recognizer
from pfstorer_core.recognition.shown import Shown
from pfstorer_core.training.data import SUFFIXES
from pfstorer_core.training.degradation import RandomDegradation, random_degradation

from ..architecture import ROOT
from ..example_pictures import FACE
from .photographs import face_of as cut_face

RECOGNIZER = ROOT / "assets" / "face_recognizers" / "dlib_resnet29.safetensors"
EXAMPLES = ROOT / "assets" / "examples"
GROUP = ("P007", "P008", "P004")
"""From left to right."""
SIDE, NONE = 256, "none"


@dataclass
class Counts:
    """Of faces: given to their person, to another, to nobody; strangers who were given to somebody and to
    nobody; and faces that were not found."""

    right: int = 0
    wrong: int = 0
    nobody: int = 0
    taken: int = 0
    refused: int = 0
    unfound: int = 0

    def add(self, person: int | None, given: int | None) -> None:
        if person is None:
            name = "refused" if given is None else "taken"
        else:
            name = "nobody" if given is None else "right" if given == person else "wrong"
        setattr(self, name, getattr(self, name) + 1)


def photos_of(folder: Path) -> Iterator[Tensor]:
    """[1, 3, H, W] in [0, 1], by file name."""
    for path in sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES):
        yield read_picture(path)


def bad_copies(face: Tensor, preset: str, draws: int, seed: Sequence[int]) -> list[Tensor]:
    """Of [1, 3, H, W]."""
    if preset == NONE:
        return [face]
    damage = random_degradation(preset, SIDE)
    return [damage(face, [np.random.default_rng([*seed, draw])])[1] for draw in range(draws)]


def embedded(recognizer: Recognizer, picture: Tensor) -> Tensor | None:
    """[1, D] of the largest face that is found in a picture; None: none is."""
    if not (faces := find_faces(picture[0])):
        return None
    face = max(faces, key=lambda one: one.box[2] - one.box[0])
    with torch.no_grad():
        return Shown(picture, face.landmarks).embedded(recognizer.embed)


def group_counts(
    recognizer: Recognizer, known: Sequence[str], gallery: Gallery, threshold: float, bad: Tensor
) -> Counts:
    """Whom the faces in a bad copy [1, 3, H, W] of the example group are given to, each person once."""
    true = find_faces(read_picture(EXAMPLES / "group_true.jpg")[0])
    counts, faces = Counts(), find_faces(bad[0])
    there = [int(np.argmin([aside(face, other) for other in true])) for face in faces]
    counts.unfound = len(GROUP) - len(set(there))
    if not faces:
        return counts
    with torch.no_grad():
        raw = torch.cat([Shown(bad, face.landmarks).embedded(recognizer.embed) for face in faces])
    directions = gallery.directions(raw)
    tracks = tracks_of([[face.box for face in faces]], [directions])
    for who, given in zip(there, identify(tracks, gallery.likenesses(directions), threshold), strict=True):
        counts.add(known.index(GROUP[who]), given)
    return counts


def aside(face: Face, other: Face) -> float:
    return abs(face.box[0] + face.box[2] - other.box[0] - other.box[2])


def group_rows(
    recognizer: Recognizer, options: argparse.Namespace, gallery: Gallery, thresholds: Sequence[float]
) -> list[dict[str, Any]]:
    """Of the example group, under each preset as it is applied to faces of this size."""
    true = read_picture(EXAMPLES / "group_true.jpg")
    side = round(FACE * (1 + MARGIN))
    rows = []
    for preset in options.presets.split(","):
        pictures = [true]
        if preset != NONE:
            at = round(min(true.shape[-2:]) / side * applied_at(preset, side))
            damage = RandomDegradation((PRESETS[preset],), (at,))
            draws = [np.random.default_rng([options.seed, draw]) for draw in range(options.groups)]
            pictures = [damage(true, [draw])[1] for draw in draws]
        for t in thresholds:
            counts = [group_counts(recognizer, options.known.split(","), gallery, t, bad) for bad in pictures]
            total = {key: sum(asdict(one)[key] for one in counts) for key in asdict(Counts())}
            rows.append({"group": preset, "threshold": t, **total})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m lab benchmark choosing", description=__doc__)
    parser.add_argument("people", type=Path)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--recognizer", type=Path, default=RECOGNIZER)
    parser.add_argument("--known", default="P004,P007,P008")
    parser.add_argument("--references", type=int, default=5)
    parser.add_argument("--tests", type=int, default=8)
    parser.add_argument("--presets", default=f"{NONE},moderate,heavy")
    parser.add_argument("--draws", type=int, default=2, help="damages of each photo")
    parser.add_argument("--thresholds", default=f"{THRESHOLD}")
    parser.add_argument("--groups", type=int, default=0, help="damages of the example group")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    recognizer, known = load_recognizer(options.recognizer), options.known.split(",")
    faces = {}
    for name in known:
        first = [photo[0] for photo in islice(photos_of(options.people / name), options.references)]
        if (face := face_of(recognizer, first)) is None:
            raise ValueError(f"No face is found in the first photos of {name}.")
        faces[name] = torch.tensor(face.embedding)
    gallery = Gallery.of(recognizer.embed, torch.stack([*faces.values()]))
    thresholds = [float(value) for value in options.thresholds.split(",")]
    counts = {(t, p): Counts() for t in thresholds for p in options.presets.split(",")}
    for number, folder in enumerate(sorted(path for path in options.people.iterdir() if path.is_dir())):
        person = known.index(folder.name) if folder.name in known else None
        photos = islice(photos_of(folder), options.references, None)
        cut = [face for photo in photos for face in cut_face(photo, SIDE, False)][: options.tests]
        for preset in options.presets.split(","):
            for k, face in enumerate(cut):
                for bad in bad_copies(face, preset, options.draws, (options.seed, number, k)):
                    found = embedded(recognizer, bad)
                    for t in thresholds:
                        if found is None:
                            counts[t, preset].unfound += 1
                            continue
                        table = gallery.likenesses(gallery.directions(found))
                        best, given = table[0].max(0)
                        counts[t, preset].add(person, int(given) if float(best) >= t else None)
    rows = [{"threshold": t, "preset": p, **asdict(count)} for (t, p), count in counts.items()]
    if options.groups:
        rows += group_rows(recognizer, options, gallery, thresholds)
    for row in rows:
        sys.stdout.write("  ".join(f"{key} {value}" for key, value in row.items()) + "\n")
    about = {key: str(value) for key, value in vars(options).items() if key != "people"}
    with atomic_write(options.json) as temporary:
        temporary.write_text(json.dumps({"about": about, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
