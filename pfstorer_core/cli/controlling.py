"""train-control"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from ..restorers.convert import DTYPES, check_output
from ..restorers.diffbir.cleaner import load_cleaner
from ..restorers.diffbir.start import open_control_start
from ..restorers.diffbir.train_control import control_training
from ..training.loop import OnProgress
from ..training.processes import launched_processes
from ..training.progress import silent
from .app import Addons, Folder, Prediction, Variant, app, bars, kept_in, prediction_named
from .runs import BaseRun, Changes, Data, run_stage
from .training import (
    Accumulate,
    BatchSize,
    Bf16,
    Captionless,
    Checkpointing,
    Compiled,
    Crop,
    DataPaths,
    DegradationName,
    Dtype,
    Endless,
    Finish,
    Group,
    Mix,
    Muon,
    PairCount,
    Rate,
    SaveEvery,
    Seed,
    Shift,
    Size,
    Steps,
    Untouched,
    ValidateEvery,
    Workers,
    ending,
)


@dataclass(frozen=True)
class ControlRun(BaseRun):
    """What `run_control` is to do.

    Attributes:
        cleaner: a file, see `load_cleaner`; None for the restorer's own.
        variant, sampling_start, aligned: see `open_control_start`.
        alone: write the control network and its cleaner alone, which go on top of the restorer.
    """

    cleaner: Path | None = None
    variant: str | None = None
    sampling_start: str | None = None
    aligned: str | None = None
    alone: bool = False


def run_control(folder: Path, output: Path, run: ControlRun, on_progress: OnProgress = silent) -> None:
    """Train a control network on a restorer and write it to `output`, after as many steps as it takes since
    the last call."""
    check_output(output, run.dtype)
    assert run.source is not None
    pictures = run.data.pictures()
    settings = control_training(run.empty_prompt, run.p_hq, run.shift, run.checkpointing)
    start = open_control_start(
        run.source,
        run.addons,
        cleaner=load_cleaner(run.cleaner, launched_processes().device) if run.cleaner else None,
        captions=settings.no_prompt < 1,
        prediction_type=run.prediction_type,
        variant=run.variant,
        frozen_dtype=run.frozen_dtype,
        sampling_start=run.sampling_start,
        aligned=run.aligned,
    )
    crops = run.data.crops(pictures, run.loop.seed or 0, start.restorer.header.image_size)
    header = run_stage(folder, run, start, settings, crops, on_progress)
    if launched_processes().is_main:
        write = start.write_control if run.alone else start.write
        write(output, header, DTYPES[run.dtype])


@app.command("train-control")
def _train_control(
    folder: Folder,
    output: Annotated[
        Path, typer.Argument(help="The DiffBIR restorer, or the control network, to write (.safetensors).")
    ],
    source: Annotated[
        Path,
        typer.Option(
            "--from",
            help="A restorer or an SD 2.1 checkpoint to train it on. A DiffBIR restorer's own control "
            "network goes on; others get a new one, a copy of the U-Net's encoder.",
        ),
    ],
    cleaner: Annotated[
        Path | None,
        typer.Option(
            help="What cleans the bad pictures first, such as train-cleaner makes. Default: the restorer's."
        ),
    ] = None,
    alone: Annotated[
        bool,
        typer.Option(
            "--alone",
            help="Write the control network and its cleaner alone, for --addon or restorer_weights on top of "
            "--from.",
        ),
    ] = False,
    start: Annotated[
        str | None, typer.Option(help="What sampling is to start from: noise (DiffBIR, default) or lq.")
    ] = None,
    aligned: Annotated[
        str | None, typer.Option(help="FFHQ where the pictures are faces that are aligned so.")
    ] = None,
    addon: Addons = None,
    prediction_type: Prediction = None,
    variant: Variant = None,
    empty_prompt: Captionless = None,
    data: DataPaths = None,
    size: Size = 0,
    degradation: DegradationName = "",
    p_hq: Untouched = 0.0,
    shift: Shift = 1.0,
    pairs: PairCount = 0,
    crop: Crop = 0,
    checkpointing: Checkpointing = False,
    mix: Mix = 0.0,
    endless: Endless = False,
    finish: Finish = 0,
    muon: Muon = None,
    group: Group = None,
    compiled: Compiled = None,
    steps: Steps = None,
    lr: Rate = None,
    batch: BatchSize = None,
    accumulate: Accumulate = None,
    seed: Seed = 0,
    save_every: SaveEvery = None,
    validate_every: ValidateEvery = None,
    workers: Workers = None,
    bf16: Bf16 = True,
    dtype: Dtype = "fp16",
) -> None:
    """Train a control network on a restorer that stays as it is: DiffBIR's second stage."""
    run = ControlRun(
        source,
        addon or (),
        prediction_type=prediction_named(prediction_type),
        empty_prompt=empty_prompt,
        p_hq=p_hq,
        shift=shift,
        pairs=pairs,
        crop=crop,
        checkpointing=checkpointing,
        dtype=dtype,
        endless=endless,
        finish=finish,
        group=group,
        compiled=compiled,
        data=Data(data or (), size, degradation, mix),
        loop=Changes(steps, lr, batch, accumulate, seed, bf16, save_every, validate_every, workers, muon),
        cleaner=cleaner,
        variant=variant,
        sampling_start=start,
        aligned=aligned,
        alone=alone,
    )
    with bars(stopped=kept_in(folder, ending(run, output))) as show:
        run_control(folder, output, run, show)
