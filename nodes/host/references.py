"""Photos that a MODEL looks at while it restores, encoded by its VAE."""

from __future__ import annotations

from typing import Any

import comfy.model_management as mm
from torch import Tensor

from ...pfstorer_core.imaging.tile_setting import TileSize
from ...pfstorer_core.personalization.photos import aligned_side, as_they_lie, face_crops, resized
from ...pfstorer_core.personalization.reference_attention.references import (
    References,
    ReferenceSettings,
    reference_latents,
)
from .model import RestorerModel
from .photos import Person
from .pixels import encode

CHOICES = {"auto": None, "on": True, "off": False}
"""Of what a restorer would choose by itself."""
ENCODINGS = {"auto": None, "side by side": True, "one by one": False}


def read_person(
    restorer: RestorerModel, vae: Any, person: Person, settings: ReferenceSettings
) -> tuple[References, Tensor, list[str]]:
    """A person's photos for a restorer, the faces that were cut out of them [R, 3, S, S] in [0, 1], and what
    a user should know of them.

    Raises:
        ValueError: photos that show nothing, see `face_crops`.
    """
    stop = mm.throw_exception_if_processing_interrupted
    header, width = restorer.header, restorer.sizes.context_dim
    crops = face_crops(person.photos, person.boxes, aligned_side(header), stop)
    squares = resized([crop for crop, _ in crops], header.image_size)
    chosen = settings.suited(width, header.variant)

    def encoded(pictures: Tensor) -> Tensor:
        stop()
        whole = TileSize(max(pictures.shape[-2:]) // vae.downscale_ratio, 0)
        return restorer.process_latent_in(encode(vae, pictures, whole)).cpu().float()

    latents = reference_latents(encoded, squares, bool(chosen.side_by_side))
    context = restorer.null_context if width else None
    references = References(latents, context, restorer.fingerprint, chosen)
    how = "side by side" if chosen.side_by_side else "one by one"
    note = f"Looks at {len(squares)} photos, encoded {how}, {'with' if chosen.adain else 'without'} AdaIN."
    return references, squares, [note, *person.notes, *as_they_lie(crops, person.boxes)]
