"""train-autoencoder, train-base, train-cfw"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .app import Addons, Folder, Prediction, app, bars, kept_in, prediction_named
from .runs import BaseRun, Changes, Data, run_autoencoder, run_base, run_cfw

Result = Annotated[Path, typer.Argument(help="The restorer to write (.safetensors).")]
DataPaths = Annotated[
    list[Path] | None,
    typer.Option(
        "--data",
        help="Folder of pictures, or WebDataset shard (.tar); name.txt beside name.jpg is its caption. "
        "Repeatable. `python -m lab draw-people FOLDER` draws some to try with.",
    ),
]
Size = Annotated[int, typer.Option(help="Side of the random crops in pixels; 0: that of the restorer.")]
DegradationName = Annotated[
    str, typer.Option(help="What makes LQ pictures: a preset's name. Default: by the size.")
]
Captionless = Annotated[float | None, typer.Option(help="Share of samples without their caption.")]
Untouched = Annotated[float, typer.Option(help="Share of samples whose LQ picture is HQ as it is.")]
Shift = Annotated[
    float, typer.Option(help="Above 1: time steps nearer to pure noise, for sampling in few steps.")
]
PairCount = Annotated[
    int,
    typer.Option(help="Encode so many pairs of latents first, and train on them alone: for CPUs. 0: none."),
]
Crop = Annotated[int, typer.Option(help="Side of random crops of those latents; 0: whole ones.")]
Checkpointing = Annotated[
    bool, typer.Option("--checkpointing", help="Recompute activations: less memory, a third more time.")
]
Steps = Annotated[int | None, typer.Option(help="Steps in all.")]
Rate = Annotated[float | None, typer.Option(help="Learning rate of AdamW.")]
BatchSize = Annotated[int | None, typer.Option(help="Samples a step, over all processes.")]
Accumulate = Annotated[int | None, typer.Option(help="Parts of a batch that run one after the other.")]
Seed = Annotated[int, typer.Option(help="Same seed, same training.")]
SaveEvery = Annotated[int | None, typer.Option(help="Steps between checkpoints.")]
ValidateEvery = Annotated[
    int | None, typer.Option(help="Steps between sheets of held-back pictures; 0: none.")
]
Workers = Annotated[int | None, typer.Option(help="Processes that read pictures, for each that trains.")]
Bf16 = Annotated[bool, typer.Option(help="Calculate in bf16.")]
Dtype = Annotated[str, typer.Option(help="Of the result: fp16, bf16 or fp32.")]


Network = Annotated[
    str, typer.Option(help="What is made from nothing: tiny (128 pixels) or f8_z16 (256 pixels).")
]
Mix = Annotated[
    float,
    typer.Option(help="Share of pictures that get another one's face: many people from photos of few."),
]
Endless = Annotated[
    bool, typer.Option("--endless", help="The rate stays: go on until you stop it; --finish ends it.")
]
Finish = Annotated[
    int,
    typer.Option(
        help="Let the rate fall to nothing over so many steps from here on, and end; with --steps: over so "
        "many at their end.",
        min=0,
    ),
]
Muon = Annotated[
    float | None, typer.Option(help="Learning rate of Muon for hidden matrices; 0: AdamW for all.")
]
Group = Annotated[
    int | None,
    typer.Option(help="Pictures that are degraded at once, by the same steps. Default: 8 on a GPU, else 1."),
]
Compiled = Annotated[
    bool | None,
    typer.Option("--compile/--no-compile", help="Compile the U-Net by torch. Default: on a GPU."),
]


def ending(run: BaseRun, output: Path) -> str:
    """How a training comes to its result once it was stopped."""
    if not run.endless:
        return f", and writes {output.name} at the end"
    return f", and --finish 1500 in place of --endless ends it in so many steps and writes {output.name}"


@app.command("train-autoencoder")
def _train_autoencoder(
    folder: Folder,
    data: DataPaths = None,
    size: Annotated[
        int, typer.Option(help="Side of the random crops in pixels; 0: what suits the network.")
    ] = 0,
    network: Network = "tiny",
    steps: Steps = None,
    lr: Rate = None,
    batch: BatchSize = None,
    accumulate: Accumulate = None,
    seed: Seed = 0,
    save_every: SaveEvery = None,
    validate_every: ValidateEvery = None,
    workers: Workers = None,
    bf16: Bf16 = True,
) -> None:
    """Train the autoencoder of a tiny restorer from nothing, into FOLDER."""
    changes = Changes(steps, lr, batch, accumulate, seed, bf16, save_every, validate_every, workers)
    with bars(stopped=kept_in(folder)) as show:
        run_autoencoder(folder, Data(data or (), size), changes, show, network)


@app.command("train-base")
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
    prediction_type: Prediction = None,
    null_lq: Annotated[
        float | None, typer.Option(help="Share of samples without SFT, for --train all.")
    ] = None,
    empty_prompt: Captionless = None,
    data: DataPaths = None,
    size: Size = 0,
    degradation: DegradationName = "",
    p_hq: Untouched = 0.03,
    shift: Shift = 1.0,
    renew: Annotated[
        list[str] | None,
        typer.Option(help="Part of the U-Net to draw anew, such as output_blocks.3 or attn2. Repeatable."),
    ] = None,
    pairs: PairCount = 0,
    crop: Crop = 0,
    checkpointing: Checkpointing = False,
    network: Network = "tiny",
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
    """Train a base restorer; by `accelerate launch ... -m pfstorer_core train-base ...` on many GPUs."""
    run = BaseRun(
        source,
        addon or (),
        train,
        prediction_named(prediction_type),
        null_lq,
        empty_prompt,
        p_hq,
        shift,
        renew or (),
        pairs,
        crop,
        checkpointing,
        dtype,
        network,
        endless,
        finish,
        group,
        compiled,
        Data(data or (), size, degradation, mix),
        Changes(steps, lr, batch, accumulate, seed, bf16, save_every, validate_every, workers, muon),
    )
    with bars(stopped=kept_in(folder, ending(run, output))) as show:
        run_base(folder, output, run, show)


@app.command("train-cfw")
def _train_cfw(
    folder: Folder,
    output: Result,
    source: Annotated[Path, typer.Option("--from", help="The restorer whose autoencoder is to get CFW.")],
    data: DataPaths = None,
    size: Size = 0,
    degradation: DegradationName = "",
    pictures: Annotated[int, typer.Option(help="Pictures that are restored first, to train on.")] = 500,
    sampling_steps: Annotated[int, typer.Option(help="Steps of restoring them (StableSR: 200).")] = 20,
    p_hq: Annotated[float, typer.Option(help="Share of pictures whose LQ picture is HQ as it is.")] = 0.03,
    lpips: Annotated[
        bool,
        typer.Option("--lpips", help="Add LPIPS, as StableSR; needs the library lpips, which downloads."),
    ] = False,
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
    """Train CFW, which `--fidelity` needs: L1 of the pictures and their gradients, and LPIPS if asked for."""
    changes = Changes(steps, lr, batch, accumulate, seed, bf16, save_every, validate_every, workers)
    with bars(stopped=kept_in(folder)) as show:
        run_cfw(
            folder,
            output,
            source,
            Data(data or (), size, degradation),
            changes,
            pictures=pictures,
            sampling_steps=sampling_steps,
            p_hq=p_hq,
            dtype=dtype,
            lpips=lpips,
            on_progress=show,
        )
