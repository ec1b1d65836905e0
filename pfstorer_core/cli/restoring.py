"""restore"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..adapter import load_identity_adapter
from ..identity import Identity
from ..pictures import read_picture, write_picture
from ..progress import Progress
from ..restore import restore
from ..restorer import load_restorer
from .app import Addons, Prediction, app, bars, prediction_named


@app.command("restore")
def _restore(
    restorer: Annotated[Path, typer.Argument(help="A restorer (.safetensors, .ckpt).")],
    picture: Annotated[Path, typer.Argument(help="The bad picture.")],
    output: Annotated[Path, typer.Argument(help="Where the restored picture goes (.png).")],
    upscale: Annotated[float, typer.Option(help="Factor of both sides, 1 to 20.")] = 4.0,
    steps: Annotated[int, typer.Option(help="Sampling steps.")] = 50,
    seed: Annotated[int, typer.Option(help="Same seed, same picture.")] = 0,
    fidelity: Annotated[float, typer.Option(help="CFW weight w, 0 to 1.")] = 0.0,
    prompt: Annotated[str, typer.Option(help="What the picture shows; needs the text tower.")] = "",
    identity: Annotated[
        list[Path] | None, typer.Option(help="An identity adapter: whom it shows. Repeatable.")
    ] = None,
    gamma: Annotated[float, typer.Option(help="Strength of the identity, 0 to 2.")] = 1.0,
    addon: Addons = None,
    prediction_type: Prediction = None,
) -> None:
    """Restore and enlarge a picture."""
    if output.suffix.lower() != ".png":
        raise ValueError(f"{output} has to end in .png: restored pictures are written as PNG.")
    lq = read_picture(picture)
    people = [Identity(load_identity_adapter(path), gamma) for path in identity or []]
    model = load_restorer(
        restorer, *(addon or []), prediction_type=prediction_named(prediction_type), text=bool(prompt)
    )
    with bars() as show:
        image = restore(
            model,
            lq,
            upscale=upscale,
            prompt=prompt,
            identities=people,
            steps=steps,
            seed=seed,
            fidelity=fidelity,
            on_step=lambda step: show(Progress("restore", step.number + 1, step.total)),
        )
    write_picture(image, output)
