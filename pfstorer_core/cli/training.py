"""train-base, train-cfw"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from .app import Addons, Folder, app, bars, kept_in
from .options import (
    Dtype,
    Mix,
    Muon,
    Network,
    Untouched,
    data_options,
    gathers,
    loop_options,
    run_options,
)
from .runs import BaseRun, run_base, run_cfw

Result = Annotated[Path, typer.Argument(help="The restorer to write (.safetensors).")]


def ending(run: BaseRun, output: Path) -> str:
    """How a training comes to its result once it was stopped."""
    if not run.endless:
        return f", and writes {output.name} at the end"
    return f", and --finish 1500 in place of --endless ends it in so many steps and writes {output.name}"


@app.command("train-base")
@gathers(data=data_options, run=run_options, loop=loop_options)
def _train_base(
    folder: Folder,
    output: Result,
    source: Annotated[
        Path | None,
        typer.Option(
            "--from",
            help="A restorer or an SD 2.1 checkpoint to start from. Without: a tiny restorer, from nothing, "
            "on the autoencoder that train-autoencoder left in FOLDER.",
        ),
    ] = None,
    addon: Addons = None,
    train: Annotated[
        str,
        typer.Option(
            help="sft: SFT and LQ encoder on a frozen U-Net (StableSR). unet: the U-Net without them. "
            "all: both. Default: sft with --from, else all."
        ),
    ] = "",
    null_lq: Annotated[
        float | None, typer.Option(help="Share of samples without SFT, for --train all.")
    ] = None,
    data: Any = None,
    p_hq: Untouched = 0.03,
    renew: Annotated[
        list[str] | None,
        typer.Option(help="Part of the U-Net to draw anew, such as output_blocks.3 or attn2. Repeatable."),
    ] = None,
    network: Network = "tiny",
    mix: Mix = 0.0,
    muon: Muon = None,
    run: Any = None,
    loop: Any = None,
) -> None:
    """Train a base restorer; by `accelerate launch ... -m pfstorer_core train-base ...` on many GPUs."""
    made = BaseRun(
        source,
        addon or (),
        train,
        null_lq=null_lq,
        p_hq=p_hq,
        renew=renew or (),
        network=network,
        data=replace(data, mix=mix),
        loop=replace(loop, muon=muon),
        **run,
    )
    with bars(stopped=kept_in(folder, ending(made, output))) as show:
        run_base(folder, output, made, show)


@app.command("train-cfw")
@gathers(data=data_options, loop=loop_options)
def _train_cfw(
    folder: Folder,
    output: Result,
    source: Annotated[Path, typer.Option("--from", help="The restorer whose autoencoder is to get CFW.")],
    data: Any = None,
    pictures: Annotated[int, typer.Option(help="Pictures that are restored first, to train on.")] = 500,
    sampling_steps: Annotated[int, typer.Option(help="Steps of restoring them (StableSR: 200).")] = 20,
    p_hq: Annotated[float, typer.Option(help="Share of pictures whose LQ picture is HQ as it is.")] = 0.03,
    lpips: Annotated[
        bool,
        typer.Option("--lpips", help="Add LPIPS, as StableSR; needs the library lpips, which downloads."),
    ] = False,
    loop: Any = None,
    dtype: Dtype = "fp16",
) -> None:
    """Train CFW, which `--fidelity` needs: L1 of the pictures and their gradients, and LPIPS if asked for."""
    with bars(stopped=kept_in(folder)) as show:
        run_cfw(
            folder,
            output,
            source,
            data,
            loop,
            pictures=pictures,
            sampling_steps=sampling_steps,
            p_hq=p_hq,
            dtype=dtype,
            lpips=lpips,
            on_progress=show,
        )
