"""train-start"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from ..checkpoints.files import check_output
from ..personalization.pfstorer.start import SUFFIX
from ..personalization.pfstorer.train_start import StartTraining, default_loop, train_start
from ..restorers.files import load_restorer
from ..training.data import Crops
from ..training.degradation import random_degradation
from ..training.loop import OnProgress
from ..training.pairs import LatentPairs, latent_pairs
from ..training.people import People
from ..training.processes import launched_processes
from ..training.progress import silent
from .app import Addons, Folder, Prediction, Variant, app, bars, kept_in, prediction_named
from .options import Checkpointing, PairCount, Shift, Untouched, data_options, gathers, loop_options
from .settings import Changes, Data

HELD = 8
"""People who are looked at and not learned from, at most: a tenth of them."""


@dataclass(frozen=True)
class StartRun:
    """What `run_start` is to do.

    Attributes:
        restorer, addons, prediction_type, variant: see `load_restorer`.
        settings: but for loop and degradation, which are those that suit the restorer, and `loop` and `data`
            say.
        pairs: so many pairs of latents are encoded before the first step, and only they are trained on; 0
            encodes new ones in every step.
    """

    restorer: Path
    addons: Sequence[Path] = ()
    prediction_type: Any = None
    variant: str | None = None
    settings: StartTraining = field(default_factory=StartTraining)
    pairs: int = 0
    data: Data = field(default_factory=Data)
    loop: Changes = field(default_factory=Changes)


def run_start(folder: Path, output: Path, run: StartRun, on_progress: OnProgress = silent) -> None:
    """Train a start for a restorer's adapters and write it to `output`.

    Raises:
        ValueError: see `People` and `StartTraining`, or there are fewer than two people.
    """
    check_output(output)
    pictures, processes, bf16 = run.data.pictures(), launched_processes(), run.loop.bf16 is not False
    people = People(pictures, range(len(pictures)))
    learned, held = split(people)
    restorer = load_restorer(
        run.restorer,
        *run.addons,
        device=processes.device,
        dtype=torch.bfloat16 if bf16 else torch.float32,
        prediction_type=run.prediction_type,
        variant=run.variant,
        text=True,
    )
    size = run.data.size or restorer.header.image_size
    degradation = random_degradation(run.data.degradation, size)
    loop = run.loop.to(default_loop(restorer.unet.config.model_channels))
    settings = replace(run.settings, loop=loop, degradation=degradation)
    crops, shown = (
        Crops(pictures, rows, size, loop.seed, None, partial(people.others, count=1), mirrored=False)
        for rows in (learned, held)
    )
    crops[0]  # so that what is wrong with all pictures is said before long work
    samples: Crops | LatentPairs = crops
    if run.pairs:
        with processes.main_first():
            pairs = latent_pairs(
                restorer.autoencoder, crops, run.pairs, degradation, settings.p_hq,
                folder / "pairs.safetensors", on_progress, restorer.cleaner,
            )  # fmt: skip
        samples = LatentPairs(
            pairs.hq, pairs.lq, pairs.captions, loop.batch, seed=loop.seed, people=pairs.people, references=1,
            pictures=pairs.pictures,
        )  # fmt: skip
    known = len({pictures.folder(index) for index in learned})
    start = train_start(restorer, samples, settings, folder, on_progress, held=shown, people=known)
    if processes.is_main:
        start.save(output)


def split(people: People) -> tuple[list[int], list[int]]:
    """Numbers of pictures to learn from and to look at: of the latter one of each person, who is learned of
    where there are fewer than ten; raises ValueError for one person alone."""
    names = list(people.of)
    if len(names) < 2:
        raise ValueError(
            f"There is one person alone ({names[0]}): a start is trained over many people, of each of whom "
            "there is a folder of photos."
        )
    count = min(HELD, len(names) // 10)
    held = names[:: len(names) // count][:count] if count else []
    learned = [index for name in names if name not in held for index in people.of[name]]
    return learned, [people.of[name][0] for name in held or names[:HELD]]


@app.command("train-start")
@gathers(data=data_options, loop=loop_options)
def _train_start(
    folder: Folder,
    output: Annotated[
        Path,
        typer.Argument(help=f"The start to write: adapters find it as NAME{SUFFIX} beside NAME.safetensors."),
    ],
    restorer: Annotated[Path, typer.Option(help="The restorer that people are to be learned on.")],
    lambda_gen: Annotated[
        float, typer.Option(help="Weight of the loss without the bad picture.")
    ] = StartTraining.lambda_gen,
    reference_timestep: Annotated[
        str, typer.Option(help="How photos are read: zero, same or noised; adapters have to read them so.")
    ] = StartTraining.reference_timestep,
    sites: Annotated[
        str, typer.Option(help="Layers of the decoder, with commas between; empty: what suits the restorer.")
    ] = "",
    p_hq: Untouched = StartTraining.p_hq,
    shift: Shift = StartTraining.shift,
    checkpointing: Checkpointing = False,
    pairs: PairCount = 0,
    addon: Addons = None,
    prediction_type: Prediction = None,
    variant: Variant = None,
    data: Any = None,
    loop: Any = None,
) -> None:
    """Train PFStorer's blocks over many people to read photos of one: adapters then begin with them. The
    pictures lie in a folder for each person; the restorer stays as it is."""
    settings = StartTraining(
        lambda_gen=lambda_gen,
        sites=tuple(site.strip() for site in sites.split(",") if site.strip()),
        reference_timestep=reference_timestep,
        p_hq=p_hq,
        shift=shift,
        checkpointing=checkpointing,
    )
    run = StartRun(
        restorer, addon or (), prediction_named(prediction_type), variant, settings, pairs, data, loop
    )
    with bars(stopped=kept_in(folder)) as show:
        run_start(folder, output, run, show)
