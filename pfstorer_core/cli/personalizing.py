"""personalize, add-face"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from ..checkpoints.names import check_place
from ..imaging.faces import largest_face
from ..imaging.pictures import read_picture
from ..personalization.face import face_of
from ..personalization.folder import write_face
from ..personalization.learn import Learned, learn
from ..personalization.people import ENDING, learn_people, people_in, photos_in
from ..personalization.pfstorer.start import SUFFIX, find_start
from ..personalization.photos import aligned_side
from ..personalization.registry import methods
from ..personalization.training import default_settings, settings_of
from ..recognition import load_recognizer
from ..restorers.files import load_restorer
from ..training.processes import launched_processes
from ..training.progress import Progress, silent
from .app import (
    Addons,
    Graphs,
    OwnDevice,
    Prediction,
    Variant,
    app,
    bars,
    device_named,
    device_of,
    kept_in,
    prediction_named,
)  # fmt: skip
from .restore_options import without_face

DEFAULTS = default_settings()


@app.command("personalize")
def _personalize(
    restorer: Annotated[Path, typer.Argument(help="A restorer with its text tower.")],
    output: Annotated[
        Path, typer.Argument(help="The identity adapter to write (.safetensors); of many people a folder.")
    ],
    photos: Annotated[
        list[Path],
        typer.Argument(
            help="1 to 10 good photos of the person, or a folder of them; of many people a folder that holds "
            "a folder of photos of each."
        ),
    ],
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
    device: OwnDevice = None,
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
    """Learn a person from a few good photos, or many people, whom as many processes share as `accelerate
    launch` starts. A second call goes on where the first was stopped."""
    several = output.suffix.lower() != ENDING and len(photos) == 1 and photos[0].is_dir()
    people = people_in(photos[0]) if several else {}
    if not several:
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
    prediction = prediction_named(prediction_type)
    if device is not None:
        device_named(device)
    embed = None if recognizer is None else partial(face_of, load_recognizer(recognizer))
    processes = launched_processes()
    if processes.count > 1 and not several:
        raise ValueError(f"{processes.count} processes share a folder of people, not one: start one process.")
    with processes.main_first():  # what is wrong is said once
        of_one = [] if several else photos
        files = [each for path in of_one for each in (photos_in(path) if path.is_dir() else [path])]
        good = [read_picture(path) for path in files]
        model = load_restorer(
            restorer,
            *(addon or []),
            device=device_of(device, processes),
            dtype=torch.bfloat16 if bf16 else torch.float32,
            prediction_type=prediction,
            variant=variant,
            text=True,
        )
        start = find_start(() if no_start else (restorer, *(addon or ())), model.fingerprint, settings)

    def learned(
        photos: Sequence[Tensor], file: Path, show: Callable[[Progress], None] = silent
    ) -> Learned[Any]:
        boxes = [largest_face(picture[0], detector) for picture in photos]
        found = learn(
            lambda: model, model.fingerprint, photos, settings, boxes, file, restart, show,
            aligned=aligned_side(model.header), embed_face=embed, start=start.start, graphs=graphs,
        )  # fmt: skip
        return replace(found, notes=[*without_face(boxes, "was learned"), *found.notes])

    if several:
        with bars(stopped=kept_in(output)) as show:
            summary = learn_people(people, output, learned, processes, show)
        if processes.is_main:
            summary.notes += start.notes
            sys.stdout.write(summary.told("learned", output))
            sys.exit(bool(summary.failed))
        return
    with bars() as show:
        notes = learned(good, output, show).notes
    for note in (*notes, *start.notes):
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
