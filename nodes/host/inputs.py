"""Inputs that several nodes have."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ...pfstorer_core.personalization.photos import MAX_PHOTOS
from .adapters import IdentityAdapterType


def percent(name: str, default: float, what: str) -> Any:
    """How far sampling is, 0…1, when a node begins or ends to act."""
    tooltip = f"How far sampling is when this {what}: 0 its start, 1 its end."
    return io.Float.Input(name, default=default, min=0.0, max=1.0, step=0.01, optional=True,
                          advanced=True, tooltip=tooltip)  # fmt: skip


def fine_number(name: str, default: float, tooltip: str, most: float = 1.0, step: float = 0.0001) -> Any:
    """An advanced one from 0 on, such as a learning rate."""
    return io.Float.Input(name, default=default, min=0.0, max=most, step=step, round=False,
                          optional=True, advanced=True, tooltip=tooltip)  # fmt: skip


def base_inputs() -> list[Any]:
    """Of a node that learns on a base restorer."""
    return [
        io.Model.Input("model", tooltip="From Load Base Restorer."),
        io.Clip.Input("clip", tooltip="From the same Load Base Restorer."),
        io.Vae.Input("vae", tooltip="From the same Load Base Restorer."),
    ]


def photos_input(
    least: int = 1,
    tooltip: str = "A good photo of the person, of any size; 3 to 5 are best.",
    optional: bool = False,
) -> Any:
    photo = io.Image.Input("photo", tooltip=tooltip)
    return _growing("photos", photo, least, optional)


def faces_input() -> Any:
    mask = io.Mask.Input(
        "face", optional=True, tooltip="Where the face is in the photo of the same number, if it is small."
    )
    return _growing("faces", mask, 0)


def adapters_input() -> Any:
    person = IdentityAdapterType.Input(
        "identity_adapter",
        tooltip="A person who may be in the picture: of Load Identity Adapter, or of the "
        "node that learned them.",
    )
    return _growing("identity_adapters", person, 1)


def _growing(name: str, of: Any, least: int, optional: bool = False) -> Any:
    template = io.Autogrow.TemplatePrefix(of, prefix=f"{name[:-1]}_", min=least, max=MAX_PHOTOS)
    return io.Autogrow.Input(name, template=template, tooltip=of.tooltip, optional=optional)


def name_input() -> Any:
    return io.String.Input("name", default="person", tooltip="Name of the file in models/identity_adapters.")


def seed_input() -> Any:
    return io.Int.Input("seed", default=0, min=0, max=2**63 - 1, control_after_generate=False,
                        tooltip="Same photos, settings and seed: the same adapter.")  # fmt: skip


def resume_input() -> Any:
    tooltip = "auto: go on with what was stopped, take what is finished. restart: learn anew."
    return io.Combo.Input(
        "resume", options=["auto", "restart"], default="auto", optional=True, tooltip=tooltip
    )


def batch_input(default: int) -> Any:
    return io.Int.Input("batch", default=default, min=1, max=64, optional=True, advanced=True,
                        tooltip="Samples a step: less takes less memory.")  # fmt: skip


def preview_input() -> Any:
    return io.Int.Input("preview_every", default=0, min=0, max=100_000, optional=True, advanced=True,
                        tooltip="Steps between previews, which take time; 0 shows them after 0, 10, 25, "
                        "50 and 100 steps, then every 100.")  # fmt: skip


def face_input() -> Any:
    return io.Boolean.Input("embed_face", default=True, optional=True, advanced=True,
                            tooltip="Whether the file gets an embedding of the face, by which Choose "
                            "Identity finds the person in pictures: biometric data.")  # fmt: skip


def cleaner_input(tooltip: str) -> Any:
    return io.UpscaleModel.Input("cleaner", optional=True, tooltip=tooltip)
