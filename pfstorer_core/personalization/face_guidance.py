"""Guidance towards a person whom a face recogniser is to find: identity without training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import Tensor

from ..diffusion.identity_guidance import IdentityGuidance, IdentitySettings
from ..imaging.canvas import Canvas
from ..models.identity_mask import IdentityMask
from ..recognition import Recognizer
from ..recognition.subject import Subject, find_subject
from ..restorers.base import Restorer
from ..restorers.clr_face.mask import check_mask


@dataclass(frozen=True, eq=False)
class FaceGuidance:
    """Guidance by a face recogniser, see `IdentityGuidance`.

    Attributes:
        person: direction [D] of whom the pictures show, see `direction_of`; None for whom the bad, or
            cleaned, picture shows.
        blend: of both: 1 is the person alone.
        area: where to guide [1, 1, H, W] in [0, 1], over the whole picture, of any size; None for everywhere.
        mask: what of the latent takes part: "none" for all of it, "landmarks" for eyes, nose and mouth, or a
            learned mask.
        on_step: see `IdentityGuidance`.
    """

    recognizer: Recognizer
    person: Tensor | None = None
    settings: IdentitySettings = field(default_factory=IdentitySettings)
    blend: float = 1.0
    area: Tensor | None = None
    mask: IdentityMask | str = "none"
    on_step: Callable[[float, Tensor, Tensor], object] | None = None

    def of(
        self,
        restorer: Restorer,
        canvas: Canvas,
        lq: Tensor,
        cleaned: Tensor,
        visited: Sequence[int],
        tiles: Mapping[str, Any],
    ) -> IdentityGuidance:
        """Guidance of the faces that the pictures of a canvas show.

        Args:
            lq, cleaned: latents [B, C, h, w] of the bad and of the cleaned pictures.
            visited: time steps of the sampler. tiles: of the autoencoder.
        Raises:
            ValueError: no face in a picture that is no portrait; a mask of other latents.
        """
        if not isinstance(self.mask, str):
            check_mask(self.mask, lq.shape[1])
        shown = 2 * canvas.picture - 1
        subject = find_subject(self.recognizer, shown, restorer.downscale, self.person, self.blend)

        def decode(latents: Tensor) -> Tensor:
            return 2 * restorer.decode(latents, quantize=False, **tiles) - 1

        area = None if self.area is None else canvas.area(self.area, (lq.shape[-2], lq.shape[-1]))
        mask = chosen_mask(self.mask, subject, restorer.downscale, lq, cleaned)
        mask = area if mask is None else mask if area is None else mask * area.to(mask)
        schedule, likeness = restorer.schedule.respaced(visited), partial(subject.likeness, decode)
        return IdentityGuidance(self.settings, schedule, likeness, lq.std((1, 2, 3)), mask, self.on_step)


def chosen_mask(
    mask: IdentityMask | str, subject: Subject, downscale: int, lq: Tensor, cleaned: Tensor
) -> Tensor | None:
    """What of the latents takes part [b, c, h, w] in [0, 1]; None for all of them. See `FaceGuidance`."""
    if mask == "none":
        return None
    if isinstance(mask, str):
        return subject.features(lq, downscale)
    return mask.to(lq.device)(lq, cleaned)
