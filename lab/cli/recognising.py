"""convert-recognizer, train-recognizer"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from pfstorer_core.cli.app import Folder, bars, dtype_named

from .app import app


@app.command("convert-recognizer")
def _convert_recognizer(
    source: Annotated[Path, typer.Argument(help="insightface's .onnx, or dlib's .dat file.")],
    output: Annotated[Path, typer.Argument(help="What to write (.safetensors).")],
    dtype: Annotated[
        str | None, typer.Option(help="fp32, fp16 or bf16; its own where none is named.")
    ] = None,
) -> None:
    """Make a file for ComfyUI/models/face_recognizers of a recogniser of elsewhere, once."""
    from ..recognition.convert import convert_recognizer

    convert_recognizer(source, output, dtype_named(dtype) if dtype else None)


@app.command("train-recognizer")
def _train_recognizer(
    folder: Folder,
    output: Annotated[Path, typer.Argument(help="The recogniser to write (.safetensors).")],
    photos: Annotated[
        Path | None, typer.Option(help="Pictures of further people, PERSON_anything.jpg.")
    ] = None,
    leave_out: Annotated[
        list[str] | None, typer.Option(help="Of these, whom errors are measured on. Repeatable.")
    ] = None,
    people: Annotated[int | None, typer.Option(help="Drawn people to train on.")] = None,
    unseen: Annotated[int | None, typer.Option(help="Drawn people to measure errors on.")] = None,
    steps: Annotated[int | None, typer.Option(help="Training steps.")] = None,
) -> None:
    """Train a small recogniser by ArcFace's loss, on drawn people and on photographs."""
    from ..recognition.train import RecognizerTraining, save_recognizer, train_recognizer

    chosen = {"people": people, "unseen": unseen, "left_out": tuple(leave_out) if leave_out else None}
    settings = replace(RecognizerTraining(), **{name: value for name, value in chosen.items() if value})
    if steps:
        settings = replace(settings, loop=replace(settings.loop, steps=steps))
    with bars() as show:
        network, errors = train_recognizer(settings, folder, photos, show)
    save_recognizer(network, output, errors)
    sys.stdout.write(json.dumps(errors, indent=1) + "\n")
