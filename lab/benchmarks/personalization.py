"""What personalization brings: every way to learn a person, on drawn people that no network has seen.

`python -m lab benchmark personalization --json FILE [--people 6] [--photos 6] [--methods base,pfstorer,…]
[--preset heavy light] [--seed 0] [--gamma 1] [--steps 500] [--draws 4] [--sheet FILE.png] [--plot FILE.png]
[--control FILE] [--pivot-steps 3300]`

Each person is learned from `--references` clean photos and restored on further, damaged ones. What was
learned is kept in a folder beside FILE, person by person, so that a run that was stopped goes on. The LoRA is
of all layers as in ComfyUI's own training, of as many parameters and the same rate, without L_Gen. A method
may carry its strength (`pfstorer@0.5`); `other:pfstorer` is the next person's adapter on this one's picture.
`--control` puts a control network on the restorer: `diffbir` is what it makes without a person, `text_pivot`,
`model_pivot` and `dual_pivot` are Dual-Pivot Tuning's pivots, alone and both.
`--plot` draws the differences from the base, `--frontier FILE.png` identity against PSNR over the strengths.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from pfstorer_core.checkpoints.files import atomic_write
from pfstorer_core.personalization.dual_pivot.settings import DualPivotTraining
from pfstorer_core.personalization.pfstorer.settings import AdapterTraining
from pfstorer_core.restorers.files import load_restorer

from ..evaluation import CaseSettings, EvaluationSettings, draw_case, evaluate, load_judges
from ..evaluation.align import align
from ..evaluation.cases import Case
from ..evaluation.commands import JUDGES, RESTORER
from ..evaluation.figures import tables, write_plot, write_sheet
from ..evaluation.judges import Judges
from ..evaluation.methods import Method
from .frontier import UNLEARNED, write_frontier
from .learned import Learned, method_named


def watched(learned: Learned, judges: Judges, name: str, method: Method) -> Method:
    """The same, and a note of how much its pictures look like the next person, whose adapter `other:` is."""

    def restored(case: Case) -> Tensor:
        images = method(case)
        owner = learned.neighbour(case)
        embed = judges.embedder
        found, true = (
            embed(align(pictures, one.five, embed.zoom))
            for pictures, one in ((images, case), (owner.hq, owner))
        )
        note = learned.owner_note(name, case.preset, case.person)
        note.parent.mkdir(exist_ok=True)
        note.write_text(f"{100 * float((found @ true.T).mean()):.3f}")
        return images

    return restored


MAIN_ROWS = "input,autoencoder,base,token,lora,vico,pfstorer_no_gen,pfstorer,pfstorer_same,wrong_refs,no_refs"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m lab benchmark personalization", description=__doc__)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--people", type=int, default=6)
    parser.add_argument("--photos", type=int, default=6)
    parser.add_argument("--draws", type=int, default=1, help="times that each photo is restored")
    parser.add_argument("--references", type=int, default=5)
    parser.add_argument("--methods", default=MAIN_ROWS)
    parser.add_argument("--preset", nargs="+", default=["heavy", "light"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--gamma", type=float, default=1.0)
    parser.add_argument("--steps", type=int, default=AdapterTraining().steps)
    parser.add_argument("--sampling-steps", type=int, default=20)
    parser.add_argument("--restorer", type=Path, default=RESTORER)
    parser.add_argument("--control", type=Path, help="a control network for --restorer, with its cleaner")
    parser.add_argument("--pivot-steps", type=int, default=DualPivotTraining().steps, help="of both pivots")
    parser.add_argument("--class-pictures", type=int, default=DualPivotTraining().class_pictures)
    parser.add_argument("--judges", type=Path, default=JUDGES)
    parser.add_argument("--sheet", type=Path)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--frontier", type=Path)
    for name in ("lr", "gamma_lr", "lambda_gen"):
        parser.add_argument(f"--{name.replace('_', '-')}", type=float)
    options = parser.parse_args()
    names = options.methods.split(",")
    if options.plot or options.frontier:
        if "base" not in names:
            parser.error("--plot and --frontier compare with the base: add base to --methods")
        if set(names) <= set(UNLEARNED):
            parser.error("--plot and --frontier show what was learned: add pfstorer, say, to --methods")
    changes = {
        n: getattr(options, n) for n in ("lr", "gamma_lr", "lambda_gen") if getattr(options, n) is not None
    }
    settings = AdapterTraining(steps=options.steps, seed=options.seed, preview_every=0, **changes)
    restorer, judges = load_restorer(options.restorer, text=True), load_judges(options.judges)
    size = restorer.header.image_size
    once = CaseSettings(options.photos, options.references, size=size, seed=options.seed)
    cases = replace(once, draws=options.draws)
    diffbir = load_restorer(options.restorer, options.control, text=True) if options.control else None
    pivots = DualPivotTraining(
        steps=options.pivot_steps, class_pictures=options.class_pictures, seed=options.seed, preview_every=0
    )
    what = f"{restorer.fingerprint} {settings} {once}"
    if diffbir:
        what += f" {diffbir.fingerprint} {pivots}"
    folder = options.json.with_suffix("") / hashlib.sha256(what.encode()).hexdigest()[:12]
    folder.mkdir(parents=True, exist_ok=True)
    learned = Learned(restorer, cases, settings, folder, options.sampling_steps, diffbir, pivots)
    methods: dict[str, Method] = {}
    noted: dict[str, Method] = {}
    for name in names:
        try:
            methods[name] = method_named(learned, name, options.gamma)
        except ValueError as error:
            parser.error(str(error))
        note_owner = name == "base" or name.startswith("other:")
        noted[name] = watched(learned, judges, name, methods[name]) if note_owner else methods[name]
    about = (
        f"{restorer.fingerprint}, gamma {options.gamma:g}, {options.sampling_steps} sampling steps, "
        f"judges {hashlib.sha256(options.judges.read_bytes()).hexdigest()[:12]}, {settings}"
    )
    if diffbir:
        about += f", {diffbir.fingerprint}, {pivots}"
    board = evaluate(
        noted,
        judges,
        EvaluationSettings(options.people, tuple(options.preset), cases),
        path=options.json,
        made_with=about,
        on_progress=lambda p: print_line(f"{p.step} of {p.steps}"),
    )
    add_costs(options.json, learned)
    for preset, head, rows in tables(board.rows):
        print_table(preset, [head, *rows])
    gains = board.gains()
    for preset, head, rows in tables(gains):
        print_table(f"{preset}, differences from the base on the same person", [head, *rows])
    if options.sheet:
        write_sheet(
            options.sheet, methods, [draw_case(cases, n, options.preset[0]) for n in range(options.people)]
        )
    if options.plot:
        shown = [row for row in gains if row["method"] not in UNLEARNED]
        write_plot(options.plot, shown, "differences from the base, means and 95 % intervals")
    if options.frontier:
        write_frontier(options.frontier, board.rows, options.gamma)


def add_costs(path: Path, learned: Learned) -> None:
    """Means over people: `seconds_train` and `megabytes` of the rows that learned something, and `id_owner`,
    likeness to the next person, of `base` and `other:`."""
    found = json.loads(path.read_text())
    for row in found["rows"]:
        kind = row["method"].partition("@")[0]
        files = sorted(learned.folder.glob(f"{kind}-[0-9]*.safetensors"))
        pattern = learned.owner_note(row["method"], row["preset"], "*")
        notes = pattern.parent.glob(pattern.name)
        likeness = [float(note.read_text()) for note in notes]
        row["id_owner"] = sum(likeness) / len(likeness) if likeness else None
        seconds = [float(f.with_suffix(".seconds").read_text()) for f in files]
        row["seconds_train"] = sum(seconds) / len(seconds) if seconds else None
        row["megabytes"] = sum(f.stat().st_size for f in files) / len(files) / 1e6 if files else None
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(found, indent=1) + "\n")


def print_table(title: str, rows: list[list[str]]) -> None:
    print_line(f"\n{title}\n" + "\n".join("  ".join(f"{cell:>16}" for cell in row) for row in rows))


def print_line(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
