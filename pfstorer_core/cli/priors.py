"""train-prior"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from ..models import SwinIR
from ..restorers.clr_face.start import new_prior, open_prior_start
from ..restorers.clr_face.train import PRIORS, prior_training
from ..restorers.clr_face.variants import REFLDM
from ..restorers.convert import DTYPES, check_output
from ..restorers.diffbir.cleaner import Cleaner, load_cleaner
from ..restorers.first_stage.train import load_autoencoder
from ..restorers.stablesr.train import BaseTraining
from ..restorers.trainable import TrainableRestorer
from ..training.data import Crops
from ..training.loop import OnProgress
from ..training.processes import launched_processes
from ..training.progress import silent
from .app import Addons, Folder, Variant, app, bars, kept_in
from .options import Mix, Muon, Untouched, data_options, gathers, loop_options, run_options
from .runs import BaseRun, run_stage
from .training import ending


@dataclass(frozen=True)
class PriorRun(BaseRun):
    """What `run_prior` is to do.

    Attributes:
        first_stage: where there is no source, see `load_autoencoder`; None for the run's own folder.
        network: of `PRIORS`.
        cleaner: a SwinIR's file, which the restorer gets; None for the source's own.
        variant: see `open_restorer`.
        sampling_start, start_at, aligned: of the header; None for as they are.
        references, no_reference: see `BaseTraining`.
    """

    network: str = "tiny"
    first_stage: Path | None = None
    cleaner: Path | None = None
    variant: str | None = None
    sampling_start: str | None = None
    start_at: float | None = None
    aligned: str | None = None
    references: int = 0
    no_reference: float = BaseTraining.no_reference


def run_prior(folder: Path, output: Path, run: PriorRun, on_progress: OnProgress = silent) -> None:
    """Train a conditional prior and write it to `output`, after as many steps as it takes since the last
    call.

    Raises:
        ValueError: an unknown network, a cleaner that is no SwinIR, or a header that cannot be.
    """
    check_output(output, run.dtype)
    if run.network not in PRIORS:
        raise ValueError(f"No network named {run.network!r}; choose one of {', '.join(PRIORS)}.")
    pictures, cleaner = run.data.pictures(), load_cleaner(run.cleaner) if run.cleaner else None
    if cleaner is not None and not isinstance(cleaner.network, SwinIR):
        raise ValueError("A restorer's file holds a SwinIR as its cleaner; give others where it is used.")
    start, own, crops = _start(folder, run, pictures)
    start_at = 1.0 if run.sampling_start == "noise" and run.start_at is None else run.start_at
    given = {"start": run.sampling_start, "start_at": start_at, "aligned": run.aligned}
    header = replace(start.restorer.header, **{k: value for k, value in given.items() if value is not None})
    if run.references and header.variant == REFLDM:  # here photos are encoded one by one
        header = replace(header, variant=f"from_{header.variant}")
    start = replace(start, restorer=replace(start.restorer, header=header))
    settings = prior_training(start.restorer.unet.config, run.null_lq, run.p_hq, run.shift, run.checkpointing)
    settings = replace(settings, references=run.references, no_reference=run.no_reference)
    header = run_stage(folder, run, start, settings, crops, on_progress)
    if launched_processes().is_main:
        whole = replace(start, restorer=replace(start.restorer, cleaner=cleaner or own))
        whole.write(output, header, DTYPES[run.dtype])


def _start(
    folder: Path, run: PriorRun, pictures: Any
) -> tuple[TrainableRestorer, Cleaner | None, tuple[Crops, Crops]]:
    """What is trained, the cleaner that came with it, and the crops to train on and to look at."""
    seed = run.loop.seed or 0
    if run.source:
        start, own = open_prior_start(
            run.source, run.addons, prediction_type=run.prediction_type, variant=run.variant
        )
        size = start.restorer.header.image_size
        return start, own, run.data.crops(pictures, seed, size, run.references)
    autoencoder = load_autoencoder(run.first_stage or folder)
    crops = run.data.crops(pictures, seed, 256, run.references)
    kind, config = run.prediction_type or "eps", PRIORS[run.network]
    return new_prior(autoencoder, crops[0], config, prediction_type=kind, seed=seed), None, crops


@app.command("train-prior")
@gathers(data=data_options, run=run_options, loop=loop_options)
def _train_prior(
    folder: Folder,
    output: Annotated[Path, typer.Argument(help="The restorer to write (.safetensors).")],
    source: Annotated[
        Path | None,
        typer.Option(
            "--from",
            help="A latent diffusion model without a text to begin with: a prior, ReF-LDM's, or FFHQ's, "
            "which gets channels for the condition. Default: nothing but a first stage.",
        ),
    ] = None,
    first_stage: Annotated[
        Path | None,
        typer.Option(
            help="The autoencoder to make it on, without --from: a file, or a folder of train-autoencoder. "
            "Default: FOLDER's."
        ),
    ] = None,
    network: Annotated[
        str, typer.Option(help="What is made from nothing: tiny, ref_ldm or ffhq256.")
    ] = "tiny",
    cleaner: Annotated[
        Path | None,
        typer.Option(
            help="What sampling starts from cleans the bad pictures, such as train-cleaner makes. It is not "
            "trained with, but becomes a part of the restorer."
        ),
    ] = None,
    null_lq: Annotated[
        float | None,
        typer.Option(help="Share of samples without a condition, for cfg; default 0.1, as ReF-LDM."),
    ] = None,
    start: Annotated[
        str | None, typer.Option(help="What sampling is to start from: cleaned (default), lq or noise.")
    ] = None,
    start_at: Annotated[
        float | None, typer.Option(help="How noisy that start is, a share of the schedule; default 0.5.")
    ] = None,
    aligned: Annotated[
        str | None, typer.Option(help="FFHQ (default) where the pictures are faces that are aligned so.")
    ] = None,
    references: Annotated[
        int,
        typer.Option(
            help="So many other photos of the same person does it learn to look at, as ReferenceAttention "
            "shows them: pictures lie in a folder for each person. ReF-LDM: 5.",
            min=0,
        ),
    ] = 0,
    no_reference: Annotated[
        float, typer.Option(help="Share of samples without these photos.")
    ] = BaseTraining.no_reference,
    addon: Addons = None,
    variant: Variant = None,
    data: Any = None,
    p_hq: Untouched = 0.0,
    mix: Mix = 0.0,
    muon: Muon = None,
    run: Any = None,
    loop: Any = None,
) -> None:
    """Train a conditional prior among the latents of a frozen first stage: CLR-Face's refinement."""
    made = PriorRun(
        source,
        addon or (),
        null_lq=null_lq,
        p_hq=p_hq,
        data=replace(data, mix=mix),
        loop=replace(loop, muon=muon),
        network=network,
        first_stage=first_stage,
        cleaner=cleaner,
        variant=variant,
        sampling_start=start,
        start_at=start_at,
        aligned=aligned,
        references=references,
        no_reference=no_reference,
        **run,
    )
    with bars(stopped=kept_in(folder, ending(made, output))) as show:
        run_prior(folder, output, made, show)
