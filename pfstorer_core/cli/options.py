"""Options that several trainings have: what they mean, and what is made of those that go together."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from .app import Prediction, prediction_named
from .settings import Changes, Data

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
    str,
    typer.Option(
        help="What makes LQ pictures: a preset's name, or several (heavy,heavy,light), of "
        "which one is drawn for each. Default: by the size."
    ),
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


def gathers(**groups: Callable[..., Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A command whose parameters of these names are made by functions: the parameters of each are options of
    the command, in its place."""

    def gathering(command: Callable[..., None]) -> Callable[..., None]:
        own = inspect.signature(command, eval_str=True).parameters
        members = {name: inspect.signature(made, eval_str=True).parameters for name, made in groups.items()}

        @wraps(command)
        def called(**given: Any) -> None:
            made = {
                name: make(**{member: given.pop(member) for member in members[name]})
                for name, make in groups.items()
            }
            command(**given, **made)

        seen = [each for name in own for each in members.get(name, {name: own[name]}).values()]
        signature = inspect.Signature([each.replace(kind=each.KEYWORD_ONLY) for each in seen])
        called.__dict__["__signature__"] = signature
        return called

    return gathering


def loop_options(
    steps: Steps = None,
    lr: Rate = None,
    batch: BatchSize = None,
    accumulate: Accumulate = None,
    seed: Seed = 0,
    save_every: SaveEvery = None,
    validate_every: ValidateEvery = None,
    workers: Workers = None,
    bf16: Bf16 = True,
) -> Changes:
    """Of every training."""
    return Changes(steps, lr, batch, accumulate, seed, bf16, save_every, validate_every, workers)


def data_options(data: DataPaths = None, size: Size = 0, degradation: DegradationName = "") -> Data:
    """Of those that train on degraded pictures."""
    return Data(data or (), size, degradation)


def run_options(
    prediction_type: Prediction = None,
    empty_prompt: Captionless = None,
    shift: Shift = 1.0,
    pairs: PairCount = 0,
    crop: Crop = 0,
    checkpointing: Checkpointing = False,
    endless: Endless = False,
    finish: Finish = 0,
    group: Group = None,
    compiled: Compiled = None,
    dtype: Dtype = "fp16",
) -> dict[str, Any]:
    """Of those that train what denoises: fields of a `BaseRun`."""
    return {**locals(), "prediction_type": prediction_named(prediction_type)}
