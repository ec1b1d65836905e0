"""verify"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import torch
import typer

from ..checkpoints.files import atomic_write, check_output
from ..verification import STEPS, Settings, verify
from .app import Prediction, Variant, app, bars, device_named, dtype_named, prediction_named


@app.command("verify")
def _verify(
    files: Annotated[
        list[Path],
        typer.Argument(
            help="What belongs together: a restorer, or Stable Diffusion 2.1 and what goes on top of it; a "
            "CFW autoencoder, a cleaner, identity adapters."
        ),
    ],
    report: Annotated[Path | None, typer.Option(help="Also write the report into this file.")] = None,
    steps: Annotated[int, typer.Option(help="Sampling steps.")] = STEPS,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, …")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto (fp16 on a GPU, else fp32), fp32, bf16 or fp16.")] = "auto",
    quick: Annotated[bool, typer.Option("--quick", help="Only look at the files, restore nothing.")] = False,
    prediction_type: Prediction = None,
    variant: Variant = None,
) -> None:
    """Check that files work as they must, on two pictures that come along. The report, in Markdown, names no
    file, folder or person: paste it into an issue. Status 1 where a check fails."""
    if report:
        check_output(report)
    place = device_named(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
    narrow = torch.float32 if place.type == "cpu" else torch.float16
    settings = Settings(
        place,
        narrow if dtype == "auto" else dtype_named(dtype),
        steps,
        quick,
        prediction_named(prediction_type),
        variant,
    )
    with bars(stderr=True) as show:
        found = verify(files, settings, show)
    text = found.to_markdown()
    if report:
        with atomic_write(report) as temporary:
            temporary.write_text(text, encoding="utf-8")
    sys.stdout.write(text)
    if found.failed:
        raise typer.Exit(1)
