"""What restorers and personalization bring on photographs: a folder of people, a folder of photos for each.

`python -m lab benchmark photographs PEOPLE --json FILE [--restorer FILE] [--control FILE] [--size 256]
[--methods input,base,…] [--references 5] [--tests 8] [--preset heavy …] [--sampling-steps 2] [--seed 0]
[--start FILE.start.safetensors] [--adapters [NAME=]FOLDER …] [--aligned] [--over base]
[--sheet FILE.png] [--person NAME] [--frontier FILE.png]`

Of each person, by file name, the first photos with a face are learned from; the next are cut to the face,
degraded and restored. Rows are those of `benchmark personalization`, and `truth`. `own` is the distance of
dlib's recogniser to the person's learned photos, `other` that to the next person's: that needs `pip install
dlib-bin face_recognition_models`. What FILE holds already of the same settings is not made again.
`--adapters` are folders of files by people's names: rows NAME, `other:NAME` and `NAME@0.5`. The sheet has a
row a preset and person, or of one `--person`; `--frontier` draws likeness against PSNR over the strengths.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

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
from ..evaluation.scoreboard import Scoreboard, read_results, write_board
from .frontier import write_frontier
from .learned import Learned, method_named
from .likeness import METRICS, measured, tables

CAPTIONS = {
    "input": "bad picture", "base": "without the person", "shipped": "with the person",
    "other:shipped": "with another one",
}  # fmt: skip
"""Of columns of the sheet."""

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


def method_of(learned: Learned, files: Mapping[str, Sequence[Path]], name: str, gamma: float) -> Method:
    """A row, at `gamma` where its name has no strength.

    Args:
        files: adapters of all people, in order, by the name of their rows.
    Raises:
        ValueError: no such row.
    """
    kind, _, strength = name.partition("@")
    whose, _, adapters = kind.rpartition(":")
    if kind == "truth":
        return lambda case: case.hq
    if adapters not in files or whose not in ("", "other"):
        return method_named(learned, name, gamma)

    def restored(case: Case) -> Tensor:
        own = files[adapters]
        adapter = load_identity_adapter(own[(case.person + bool(whose)) % len(own)])
        return learned.restored(case, adapter, float(strength or gamma), learned.restorer)

    return restored


def adapter_files(given: Sequence[str], people: Sequence[str]) -> dict[str, list[Path]]:
    """Adapters of people by the names of their rows, of [NAME=]FOLDER, where NAME is "shipped" by itself.

    Raises:
        ValueError: somebody's is not there.
    """
    found: dict[str, list[Path]] = {}
    for text in given:
        name, _, folder = text.rpartition("=")
        files = [Path(folder) / f"{person}.safetensors" for person in people]
        missing = [str(file) for file in files if not file.exists()]
        if missing:
            raise ValueError(f"--adapters {text}: there is no {', '.join(missing)}.")
        found[name or "shipped"] = files
    return found


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m lab benchmark photographs", description=__doc__)
    parser.add_argument("people", type=Path)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--restorer", type=Path, default=RESTORER)
    parser.add_argument("--control", type=Path)
    parser.add_argument("--methods", default="truth,input,autoencoder,base")
    parser.add_argument("--references", type=int, default=5)
    parser.add_argument("--tests", type=int, default=8)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--preset", nargs="+", default=["heavy"])
    parser.add_argument("--steps", type=int, default=AdapterTraining().steps, help="of a training")
    parser.add_argument("--pivot-steps", type=int, default=DualPivotTraining().steps)
    parser.add_argument("--class-pictures", type=int, default=DualPivotTraining().class_pictures)
    parser.add_argument("--sampling-steps", type=int, default=2)
    parser.add_argument("--gamma", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--adapters", nargs="+", default=[], help="folders of them, [NAME=]FOLDER")
    parser.add_argument("--aligned", action="store_true", help="faces as in FFHQ, which CLR-Face needs")
    parser.add_argument("--over", default="base", help="what rows are compared with, at the same strength")
    parser.add_argument("--sheet", type=Path)
    parser.add_argument("--person", help="of whom the sheet is; by itself of everybody")
    parser.add_argument("--frontier", type=Path)
    parser.add_argument("--start", type=Path, help="for rows of adapters that begin with one")
    options = parser.parse_args()
    if options.frontier and "base" not in options.methods.split(","):
        parser.error("--frontier compares with the base: add base to --methods")
    return options


def learning(
    options: argparse.Namespace, photographs: Photographs, people: Sequence[str], cases: Sequence[Case]
) -> tuple[Learned, str]:
    """What is learned of the people while it is asked for, and on what that depends."""
    restorer = load_restorer(options.restorer, text=True)
    diffbir = load_restorer(options.restorer, options.control, text=True) if options.control else None
    settings = AdapterTraining(steps=options.steps, seed=options.seed, preview_every=0)
    pivots = DualPivotTraining(
        steps=options.pivot_steps, class_pictures=options.class_pictures, seed=options.seed, preview_every=0
    )
    beside = options.start or start_beside(options.restorer)
    start = load_start(beside) if options.start or beside.exists() else None
    bases = [base.fingerprint for base in (restorer, diffbir) if base]
    seen = (photographs.references, photographs.size, photographs.aligned)
    what = f"{bases} {settings} {pivots} {seen} {people}" + (f" {start.fingerprint}" if start else "")
    folder = options.json.with_suffix("") / hashlib.sha256(what.encode()).hexdigest()[:12]
    folder.mkdir(parents=True, exist_ok=True)
    drawn = CaseSettings(options.tests, options.references, size=options.size, seed=options.seed)
    found = {(case.preset, case.person): case for case in cases}
    learned = Learned(
        restorer, drawn, settings, folder, options.sampling_steps, diffbir, pivots,
        lambda person, preset: found[preset, person % len(people)], start,
    )  # fmt: skip
    return learned, what


def main() -> None:
    options = parsed()
    photographs = Photographs(
        options.references, options.tests, options.size, seed=options.seed, aligned=options.aligned
    )
    faces = photographs.faces(options.people)
    people = [*faces]
    if options.person not in (None, *people):
        raise SystemExit(f"--person {options.person}: choose one of {', '.join(people)}.")
    cases = [
        replace(photographs, preset=preset).case(number, own)
        for preset in options.preset
        for number, own in enumerate(faces.values())
    ]
    learned, what = learning(options, photographs, people, cases)
    files = adapter_files(options.adapters, people)
    names: list[str] = options.methods.split(",")
    methods = {name: method_of(learned, files, name, options.gamma) for name in names}
    about = {
        "cases": {"seed": options.seed, "tests": options.tests},
        "made_with": what,
        "sampling_steps": options.sampling_steps,
        "gamma": options.gamma,
        "people": people,
        "adapters": {name: [digest(file) for file in own] for name, own in files.items()},
    }
    results = read_results(options.json, about)
    board = Scoreboard(about, results, {}, {}, METRICS)
    for row in measured(methods, cases, results):
        results.append(row)
        write_board(board, options.json)
        print_row(row)
    write_board(board, options.json)
    sys.stdout.write(tables(board, options.over))
    if options.sheet:
        shown = [case for case in cases if options.person in (None, people[case.person])]
        captioned = {CAPTIONS.get(name, name): method for name, method in methods.items() if name != "truth"}
        labels = [case.preset for case in shown] if len(options.preset) > 1 else ()
        write_sheet(options.sheet, captioned, shown, labels=labels)
    if options.frontier:
        write_frontier(options.frontier, board.rows, options.gamma, "own")


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()[:12]


def print_row(row: Mapping[str, Any]) -> None:
    head = f"{row['method']:>20} {row['preset']:>9} {row['person']}"
    sys.stdout.write(f"{head}  PSNR {row['psnr']:6.2f}  own {row['own']:.3f}  other {row['other']:.3f}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
