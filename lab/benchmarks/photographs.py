"""What restorers and personalization bring on photographs: a folder of people, a folder of photos for each.

`python -m lab benchmark photographs PEOPLE --json FILE [--restorer FILE] [--control FILE] [--size 256]
[--methods input,base,…] [--references 5] [--tests 8] [--preset heavy] [--sampling-steps 2] [--seed 0]
[--start FILE.start.safetensors] [--adapters FOLDER] [--aligned]
[--sheet FILE.png]`

Of each person, by file name, the first photos with a face are learned from; the next are cut to the face,
degraded and restored. Rows are those of `benchmark personalization`, and `truth`. `own` is the distance of
dlib's recogniser to the person's learned photos, `other` that to the next person's: that needs `pip install
dlib-bin face_recognition_models`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pfstorer_core.checkpoints.files import atomic_write
from pfstorer_core.imaging.alignment import aligned_face
from pfstorer_core.imaging.faces import cut, face_in, face_square, largest_face
from pfstorer_core.imaging.pictures import read_picture
from pfstorer_core.imaging.resizing import resize
from pfstorer_core.personalization.dual_pivot.settings import DualPivotTraining
from pfstorer_core.personalization.pfstorer.settings import AdapterTraining
from pfstorer_core.personalization.pfstorer.start import load_start, start_beside
from pfstorer_core.personalization.registry import load_identity_adapter
from pfstorer_core.restorers.files import load_restorer
from pfstorer_core.training.data import SUFFIXES
from pfstorer_core.training.degradation import random_degradation

from ..evaluation import CaseSettings
from ..evaluation.cases import Case
from ..evaluation.commands import RESTORER
from ..evaluation.figures import write_sheet
from ..evaluation.methods import Method
from ..evaluation.recognizer import descriptors, distances
from .learned import Learned, method_named

CONTEXT = 0.6
"""About the detector's box, as the nodes cut faces."""


@dataclass(frozen=True)
class Photographs:
    """Which photos of people.

    Attributes:
        references, tests: of each person, learned from and restored.
        size: side of the pictures in pixels.
        preset: of the degradation.
        aligned: faces lie in them as in FFHQ; else upright or not, with `CONTEXT` about them.
    """

    references: int = 5
    tests: int = 8
    size: int = 256
    preset: str = "heavy"
    seed: int = 0
    aligned: bool = False

    def cases(self, folder: Path) -> list[Case]:
        """People by name.

        Raises:
            ValueError: fewer than two people, or too few photos with a face of one.
        """
        return [self.case(number, faces) for number, faces in enumerate(self.faces(folder).values())]

    def faces(self, folder: Path) -> dict[str, Tensor]:
        """Of people by name [references + tests, 3, size, size] in [0, 1]; errors as `cases`."""
        people = sorted(path for path in folder.iterdir() if path.is_dir())
        if len(people) < 2:
            raise ValueError(f"{folder} needs two folders or more, one for each person, with photos in them.")
        count = self.references + self.tests
        return {path.name: faces_in(path, count, self.size, self.aligned) for path in people}

    def case(self, number: int, faces: Tensor) -> Case:
        """Of faces [references + tests, 3, size, size] in [0, 1] of one person."""
        references, hq = faces.split([self.references, self.tests])
        generators = [np.random.default_rng([self.seed, number, k]) for k in range(self.tests)]
        hq, lq = random_degradation(self.preset, self.size)(hq, generators)
        nothing = hq.new_empty(self.tests, 0, 2)
        seed = int(np.random.default_rng([self.seed, number]).integers(2**31))
        return Case(
            number, self.preset, hq, lq, plain=hq, references=references, landmarks=nothing,
            visible=nothing[..., 0].bool(), traits=hq.new_empty(0), seed=seed,
        )  # fmt: skip


def faces_in(folder: Path, count: int, size: int, aligned: bool = False) -> Tensor:
    """[count, 3, size, size] in [0, 1] of the first photos, by file name, that have a face; raises ValueError
    where there are too few."""
    found: list[Tensor] = []
    for path in sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES):
        if len(found) < count:
            found += face_of(read_picture(path), size, aligned)
    if len(found) < count:
        raise ValueError(f"{folder.name} has {len(found)} photos with a face, and {count} are needed.")
    return torch.cat(found)


def face_of(picture: Tensor, size: int, aligned: bool) -> list[Tensor]:
    """The largest face [1, 3, size, size] in a picture [1, 3, H, W], both in [0, 1]; none where there is
    none."""
    box = largest_face(picture[0])
    if box is None:
        return []
    if aligned:
        face = face_in(box, picture[0])
        return [] if face is None else [aligned_face(picture, face.landmarks, size)[0]]
    height, width = picture.shape[-2:]
    face = cut(picture, face_square(box, (height, width), CONTEXT))
    return [resize(face, (size, size)).clamp(0, 1)]


def learned_before(learned: Learned, folder: Path, people: Sequence[str], gamma: float) -> dict[str, Method]:
    """Rows of adapters in a folder by their people's names: `shipped`, and the next person's."""

    def restored(further: int, case: Case) -> Tensor:
        name = people[(case.person + further) % len(people)]
        adapter = load_identity_adapter(folder / f"{name}.safetensors")
        return learned.restored(case, adapter, gamma, learned.restorer)

    return {"shipped": partial(restored, 0), "other:shipped": partial(restored, 1)}


def rows_of(methods: dict[str, Method], cases: Sequence[Case]) -> list[dict[str, Any]]:
    """A row a method and person: PSNR in dB, and the distances to that person and to the next one."""
    people = [descriptors(case.references).mean(0) for case in cases]
    rows = []
    for name, method in methods.items():
        for number, case in enumerate(cases):
            images = method(case)
            psnr = -10 * (images - case.hq).square().mean((1, 2, 3)).clamp_min(1e-10).log10()
            row: dict[str, Any] = {"method": name, "person": number, "psnr": float(psnr.mean())}
            for whose, person in (("own", people[number]), ("other", people[(number + 1) % len(people)])):
                row[whose] = float(distances(images, case.hq, person).mean())
            rows.append(row)
            print_row(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m lab benchmark photographs", description=__doc__)
    parser.add_argument("people", type=Path)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--restorer", type=Path, default=RESTORER)
    parser.add_argument("--control", type=Path)
    parser.add_argument("--methods", default="truth,input,autoencoder,base")
    parser.add_argument("--references", type=int, default=5)
    parser.add_argument("--tests", type=int, default=8)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--preset", default="heavy")
    parser.add_argument("--steps", type=int, default=AdapterTraining().steps, help="of a training")
    parser.add_argument("--pivot-steps", type=int, default=DualPivotTraining().steps)
    parser.add_argument("--class-pictures", type=int, default=DualPivotTraining().class_pictures)
    parser.add_argument("--sampling-steps", type=int, default=2)
    parser.add_argument("--gamma", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--adapters", type=Path, help="a folder of them, for the row shipped")
    parser.add_argument("--aligned", action="store_true", help="faces as in FFHQ, which CLR-Face needs")
    parser.add_argument("--sheet", type=Path)
    parser.add_argument("--start", type=Path, help="for rows of adapters that begin with one")
    options = parser.parse_args()
    photographs = Photographs(
        options.references, options.tests, options.size, options.preset, options.seed, options.aligned
    )
    cases = photographs.cases(options.people)
    restorer = load_restorer(options.restorer, text=True)
    diffbir = load_restorer(options.restorer, options.control, text=True) if options.control else None
    settings = AdapterTraining(steps=options.steps, seed=options.seed, preview_every=0)
    pivots = DualPivotTraining(
        steps=options.pivot_steps, class_pictures=options.class_pictures, seed=options.seed, preview_every=0
    )
    beside = options.start or start_beside(options.restorer)
    start = load_start(beside) if options.start or beside.exists() else None
    people = [path.name for path in sorted(options.people.iterdir()) if path.is_dir()]
    bases = [base.fingerprint for base in (restorer, diffbir) if base]
    what = f"{bases} {settings} {pivots} {photographs} {people}"
    what += f" {start.fingerprint}" if start else ""
    folder = options.json.with_suffix("") / hashlib.sha256(what.encode()).hexdigest()[:12]
    folder.mkdir(parents=True, exist_ok=True)
    drawn = CaseSettings(options.tests, options.references, size=options.size, seed=options.seed)
    learned = Learned(
        restorer, drawn, settings, folder, options.sampling_steps, diffbir, pivots,
        lambda person, _: cases[person % len(cases)], start,
    )  # fmt: skip
    given = learned_before(learned, options.adapters, people, options.gamma) if options.adapters else {}
    given["truth"] = lambda case: case.hq
    methods = {
        name: given[name] if name in given else method_named(learned, name, options.gamma)
        for name in options.methods.split(",")
    }
    rows = rows_of(methods, cases)
    about = {"made_with": what, "sampling_steps": options.sampling_steps, "people": people}
    with atomic_write(options.json) as temporary:
        temporary.write_text(json.dumps({"about": about, "rows": rows}, indent=1) + "\n")
    for name in methods:
        own = [row for row in rows if row["method"] == name]
        means = {key: float(np.mean([row[key] for row in own])) for key in ("psnr", "own", "other")}
        print_row({"method": name, **means})
    if options.sheet:
        write_sheet(options.sheet, methods, cases)


def print_row(row: dict[str, Any]) -> None:
    head = f"{row['method']:>20} {row.get('person', 'mean')!s:>5}"
    sys.stdout.write(f"{head}  PSNR {row['psnr']:6.2f}  own {row['own']:.3f}  other {row['other']:.3f}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
