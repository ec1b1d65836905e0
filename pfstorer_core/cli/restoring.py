"""restore"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from torch import Tensor

from ..checkpoints.files import check_output
from ..diffusion.identity_guidance import IdentitySettings
from ..diffusion.restoration_guidance import GuidanceSettings
from ..imaging.alignment import ALIGNMENTS, aligned_face, paste_aligned
from ..imaging.canvas import prepare_canvas
from ..imaging.color import COLOR_FIXES
from ..imaging.faces import Face, find_faces, largest_face
from ..imaging.pictures import check_picture_name, read_picture, write_picture
from ..personalization.face_guidance import FaceGuidance
from ..personalization.identity import MAX_GAMMA, Identity
from ..personalization.photos import check_count
from ..personalization.reference_attention.references import References, ReferenceSettings
from ..personalization.registry import load_identity_adapter
from ..recognition import load_recognizer
from ..recognition.subject import direction_of
from ..restore import restore
from ..restorers.clr_face.mask import MASKS, load_mask
from ..restorers.diffbir.cleaner import load_cleaner
from ..restorers.files import RestorerFile, load_restorer, open_restorer
from ..restorers.registry import prompt_guidance
from ..training.data import SUFFIXES
from ..training.progress import Progress
from .app import (
    Addons,
    Device,
    Graphs,
    Prediction,
    Variant,
    app,
    bars,
    device_named,
    dtype_named,
    prediction_named,
)


@app.command("restore")
def _restore(
    restorer: Annotated[Path, typer.Argument(help="A restorer (.safetensors, .ckpt).")],
    picture: Annotated[Path, typer.Argument(help="The bad picture; the first of several in a file.")],
    output: Annotated[
        Path, typer.Argument(help="Where the restored picture goes (.png, .jpg, .webp, .tif, .bmp).")
    ],
    upscale: Annotated[float, typer.Option(help="Factor of both sides, 1 to 20.")] = 4.0,
    steps: Annotated[int, typer.Option(help="Sampling steps.")] = 50,
    seed: Annotated[int, typer.Option(help="Same seed, same picture.")] = 0,
    fidelity: Annotated[float, typer.Option(help="CFW weight w, 0 to 1.")] = 0.0,
    prompt: Annotated[
        str | None,
        typer.Option(
            help="What the picture shows; needs the text tower. Default: the words of DiffBIR v2.1; else "
            "nothing."
        ),
    ] = None,
    negative_prompt: Annotated[
        str | None,
        typer.Option(
            help="What it does not show, for a --cfg above 1. Default: the words of DiffBIR v2 and v2.1."
        ),
    ] = None,
    cfg: Annotated[
        float | None,
        typer.Option(
            help="Guidance by the prompts, 1 (none) to 100. Default: 4 of DiffBIR v2, 6 of v2.1, which "
            "rescales it; else 1."
        ),
    ] = None,
    guidance: Annotated[
        float,
        typer.Option(
            help="Keeps close to the picture: scale of restoration guidance, about 0.5; 0 for none."
        ),
    ] = 0.0,
    guidance_space: Annotated[
        str, typer.Option(help="Where it compares: latent, or rgb, which is slower.")
    ] = "latent",
    recognizer: Annotated[
        Path | None,
        typer.Option(
            help="A face recogniser, which guides towards the person of the photos, or the picture."
        ),
    ] = None,
    photo: Annotated[
        list[Path] | None, typer.Option(help="A good photo of the person, for --recognizer. Repeatable.")
    ] = None,
    identity_strength: Annotated[
        float, typer.Option(help="Of --recognizer: length of its steps; 0.05 and more shows as noise.")
    ] = IdentitySettings().strength,
    identity_mask: Annotated[
        str, typer.Option(help="Of --recognizer: none, landmarks, or a file that train-mask wrote.")
    ] = "none",
    cleaner: Annotated[
        Path | None,
        typer.Option(
            help="For DiffBIR: a network that cleans the picture first, in place of the file's own."
        ),
    ] = None,
    identity: Annotated[
        list[Path] | None, typer.Option(help="An identity adapter: whom it shows. Repeatable.")
    ] = None,
    gamma: Annotated[float, typer.Option(help="Strength of the identity, 0 to 2.")] = 1.0,
    references: Annotated[
        Path | None,
        typer.Option(help="A folder of 1 to 10 photos of the person, which it looks at without training."),
    ] = None,
    reference_strength: Annotated[
        float, typer.Option(help="How often the photos count, 0 to 2; 1 as published.", min=0, max=MAX_GAMMA)
    ] = 1.0,
    reference_cfg: Annotated[
        float, typer.Option(help="Guidance by the photos, 1 (none) to 10; ReF-LDM takes 1.5.")
    ] = 1.0,
    color_fix: Annotated[
        str, typer.Option(help="Colours of the bad picture: wavelet, adain or none.")
    ] = "wavelet",
    sampler: Annotated[
        str, typer.Option(help="ddpm, or ddim, which adds no noise and is how ReF-LDM is published.")
    ] = "ddpm",
    quantize: Annotated[
        bool, typer.Option(help="Bring the result to the codebook of a VQ autoencoder, as published.")
    ] = True,
    tile: Annotated[
        int,
        typer.Option(
            help="Side of a tile in pixels of the result, of cleaner, diffusion and VAE (there at most 128 "
            "latent cells); 0: each its own."
        ),
    ] = 0,
    overlap: Annotated[
        int, typer.Option(help="Pixels that tiles share; -1: half a tile, of the VAE a quarter.")
    ] = -1,
    tile_batch: Annotated[
        int, typer.Option(help="Tiles at once: more are faster and take memory.", min=1)
    ] = 4,
    align: Annotated[
        str,
        typer.Option(
            help="FFHQ restores the largest face alone, aligned, and puts it back; none all of the picture; "
            "auto what the restorer says of itself, where a face is found."
        ),
    ] = "auto",
    graphs: Graphs = False,
    device: Device = "cpu",
    dtype: Annotated[str, typer.Option(help="Of weights and arithmetic: fp32, bf16 or fp16.")] = "fp32",
    addon: Addons = None,
    prediction_type: Prediction = None,
    variant: Variant = None,
) -> None:
    """Restore and enlarge a picture."""
    check_picture_name(output)
    check_output(output)
    placement: dict[str, Any] = {"device": device_named(device), "dtype": dtype_named(dtype)}
    if color_fix not in (*COLOR_FIXES, "none"):
        raise ValueError(f"No colour fix named {color_fix!r}; choose {', '.join(COLOR_FIXES)} or none.")
    if align not in ALIGNMENTS:
        raise ValueError(f"No alignment named {align!r}; choose {' or '.join(ALIGNMENTS)}.")
    lq = read_picture(picture)
    people = [Identity(load_identity_adapter(path), gamma) for path in identity or []]
    likenesses = list[float]()
    recognised = _recognised(recognizer, photo or [], identity_strength, identity_mask, likenesses)
    looking, photos = ReferenceSettings(cfg=reference_cfg), photos_in(references) if references else []
    towards = GuidanceSettings(guidance, guidance_space, "mse") if guidance else None
    files: dict[str, Any] = {"prediction_type": prediction_named(prediction_type), "variant": variant}
    own = open_restorer(restorer, addon or [], **files)
    text = needs_text(own, prompt, negative_prompt, cfg)
    model = load_restorer(restorer, *(addon or []), **placement, **files, text=text)
    if cleaner:
        model = replace(model, cleaner=load_cleaner(cleaner, **placement))
    if photos:
        boxes = [largest_face(photo[0]) for photo in photos]
        for number in (number for number, box in enumerate(boxes, 1) if box is None):
            typer.echo(f"Photo {number}: no face was found, so the square in its middle is taken.")
        people.append(Identity(References.of(model, photos, boxes, looking), reference_strength))
    chosen = model.header.aligned if align == "auto" else align
    face = _largest(lq[0], needed=align == "FFHQ") if chosen == "FFHQ" else None
    bad, place, factor = lq, None, upscale
    if face:
        bad, place = aligned_face(lq, face.landmarks, model.header.image_size)
        lq, factor = prepare_canvas(lq, upscale, 1, 1).picture, 1.0
    with bars() as show:
        image = restore(
            model,
            bad,
            upscale=factor,
            prompt=prompt,
            negative_prompt=negative_prompt,
            cfg=cfg,
            guidance=towards,
            face=recognised,
            identities=people,
            steps=steps,
            seed=seed,
            fidelity=fidelity,
            color_fix=color_fix,
            sampler=sampler,
            quantize=quantize,
            tile=tile,
            overlap=overlap,
            tile_batch=tile_batch,
            on_step=lambda step: show(Progress("restore", step.number + 1, step.total)),
            graphs=graphs,
        )
    if recognised:
        acted = f"{likenesses[0]:.3f} … {likenesses[-1]:.3f}" if likenesses else "no step in its window"
        typer.echo(f"Likeness by {recognised.recognizer.name} before each guided step: {acted}")
    write_picture(image if place is None else paste_aligned(lq, image, place), output)


def _recognised(
    recognizer: Path | None, photos: list[Path], strength: float, mask: str, likenesses: list[float]
) -> FaceGuidance | None:
    """Guidance by a recogniser; puts the likeness before each guided step into `likenesses`."""
    if recognizer is None:
        if photos:
            raise ValueError("--photo shows a face recogniser whom to find: name one by --recognizer.")
        return None
    judge, settings = load_recognizer(recognizer), IdentitySettings(strength)
    person = direction_of(judge, [read_picture(path) for path in photos]) if photos else None
    note = lambda _, likeness, __: likenesses.append(float(likeness.mean()))  # noqa: E731
    chosen = mask if mask in MASKS else load_mask(mask)
    return FaceGuidance(judge, person, settings, mask=chosen, on_step=note)


def photos_in(folder: Path) -> list[Tensor]:
    """The pictures [1, 3, H, W] of a folder, by name.

    Raises:
        ValueError: no folder, or none, or too many pictures in it.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder: give one with 1 to 10 photos of the person.")
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    check_count(len(paths))
    return [read_picture(path)[:1] for path in paths]


def needs_text(
    file: RestorerFile, prompt: str | None, negative_prompt: str | None, cfg: float | None
) -> bool:
    """Whether words are said: those that are asked for, or the restorer's own where it can read them."""
    own = prompt_guidance(file.header)
    guided = (own.cfg if cfg is None else cfg) > 1
    asked = bool(prompt) or (guided and bool(negative_prompt))
    unsaid = (prompt is None and own.prompt) or (guided and negative_prompt is None and own.negative_prompt)
    return asked or bool(unsaid and file.text)


def _largest(picture: Tensor, needed: bool) -> Face | None:
    """The largest face in a picture [3, H, W]. Raises ValueError where one is needed and there is none."""
    faces = find_faces(picture)
    if needed and not faces:
        raise ValueError("No face was found in the picture: restore all of it by --align none.")
    return max(faces, key=lambda face: face.box[3] - face.box[1], default=None)
