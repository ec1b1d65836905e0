"""personalize"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer

from ..checkpoints.names import check_place
from ..imaging.faces import largest_face
from ..imaging.pictures import read_picture
from ..personalization.learn import learn
from ..personalization.pfstorer.train import AdapterTraining
from ..restorers.files import load_restorer
from .app import Addons, Device, Prediction, app, bars, device_named, prediction_named

DEFAULTS = AdapterTraining()


@app.command("personalize")
def _personalize(
    restorer: Annotated[Path, typer.Argument(help="A restorer with its text tower.")],
    output: Annotated[Path, typer.Argument(help="The identity adapter to write (.safetensors).")],
    photos: Annotated[list[Path], typer.Argument(help="1 to 10 good photos of the person.")],
    steps: Annotated[int, typer.Option(help="Training steps.")] = DEFAULTS.steps,
    batch: Annotated[int, typer.Option(help="Samples a step.")] = DEFAULTS.batch,
    lambda_gen: Annotated[
        float, typer.Option(help="Weight of the loss without the bad picture.")
    ] = DEFAULTS.lambda_gen,
    reference_timestep: Annotated[str, typer.Option(help="zero, same or noised.")] = "zero",
    detector: Annotated[
        Path | None, typer.Option(help="YuNet's ONNX file, to be used instead of the built-in detector.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Same seed, same adapter.")] = 0,
    device: Device = "cpu",
    bf16: Annotated[bool, typer.Option(help="Frozen weights and arithmetic in bf16.")] = True,
    restart: Annotated[bool, typer.Option("--restart", help="Forget what was stopped or finished.")] = False,
    addon: Addons = None,
    prediction_type: Prediction = None,
) -> None:
    """Learn a person from a few good photos; a second call goes on where the first was stopped."""
    check_place(output)
    place, prediction = device_named(device), prediction_named(prediction_type)
    pictures = [read_picture(path) for path in photos]
    boxes = [largest_face(picture[0], detector) for picture in pictures]
    settings = AdapterTraining(
        steps, batch, lambda_gen=lambda_gen, reference_timestep=reference_timestep, seed=seed, bf16=bf16
    )
    model = load_restorer(
        restorer,
        *(addon or []),
        device=place,
        dtype=torch.bfloat16 if bf16 else torch.float32,
        prediction_type=prediction,
        text=True,
    )
    with bars() as show:
        learned = learn(lambda: model, model.fingerprint, pictures, settings, boxes, output, restart, show)
    for number, box in enumerate(boxes, 1):
        if box is None:
            typer.echo(f"Photo {number}: no face was found, so the square in its middle was learned.")
    for note in learned.notes:
        typer.echo(note)
