"""train-control"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from ..restorers.convert import DTYPES, check_output
from ..restorers.diffbir.cleaner import load_cleaner
from ..restorers.diffbir.start import open_control_start
from ..restorers.diffbir.train_control import control_training
from ..training.loop import OnProgress
from ..training.processes import launched_processes
from ..training.progress import silent
from .app import Addons, Folder, Variant, app, bars, kept_in
from .options import Mix, Muon, Untouched, data_options, gathers, loop_options, run_options
from .runs import BaseRun, run_stage
from .training import ending


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
@gathers(data=data_options, run=run_options, loop=loop_options)
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
    variant: Variant = None,
    data: Any = None,
    p_hq: Untouched = 0.0,
    mix: Mix = 0.0,
    muon: Muon = None,
    run: Any = None,
    loop: Any = None,
) -> None:
    """Train a control network on a restorer that stays as it is: DiffBIR's second stage."""
    made = ControlRun(
        source,
        addon or (),
        p_hq=p_hq,
        data=replace(data, mix=mix),
        loop=replace(loop, muon=muon),
        cleaner=cleaner,
        variant=variant,
        sampling_start=start,
        aligned=aligned,
        alone=alone,
        **run,
    )
    with bars(stopped=kept_in(folder, ending(made, output))) as show:
        run_control(folder, output, made, show)
