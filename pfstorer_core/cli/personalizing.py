"""personalize, add-face"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import typer

from ..checkpoints.names import check_place
from ..imaging.faces import largest_face
from ..imaging.pictures import read_picture
from ..personalization.face import face_of
from ..personalization.folder import write_face
from ..personalization.learn import learn
from ..personalization.pfstorer.start import SUFFIX, find_start
from ..personalization.photos import aligned_side
from ..personalization.registry import methods
from ..personalization.training import default_settings, settings_of
from ..recognition import load_recognizer
from ..restorers.files import load_restorer
from .app import Addons, Device, Graphs, Prediction, Variant, app, bars, device_named, prediction_named

DEFAULTS = default_settings()


@app.command("personalize")
def _personalize(
    restorer: Annotated[Path, typer.Argument(help="A restorer with its text tower.")],
    output: Annotated[Path, typer.Argument(help="The identity adapter to write (.safetensors).")],
    photos: Annotated[list[Path], typer.Argument(help="1 to 10 good photos of the person.")],
    steps: Annotated[
        int | None,
        typer.Option(
            help="Training steps; by itself what suits the method. 0, with a start: photos are looked at.",
            show_default=False,
        ),
    ] = None,
    batch: Annotated[
        int | None, typer.Option(help="Samples a step; by itself what suits the method.", show_default=False)
    ] = None,
    method: Annotated[str, typer.Option(help=f"One of {', '.join(methods())}.")] = DEFAULTS.method,
    lambda_gen: Annotated[
        float | None, typer.Option(help="Weight of the loss without the bad picture.")
    ] = None,
    reference_timestep: Annotated[str | None, typer.Option(help="Of pfstorer: zero, same or noised.")] = None,
    rank: Annotated[int | None, typer.Option(help="Of lora and dual_pivot: of each layer's change.")] = None,
    targets: Annotated[str | None, typer.Option(help="Of lora: layers that learn, attention or all.")] = None,
    token: Annotated[str | None, typer.Option(help="Of dual_pivot: stands for the person.")] = None,
    class_word: Annotated[
        str | None, typer.Option(help="Of dual_pivot: what they are, such as man, woman or girl.")
    ] = None,
    pivots: Annotated[str | None, typer.Option(help="Of dual_pivot: both, text or model.")] = None,
    steps_text: Annotated[
        int | None, typer.Option(help="Of dual_pivot: steps of the text pivot, which comes first.")
    ] = None,
    text_weights: Annotated[str | None, typer.Option(help="Of dual_pivot: lora or full.")] = None,
    model_weights: Annotated[str | None, typer.Option(help="Of dual_pivot: first150, full or lora.")] = None,
    class_pictures: Annotated[
        int | None, typer.Option(help="Of dual_pivot: pictures of the class that the base draws first.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Of dual_pivot's model pivot: personal, generic or mixed pictures.")
    ] = None,
    pictures: Annotated[
        Path | None, typer.Option(help="Of dual_pivot: a folder of generic pictures of faces.")
    ] = None,
    detector: Annotated[
        Path | None, typer.Option(help="YuNet's ONNX file, to be used instead of the built-in detector.")
    ] = None,
    recognizer: Annotated[
        Path | None,
        typer.Option(
            help="What embeds the face, for the person to be found by, such as dlib_resnet29.safetensors."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Same seed, same adapter.")] = 0,
    graphs: Graphs = False,
    device: Device = "cpu",
    bf16: Annotated[bool, typer.Option(help="Frozen weights and arithmetic in bf16.")] = True,
    restart: Annotated[bool, typer.Option("--restart", help="Forget what was stopped or finished.")] = False,
    no_start: Annotated[
        bool,
        typer.Option(
            "--no-start", help=f"Of pfstorer: begin as in the paper, though RESTORER{SUFFIX} lies beside it."
        ),
    ] = False,
    addon: Addons = None,
    prediction_type: Prediction = None,
    variant: Variant = None,
) -> None:
    """Learn a person from a few good photos; a second call goes on where the first was stopped."""
    check_place(output)
    chosen = {
        "steps": steps,
        "batch": batch,
        "lambda_gen": lambda_gen,
        "reference_timestep": reference_timestep,
        "rank": rank,
        "targets": targets,
        "token": token,
        "class_word": class_word,
        "pivots": pivots,
        "steps_text": steps_text,
        "text_weights": text_weights,
        "model_weights": model_weights,
        "class_pictures": class_pictures,
        "data": data,
        "pictures": str(pictures) if pictures else None,
    }
    given = {name: value for name, value in chosen.items() if value is not None}
    settings = settings_of(method, {"seed": seed, "bf16": bf16, **given})
    place, prediction = device_named(device), prediction_named(prediction_type)
    embed = None if recognizer is None else partial(face_of, load_recognizer(recognizer))
    good = [read_picture(path) for path in photos]
    boxes = [largest_face(picture[0], detector) for picture in good]
    model = load_restorer(
        restorer,
        *(addon or []),
        device=place,
        dtype=torch.bfloat16 if bf16 else torch.float32,
        prediction_type=prediction,
        variant=variant,
        text=True,
    )
    files = () if no_start else (restorer, *(addon or ()))
    found = find_start(files, model.fingerprint, settings)
    with bars() as show:
        learned = learn(
            lambda: model, model.fingerprint, good, settings, boxes, output, restart, show,
            aligned=aligned_side(model.header), embed_face=embed, start=found.start, graphs=graphs,
        )  # fmt: skip
    for number, box in enumerate(boxes, 1):
        if box is None:
            typer.echo(f"Photo {number}: no face was found, so the square in its middle was learned.")
    for note in (*learned.notes, *found.notes):
        typer.echo(note)


@app.command("add-face")
def _add_face(
    adapter: Annotated[Path, typer.Argument(help="An identity adapter, also one that was made before.")],
    photos: Annotated[list[Path], typer.Argument(help="Good photos of its person.")],
    recognizer: Annotated[
        Path, typer.Option(help="What embeds the face, such as dlib_resnet29.safetensors.")
    ],
    output: Annotated[
        Path | None, typer.Option(help="Write a copy with it; by itself the file changes.")
    ] = None,
) -> None:
    """Give an adapter an embedding of its person's face, by which Choose Identity finds them in pictures. It
    is biometric data."""
    place = output or adapter
    check_place(place)
    face = face_of(load_recognizer(recognizer), [read_picture(path)[0] for path in photos])
    if face is None:
        raise ValueError("No face was found in the photos, so that there is nothing to embed: give others.")
    write_face(adapter, face, place)
    typer.echo(f"{place.name} holds the face of its person now, of {face.photos} of {len(photos)} photos.")
