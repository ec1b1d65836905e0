"""Options of restore: what is loaded for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from ..diffusion.identity_guidance import IdentitySettings
from ..diffusion.schedule import PredictionType
from ..imaging.pictures import read_picture
from ..personalization.face_guidance import FaceGuidance
from ..recognition import load_recognizer
from ..recognition.subject import direction_of
from ..restore.settings import RestoreSettings
from ..restorers.base import Restorer
from ..restorers.clr_face.mask import MASKS, load_mask
from ..restorers.diffbir.cleaner import load_cleaner
from ..restorers.files import RestorerFile, load_restorer, open_restorer
from ..restorers.registry import prompt_guidance
from ..training.processes import Processes
from .app import (
    Addons,
    Graphs,
    OwnDevice,
    Prediction,
    Variant,
    device_named,
    device_of,
    dtype_named,
    prediction_named,
)  # fmt: skip


@dataclass(frozen=True)
class Loading:
    """What is loaded to restore pictures, and how."""

    device: str | None
    dtype: torch.dtype
    cleaner: Path | None
    addons: Sequence[Path]
    prediction_type: PredictionType | None
    variant: str | None
    graphs: bool = False

    @property
    def numbers(self) -> tuple[object, ...]:
        """What a result depends on beside files."""
        return self.dtype, self.prediction_type, self.variant

    @property
    def files(self) -> list[Path]:
        """Those that a result depends on, but for the restorer's own."""
        return [*self.addons, *([self.cleaner] if self.cleaner else [])]

    def load(self, path: Path, settings: RestoreSettings, processes: Processes) -> Restorer:
        """The restorer in a file; by several processes each on a device of its own."""
        placement: dict[str, Any] = {"device": device_of(self.device, processes), "dtype": self.dtype}
        files: dict[str, Any] = {"prediction_type": self.prediction_type, "variant": self.variant}
        file = open_restorer(path, self.addons, **files)
        text = needs_text(file, settings.prompt, settings.negative_prompt, settings.cfg)
        model = load_restorer(path, *self.addons, **placement, **files, text=text)
        return replace(model, cleaner=load_cleaner(self.cleaner, **placement)) if self.cleaner else model


def loading_options(
    device: OwnDevice = None,
    dtype: Annotated[str, typer.Option(help="Of weights and arithmetic: fp32, bf16 or fp16.")] = "fp32",
    cleaner: Annotated[
        Path | None,
        typer.Option(
            help="For DiffBIR: a network that cleans the picture first, in place of the file's own."
        ),
    ] = None,
    addon: Addons = None,
    prediction_type: Prediction = None,
    variant: Variant = None,
    graphs: Graphs = False,
) -> Loading:
    """Raises ValueError where there is no such device or number format."""
    if device is not None:
        device_named(device)  # so that what is wrong is said at once
    return Loading(
        device, dtype_named(dtype), cleaner, addon or (), prediction_named(prediction_type), variant, graphs
    )


@dataclass(frozen=True)
class Recognised:
    """Guidance by a face recogniser."""

    recognizer: Path | None
    photos: Sequence[Path]
    strength: float
    mask: str
    likenesses: list[float] = field(default_factory=list)

    @property
    def files(self) -> list[Path]:
        """Those that a result depends on."""
        recognizer = [self.recognizer] if self.recognizer else []
        return [*recognizer, *self.photos, *([] if self.mask in MASKS else [Path(self.mask)])]

    def load(self) -> FaceGuidance | None:
        """Puts the likeness before each guided step into `likenesses`."""
        if self.recognizer is None:
            return None
        judge, settings = load_recognizer(self.recognizer), IdentitySettings(self.strength)
        person = direction_of(judge, [read_picture(path) for path in self.photos]) if self.photos else None
        note = lambda _, likeness, __: self.likenesses.append(float(likeness.mean()))  # noqa: E731
        chosen = self.mask if self.mask in MASKS else load_mask(self.mask)
        return FaceGuidance(judge, person, settings, mask=chosen, on_step=note)

    def notes(self, guidance: FaceGuidance | None) -> list[str]:
        """What is to be said when it has guided."""
        if guidance is None:
            return []
        found = self.likenesses
        acted = f"{found[0]:.3f} … {found[-1]:.3f}" if found else "no step in its window"
        return [f"Likeness by {guidance.recognizer.name} before each guided step: {acted}"]


def recognised_options(
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
) -> Recognised:
    """Raises ValueError where photos show nobody whom to find."""
    if photo and recognizer is None:
        raise ValueError("--photo shows a face recogniser whom to find: name one by --recognizer.")
    return Recognised(recognizer, photo or (), identity_strength, identity_mask)


def needs_text(
    file: RestorerFile, prompt: str | None, negative_prompt: str | None, cfg: float | None
) -> bool:
    """Whether words are said: those that are asked for, or the restorer's own where it can read them."""
    own = prompt_guidance(file.header)
    guided = (own.cfg if cfg is None else cfg) > 1
    asked = bool(prompt) or (guided and bool(negative_prompt))
    unsaid = (prompt is None and own.prompt) or (guided and negative_prompt is None and own.negative_prompt)
    return asked or bool(unsaid and file.text)
