"""What identity guidance brings: how much nearer the guide finds a person, and whether others agree.

`python -m lab benchmark guidance PEOPLE --json FILE --guide FILE [--judge FILE …] [--restorer FILE]
[--control FILE] [--strengths 0.02,0.05,0.1] [--masks none,landmarks,FILE] [--sampling-steps 8] [--tests 8]
[--seed 0] [--sheet FILE.png]`

People, photos and damage are those of `benchmark photographs`. A row a strength, mask and target: `own`
photos, the `next` person's, or `itself`, the bad picture. `rose` counts the pictures that a recogniser finds
nearer to a person than without guidance: of the guide all should be, and a judge, which did not guide, should
not fall. `cost` is the time of a guided sampling as a multiple of one without, in the same run.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from pfstorer_core.checkpoints.files import atomic_write
from pfstorer_core.diffusion.identity_guidance import IdentitySettings
from pfstorer_core.models.identity_mask import IdentityMask
from pfstorer_core.personalization.face_guidance import FaceGuidance
from pfstorer_core.recognition import Recognizer, cosines, load_recognizer
from pfstorer_core.recognition.subject import direction_of
from pfstorer_core.restore import restore
from pfstorer_core.restorers.base import Restorer
from pfstorer_core.restorers.clr_face.mask import MASKS, load_mask
from pfstorer_core.restorers.files import load_restorer

from ..evaluation.cases import Case
from ..evaluation.commands import RESTORER
from ..evaluation.figures import write_sheet
from ..evaluation.gallery import embeddings, faces_of
from .photographs import Photographs

TARGETS = ("own", "next", "itself")


@dataclass(frozen=True)
class Guided:
    """One way to guide; strength 0 is none."""

    strength: float = 0.0
    mask: str = "none"
    target: str = "own"

    @property
    def name(self) -> str:
        return f"{self.target} {self.strength:g} {Path(self.mask).stem}" if self.strength else "unguided"


def restored(
    restorer: Restorer, guide: Recognizer, way: Guided, steps: int, case: Case, own: Tensor, other: Tensor
) -> Tensor:
    """A case's pictures; with the directions [D] of its person and of the next one."""
    person = {"own": own, "next": other}.get(way.target)
    mask: IdentityMask | str = way.mask if way.mask in MASKS else load_mask(way.mask)
    face = FaceGuidance(guide, person, IdentitySettings(way.strength), mask=mask)
    return restore(
        restorer, case.lq, upscale=1, steps=steps, seed=case.seed, face=face if way.strength else None
    )


def rows_of(
    restorer: Restorer, guide: Recognizer, judges: Sequence[Recognizer], ways: Sequence[Guided],
    cases: Sequence[Case], steps: int,
) -> list[dict[str, Any]]:  # fmt: skip
    """A row a way: PSNR in dB, cost, and by recogniser the mean likeness and how many pictures it rose of."""
    rows, plain, count = list[dict[str, Any]](), dict[str, Any](), len(cases)
    people = {
        judge.name: [direction_of(judge, case.references.split(1)) for case in cases]
        for judge in (guide, *judges)
    }
    known, faces = people[guide.name], [faces_of(case.hq) for case in cases]
    for way in [Guided(), *ways]:
        start = perf_counter()
        images = [
            restored(restorer, guide, way, steps, case, known[n], known[(n + 1) % count])
            for n, case in enumerate(cases)
        ]
        seconds = perf_counter() - start
        errors = torch.cat([(i - c.hq).square().mean((1, 2, 3)) for i, c in zip(images, cases, strict=True)])
        row: dict[str, Any] = {"way": way.name, "psnr": float(-10 * errors.log10().mean())}
        for judge in (guide, *judges):
            for target in ("own", "next"):
                found = torch.cat(
                    [
                        cosines(
                            embeddings(judge, image, faces[n]),
                            people[judge.name][(n + (target == "next")) % count],
                        )
                        for n, image in enumerate(images)
                    ]
                )
                before = plain.setdefault(f"{judge.name} {target}", found)
                row[f"{judge.name} {target}"] = float(found.mean())
                row[f"{judge.name} {target} rose"] = int((found > before).sum())
        row["cost"] = seconds / plain.setdefault("seconds", seconds)
        row["pictures"] = len(errors)
        rows.append(row)
        print_row(row)
    return rows


def print_row(row: Mapping[str, Any]) -> None:
    shown = (f"{k} {v:.3f}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items() if k != "way")
    sys.stdout.write(f"{row['way']:>24}  {'  '.join(shown)}\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m lab benchmark guidance", description=__doc__)
    parser.add_argument("people", type=Path)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--guide", type=Path, required=True)
    parser.add_argument("--judge", type=Path, nargs="*", default=[])
    parser.add_argument("--restorer", type=Path, default=RESTORER)
    parser.add_argument("--control", type=Path, nargs="*", default=[])
    parser.add_argument("--strengths", default="0.02,0.05,0.1")
    parser.add_argument("--masks", default="none")
    parser.add_argument("--targets", default="own")
    parser.add_argument("--sampling-steps", type=int, default=8)
    parser.add_argument("--references", type=int, default=5)
    parser.add_argument("--tests", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sheet", type=Path)
    options = parser.parse_args()
    restorer = load_restorer(options.restorer, *options.control)
    size = restorer.header.image_size
    photographs = Photographs(options.references, options.tests, size, seed=options.seed)
    cases = photographs.cases(options.people)
    guide, judges = load_recognizer(options.guide), [load_recognizer(path) for path in options.judge]
    ways = [
        Guided(float(strength), mask, target)
        for target in options.targets.split(",")
        for mask in options.masks.split(",")
        for strength in options.strengths.split(",")
    ]
    rows = rows_of(restorer, guide, judges, ways, cases, options.sampling_steps)
    about = {key: str(value) for key, value in vars(options).items() if key not in ("json", "sheet")}
    with atomic_write(options.json) as temporary:
        temporary.write_text(json.dumps({"about": about, "rows": rows}, indent=1) + "\n")
    if options.sheet:
        known = [direction_of(guide, case.references.split(1)) for case in cases]
        methods = {
            way.name: lambda case, way=way: restored(
                restorer,
                guide,
                way,
                options.sampling_steps,
                case,
                known[case.person],
                known[(case.person + 1) % len(cases)],
            )
            for way in (Guided(), *ways)
        }
        truth = {"input": lambda case: case.lq, **methods, "truth": lambda case: case.hq}
        write_sheet(options.sheet, truth, cases)


if __name__ == "__main__":
    main()
