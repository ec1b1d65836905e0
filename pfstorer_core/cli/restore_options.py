"""Options of restore: how, and whom pictures show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer
from torch import Tensor

from ..diffusion.restoration_guidance import GuidanceSettings
from ..imaging.faces import Box, largest_face
from ..imaging.pictures import read_picture
from ..personalization.base import Adapter
from ..personalization.identity import MAX_GAMMA, Identity
from ..personalization.people import photos_in
from ..personalization.photos import check_count
from ..personalization.reference_attention.references import References, ReferenceSettings
from ..personalization.registry import load_identity_adapter
from ..recognition import load_recognizer
from ..recognition.identification import THRESHOLD
from ..restore.people import People, load_people
from ..restore.settings import RestoreSettings
from ..restorers.base import Restorer


def settings_options(
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
) -> RestoreSettings:
    """How pictures are restored."""
    given = dict(locals())
    space = given.pop("guidance_space")
    return RestoreSettings(
        **{**given, "guidance": GuidanceSettings(guidance, space, "mse") if guidance else None}
    )


@dataclass(frozen=True)
class Whom:
    """Whom pictures show, or may show."""

    identity: Sequence[Path] = ()
    gamma: float = 1.0
    references: Path | None = None
    reference_strength: float = 1.0
    reference_cfg: float = 1.0
    people: Path | None = None
    people_recognizer: Path | None = None
    threshold: float = THRESHOLD
    adapters: Mapping[str, Adapter] = field(default_factory=dict)
    photos: Sequence[Tensor] = ()

    def identities(self, restorer: Restorer) -> tuple[list[Identity], list[str]]:
        """Whom all pictures show; and what is to be said of it."""
        identities = [] if self.people else [Identity(each, self.gamma) for each in self.adapters.values()]
        if not self.photos:
            return identities, []
        boxes = [largest_face(photo[0]) for photo in self.photos]
        seen = References.of(restorer, self.photos, boxes, ReferenceSettings(cfg=self.reference_cfg))
        return [*identities, Identity(seen, self.reference_strength)], without_face(boxes, "is taken")

    @property
    def numbers(self) -> tuple[float, ...]:
        """What a result depends on beside files."""
        return self.gamma, self.reference_strength, self.reference_cfg, self.threshold

    def files(self, known: People | None) -> list[Path]:
        """Those that a result depends on, where these people may be in pictures."""
        photos = photos_in(self.references) if self.references else []
        if not (self.people and self.people_recognizer and known):
            return [*self.identity, *photos]
        return [*(self.people / f"{name}.safetensors" for name in known.names), self.people_recognizer]

    def known(self, restorer: Restorer) -> tuple[People | None, list[str]]:
        """Who may be in pictures; and what is to be said of it."""
        if self.people is None or self.people_recognizer is None:
            return None, []
        recognizer = load_recognizer(self.people_recognizer)
        return People.of(self.adapters, restorer, recognizer, self.gamma, self.threshold)


def whom_options(
    identity: Annotated[
        list[Path] | None, typer.Option(help="An identity adapter: whom it shows. Repeatable.")
    ] = None,
    gamma: Annotated[
        float, typer.Option(help="Strength of the identity, 0 to 2.", min=0, max=MAX_GAMMA)
    ] = 1.0,
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
    people: Annotated[
        Path | None,
        typer.Option(
            help="A folder of identity adapters that hold a face (add-face): each face in a picture is "
            "restored as the one whose it is, or as nobody."
        ),
    ] = None,
    people_recognizer: Annotated[
        Path | None,
        typer.Option(
            help="Of --people: what their faces were embedded by, such as dlib_resnet29.safetensors."
        ),
    ] = None,
    threshold: Annotated[
        float,
        typer.Option(help="Of --people: likeness that a face needs to be a person's; 0 is as strangers are."),
    ] = THRESHOLD,
) -> Whom:
    """Whom pictures show; adapters and photos are read."""
    given = dict(locals())
    if (people is None) != (people_recognizer is None):
        raise ValueError("--people and --people-recognizer go together: a recogniser tells people apart.")
    if people and (identity or references):
        raise ValueError(
            "--people says of each face who it is, --identity and --references say it of all: choose one."
        )
    adapters = {str(path): load_identity_adapter(path) for path in identity or ()}
    adapters = load_people(people) if people else adapters
    photos = read_photos(references) if references else []
    return Whom(**{**given, "identity": identity or ()}, adapters=adapters, photos=photos)


def read_photos(folder: Path) -> list[Tensor]:
    """The pictures [1, 3, H, W] of a folder, by name.

    Raises:
        ValueError: no folder, or none, or too many pictures in it.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder: give one with 1 to 10 photos of the person.")
    paths = photos_in(folder)
    check_count(len(paths))
    return [read_picture(path)[:1] for path in paths]


def without_face(boxes: Sequence[Box | None], what: str) -> list[str]:
    """Of the photos in which no face was found, a sentence each: what was done with its middle."""
    return [
        f"Photo {number}: no face was found, so the square in its middle {what}."
        for number, box in enumerate(boxes, 1)
        if box is None
    ]
