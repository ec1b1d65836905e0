"""The studies of CLR-Face, on bad pictures of aligned faces: what the prior, its start, its steps, guidance
with and without a mask, and references are worth.

`python -m lab benchmark prior PEOPLE --json FILE [--restorer FILE] [--rows "prior,start:*,…"]
[--presets heavy,light] [--tests 2] [--drawn 3] [--drawn-tests 1] [--masks none,landmarks,FILE]
[--recognizers FILE,FILE] [--others FILE:2,FILE+ADDON:2] [--steps 25] [--guided-steps 8] [--strength 0.01]
[--seed 0] [--sheet FILE.png] [--sheet-rows …]`

PEOPLE has a folder of photos for each person, as `benchmark photographs` takes it; `none` for drawn people
alone. Each recogniser guides in its rows and judges all rows: what guides never judges. Columns: PSNR, SSIM,
LPIPS where its weights are there; a recogniser's cosines to the `true` picture and to the `person`'s other
photos, and in how many pictures of a hundred that person is the nearest of everybody here and of strangers
(`right`); how far eyes, nose and mouth lie from where they were, in percent of the distance of the eyes, and
in how many pictures they are `found`; seconds. Means with 95 % intervals over pictures, and differences from
the row that each is compared with, picture by picture. An interrupted run goes on.
"""

from __future__ import annotations

import argparse
import json
import math
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from pfstorer_core.checkpoints.files import atomic_write
from pfstorer_core.diffusion.identity_guidance import IdentitySettings
from pfstorer_core.recognition import load_recognizer
from pfstorer_core.recognition.likeness import strangers
from pfstorer_core.restorers.base import Restorer
from pfstorer_core.restorers.clr_face.mask import MASKS, load_mask
from pfstorer_core.restorers.files import load_restorer

from .. import ASSETS
from ..evaluation.cases import Case, drawing
from ..evaluation.commands import named
from ..evaluation.figures import write_sheet
from ..evaluation.gallery import SEEN, Gallery, faces_of, landmark_distances, without
from ..evaluation.metrics import Metric, picture_metrics
from ..evaluation.scoreboard import Result, Scoreboard, read_results
from .photographs import Photographs
from .prior_people import People, Picture, drawn, drawn_faces, photographed
from .prior_rows import Row, Studied, matching, with_compared

PRIOR = ASSETS / "pfstorer_tiny_clr_face.safetensors"
RECOGNIZERS = ",".join(
    str(ASSETS / "face_recognizers" / f"{name}.safetensors") for name in ("dlib_resnet29", "pfstorer_iresnet")
)
TINY, CONTROL = (ASSETS / f"{name}.safetensors" for name in ("pfstorer_tiny", "pfstorer_tiny_diffbir"))
SHEET_ROWS = "input,irn,round_trip,prior,start:*,1 step,*photos none,references,pfstorer_tiny*"
DIGITS = {"psnr": 2, "landmarks": 1, "found": 0, "right": 0, "seconds": 1}
"""Decimals of a column, by its last word; 3 of others."""


def measured(
    images: Tensor, case: Case, metrics: Mapping[str, Metric], galleries: Iterable[Gallery]
) -> Result:
    """The columns of a restored picture [1, 3, S, S] in [0, 1]; None for what cannot be said."""
    faces = faces_of(case.hq)
    values = {name: metric(images, case.hq) for name, metric in metrics.items()}
    for gallery in galleries:
        values |= gallery.measured(images, case.hq, faces, case.person)
    values["landmarks"] = landmark_distances(images, faces)
    values["found"] = 100.0 * values["landmarks"].isfinite()
    numbers = {name: float(value) for name, value in values.items()}
    return {name: None if math.isnan(number) else number for name, number in numbers.items()}


def run(
    rows: Mapping[str, Row],
    pictures: Iterable[Picture],
    measure: Callable[[Tensor, Case], Result],
    results: Sequence[Result],
) -> Iterator[Result]:
    """What is not among the results yet, one after the other."""
    done = {(result["preset"], result["person"], result["method"]) for result in results}
    for picture in pictures:
        for name, row in rows.items():
            if (picture.group, picture.name, name) not in done:
                start = time.perf_counter()
                images = row.method(picture.case).float().cpu().clamp(0, 1)
                seconds = time.perf_counter() - start
                place = {"method": name, "preset": picture.group, "person": picture.name}
                yield {**place, **measure(images, picture.case), "seconds": seconds}


def table(found: Sequence[Mapping[str, Any]], metrics: Sequence[str], rows: Mapping[str, Row]) -> list[str]:
    """Lines of Markdown: means, and half of their 95 % intervals. What a recogniser that guided says of it
    stands in brackets."""
    lines = ["| | " + " | ".join(metrics) + " |", "|---" * (len(metrics) + 1) + "|"]
    for one in found:
        cells = [one["method"]]
        for metric in metrics:
            value, bounds, digits = one[metric], one[f"{metric}_ci"], DIGITS.get(metric.split()[-1], 3)
            half = f" ± {(bounds[1] - bounds[0]) / 2:.{digits}f}" if bounds else ""
            cell = "–" if value is None else f"{value:.{digits}f}{half}"
            guide = rows[one["method"]].guide
            cells.append(f"({cell})" if guide and metric.startswith(guide) else cell)
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def compared(board: Scoreboard, rows: Mapping[str, Row]) -> list[dict[str, Any]]:
    """The board's gains of each row over that which it is compared with, which is named `over`."""
    over = {name: row.over for name, row in rows.items()}
    return [{**gain, "over": over[gain["method"]]} for gain in board.gains(over)]


def report(board: Scoreboard, rows: Mapping[str, Row]) -> str:
    """Tables of each group of pictures: of the rows, and of their differences."""
    lines = [f"{name} {why}" for name, why in board.needs.items()]
    gains = compared(board, rows)
    for group in dict.fromkeys(row["preset"] for row in board.rows):
        for title, found in (("", board.rows), (", differences", gains)):
            own = [row for row in found if row["preset"] == group and row["method"] in rows]
            if own:
                lines += ["", f"{group}{title} ({own[0]['people']} pictures)", ""]
                lines += table(own, board.metrics, rows)
    return "\n".join(lines) + "\n"


def write(
    board: Scoreboard, rows: Mapping[str, Row], gallery: int, commands: Sequence[str], path: Path
) -> None:
    """As JSON, with how many people are in the gallery, and the commands that added to it."""
    found = {
        "commands": commands, "about": board.about, "needs": board.needs, "gallery": gallery,
        "rows": board.rows, "differences": compared(board, rows), "results": board.results,
    }  # fmt: skip
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(found, indent=1, allow_nan=False) + "\n")


def other(text: str) -> tuple[str, list[Path], int]:
    """A restorer to compare with, FILE+ADDON:STEPS, by the name of its last file; its files and steps."""
    files, _, steps = text.rpartition(":")
    paths = [Path(file) for file in files.split("+")]
    return paths[-1].stem, paths, int(steps)


def studied(options: argparse.Namespace, prior: Restorer, people: Sequence[People]) -> Studied:
    """What the rows are made of."""
    photos = {who: own for each in people for who, own in each.references.items()}
    recognizers = [load_recognizer(path) for path in options.recognizers]
    unknown = [*without(recognizers[0], strangers(), [*photos.values()]).split(1)]
    numbers = range(options.drawn, options.drawn + options.strangers)
    unknown += [drawn_faces(n, 1, prior.header.image_size, options.seed) for n in numbers]
    others = [other(text) for text in options.others]
    return Studied(
        prior,
        {name: (load_restorer(*files), steps) for name, files, steps in others},
        {one.name: Gallery.of(one, photos, unknown) for one in recognizers},
        {
            Path(mask).stem.removeprefix(f"{options.restorer.stem}_"): mask
            if mask in MASKS
            else load_mask(mask)
            for mask in options.masks
        },
        photos,
        {who: beside for each in people for who, beside in each.next.items()},
        options.steps,
        options.guided_steps,
        IdentitySettings(options.strength),
    )


def conditions(options: argparse.Namespace, people: Sequence[People]) -> dict[str, Any]:
    """What results depend on, beside row and picture."""
    files = [options.restorer, *options.recognizers, *(mask for mask in options.masks if mask not in MASKS)]
    files += [path for text in options.others for path in other(text)[1]]
    numbers = ("steps", "guided_steps", "strength", "strangers", "references", "seed")
    return {
        "files": sorted({named(Path(path)) for path in files}),
        "people": [name for each in people for name in each.faces],
        "drawing": drawing(),
        **{name: getattr(options, name) for name in numbers},
    }


def parsed() -> argparse.Namespace:
    def several(text: str) -> list[str]:
        return [part for part in text.split(",") if part]

    parser = argparse.ArgumentParser(prog="python -m lab benchmark prior", description=__doc__)
    parser.add_argument("people", type=Path)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--restorer", type=Path, default=PRIOR)
    parser.add_argument("--rows", type=several, default="*")
    parser.add_argument("--presets", type=several, default="heavy,light")
    parser.add_argument("--tests", type=int, default=2)
    parser.add_argument("--drawn", type=int, default=3)
    parser.add_argument("--drawn-tests", type=int, default=1)
    parser.add_argument("--references", type=int, default=5)
    parser.add_argument("--strangers", type=int, default=10, help="drawn, for `right`")
    learned = [str(path) for path in sorted((ASSETS / "identity_masks").glob("*.safetensors"))]
    parser.add_argument("--masks", type=several, default=",".join([*MASKS, *learned]))
    parser.add_argument("--recognizers", type=several, default=RECOGNIZERS)
    parser.add_argument("--others", type=several, default=f"{TINY}:2,{TINY}+{CONTROL}:2")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--guided-steps", type=int, default=8)
    parser.add_argument("--strength", type=float, default=IdentitySettings().strength)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sheet", type=Path)
    parser.add_argument("--sheet-rows", type=several, default=SHEET_ROWS)
    return parser.parse_args()


def main() -> None:
    options = parsed()
    prior = load_restorer(options.restorer)
    if prior.header.architecture != "clr_face":
        kind = prior.header.architecture
        raise SystemExit(f"{options.restorer.name} is a {kind} restorer: name a prior of CLR-Face.")
    photographs = Photographs(options.references, options.tests, prior.header.image_size, seed=options.seed)
    people = [] if options.people == Path("none") else [photographed(options.people, photographs)]
    if options.drawn:
        people.append(drawn(options.drawn, photographs, options.drawn_tests))
    study = studied(options, prior, people)
    known = study.rows()
    rows = with_compared(known, matching(known, options.rows))
    shown = matching(known, options.sheet_rows) if options.sheet else {}
    metrics, needs = picture_metrics()
    galleries = study.galleries
    columns = [*metrics, *(f"{one} {what}" for one in galleries for what in SEEN)]
    made = conditions(options, people)
    results = read_results(options.json, made)
    commands = json.loads(options.json.read_text())["commands"] if results else []
    commands.append(shlex.join(["python", "-m", "lab", "benchmark", "prior", *sys.argv[1:]]))
    gallery = len(next(iter(galleries.values())))
    board = Scoreboard(made, results, needs, {}, [*columns, "landmarks", "found", "seconds"])
    pictures = [one for each in people for preset in options.presets for one in each.pictures(preset)]
    measure = partial(measured, metrics=metrics, galleries=galleries.values())
    for result in run(rows, pictures, measure, results):
        results.append(result)
        if result["method"] == [*rows][-1]:
            write(board, known, gallery, commands, options.json)
    write(board, known, gallery, commands, options.json)
    sys.stdout.write(report(board, known))
    if options.sheet:
        methods = {name: row.method for name, row in shown.items()}
        cases = [case for each in people for case in each.cases(options.presets[0]).values()]
        write_sheet(options.sheet, methods, cases)


if __name__ == "__main__":
    main()
