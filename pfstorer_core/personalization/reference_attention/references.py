"""Photos of a person as they are, for a restorer to look at: nothing is learned."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from ...diffusion.schedule import Schedule
from ...imaging.faces import Box
from ...models import UNet, UNetConfig
from ...restorers.base import Restorer
from ...restorers.changes import Changes
from ...restorers.clr_face.variants import REFLDM
from ...restorers.fingerprint import same_base
from ...restorers.reading import Projections, read_photos
from ...restorers.shared_attention import Moments, SharedTokens
from ..base import Knowledge
from ..photos import aligned_side, face_crops, resized
from ..references import as_seen, check_reference_timestep
from ..weights import factor_at, feature_scale

LARGEST_CFG = 10.0


@dataclass(frozen=True)
class ReferenceSettings:
    """How photos are read and looked at. None is what suits the U-Net: ReF-LDM's has CacheKV as it was
    published, another prior as `train-prior` trains it; one with transformers shares its attention
    (StyleAligned).

    Attributes:
        side_by_side: encode all photos as one wide picture, as ReF-LDM does in training and inference; else
            one by one. The latents differ. By itself: for ReF-LDM's weights.
        adain: bring queries and keys of the picture to the photos' mean and deviation (StyleAligned). By
            itself: where there is a text.
        timestep: of the reading, see `REFERENCE_TIMESTEPS`.
        cfg: 1…10; above 1 the prediction is led away from that without photos, which costs a second
            evaluation (ReF-LDM: 1.5).
        zeros: what that is: with zeros in place of the photos' latents, as ReF-LDM was trained, or with none,
            as `train-prior` trains. By itself: none for such a prior.
    """

    side_by_side: bool | None = None
    adain: bool | None = None
    timestep: str = "zero"
    cfg: float = 1.0
    zeros: bool | None = None

    def __post_init__(self) -> None:
        check_reference_timestep(self.timestep)
        if not 1 <= self.cfg <= LARGEST_CFG:
            raise ValueError(f"cfg of references must be from 1 to {LARGEST_CFG:g}, got {self.cfg}.")

    def suited(self, context_dim: int, variant: str = REFLDM) -> ReferenceSettings:
        """With everything said, for a U-Net that reads a text of this width; 0: none.

        Args:
            variant: of its header; only of those without a text there are two kinds.
        """
        own = {
            "side_by_side": not context_dim and variant == REFLDM,
            "adain": bool(context_dim),
            "zeros": bool(context_dim) or variant == REFLDM,
        }
        return replace(self, **{name: value for name, value in own.items() if getattr(self, name) is None})


@dataclass(frozen=True, eq=False)
class References(Knowledge):
    """Photos that a restorer looks at, in the place of an adapter. `Identity.gamma` says how often their
    tokens count in the softmax: 1 as published, 0.5 half of that, 2 as if each photo was given twice.

    Attributes:
        latents: scaled [R, C, h, w].
        context: of the empty prompt [1, L, D]; None where the U-Net reads no text.
        base: fingerprint of the restorer that encoded them.
    """

    kinds: ClassVar[frozenset[str]] = frozenset({"attention"})

    latents: Tensor
    context: Tensor | None
    base: str
    settings: ReferenceSettings

    @classmethod
    def of(
        cls,
        restorer: Restorer,
        photos: Sequence[Tensor],
        boxes: Sequence[Box | None] | None = None,
        settings: ReferenceSettings | None = None,
    ) -> References:
        """Of photos [3, H, W] in [0, 1] of any size, for a restorer.

        Args:
            boxes: of the face in each; without one, it is the photo's middle.
        Raises:
            ValueError: what `face_crops` raises.
        """
        width, header = restorer.unet.config.context_dim, restorer.header
        chosen = (settings or ReferenceSettings()).suited(width, header.variant)
        crops = [crop for crop, _ in face_crops(photos, boxes, aligned_side(header))]
        squares = resized(crops, header.image_size)

        def encode(pictures: Tensor) -> Tensor:
            return restorer.encode(pictures, tile=max(pictures.shape[-2:]) // restorer.downscale)

        latents = reference_latents(encode, squares, bool(chosen.side_by_side))
        context = restorer.null_context if width else None
        return cls(latents, context, restorer.fingerprint, chosen)

    def to(self, device: torch.device | str, dtype: torch.dtype) -> References:
        context = None if self.context is None else self.context.to(device, dtype)
        return replace(self, latents=self.latents.to(device, dtype), context=context)

    def check_base(self, base: str, name: str = "this restorer") -> None:
        if not same_base(self.base, base):
            raise ValueError(
                f"These photos were encoded by another restorer: by {self.base}, but {name} is {base}. Read "
                "them with the one that is to look at them."
            )

    def check_fit(self, unet: UNet, image_size: int, name: str = "this restorer") -> None:
        """See `Knowledge.check_fit`."""
        if self.latents.shape[1] != unet.config.out_channels:
            raise ValueError(
                f"The latents of these photos have {self.latents.shape[1]} channels, but those of {name} "
                f"have {unet.config.out_channels}: encode them by its own VAE."
            )

    def kept(self, sizes: UNetConfig) -> int:
        """Keys and values of the photos, and of the zeros that `cfg` leads away from."""
        photos, _, height, width = self.latents.shape
        values = sum(
            channels * math.ceil(height / 2**level) * math.ceil(width / 2**level)
            for level, channels in enumerate(sizes.attention_widths)
        )
        return (4 if self.settings.cfg > 1 else 2) * photos * values

    def bind(
        self, unet: UNet, schedule: Schedule, gamma: float = 1.0, factors: Mapping[int, float] | None = None
    ) -> BoundReferences:
        return BoundReferences(self, unet, schedule, gamma, factors or {})


class BoundReferences:
    """Photos in one U-Net. Keeps what was read of them for as long as the time step needs nothing new."""

    def __init__(
        self,
        references: References,
        unet: UNet,
        schedule: Schedule,
        gamma: float,
        factors: Mapping[int, float],
    ) -> None:
        self.references, self.unet, self.schedule = references, unet, schedule
        self.gamma, self.factors = gamma, factors
        self._found: tuple[int, Changes] | None = None

    @torch.no_grad()
    def prepare(self, timestep: int) -> Changes:
        settings = self.references.settings
        timestep = 0 if settings.timestep == "zero" else timestep
        if self._found is None or self._found[0] != timestep:
            latents = self.references.latents
            shown = self._shared(latents, timestep)
            away = None
            if settings.cfg > 1:
                away = Changes(attention=self._shared(0 * latents, timestep)) if settings.zeros else Changes()
            changes = Changes(attention=shown, contrast=away, contrast_scale=settings.cfg)
            self._found = timestep, changes
        return self._found[1]

    def _shared(self, latents: Tensor, timestep: int) -> dict[str, list[SharedTokens]]:
        settings, t = self.references.settings, torch.full((len(latents),), timestep)
        seen = as_seen(latents, t.to(latents.device), settings.timestep, self.schedule)
        read = read_photos(self.unet, seen[:, None], timestep, self.references.context)
        weights = {
            name: self.gamma * factor_at(feature_scale(self.unet.config, name), self.factors) for name in read
        }
        return {
            name: [shared_tokens(tokens, weights[name], bool(settings.adain))]
            for name, tokens in read.items()
            if weights[name]
        }


def shared_tokens(read: Projections, weight: float = 1.0, adain: bool = False) -> SharedTokens:
    """What was read in one self-attention, for it to attend to; gradients flow through it."""
    match = (Moments.of(read.queries), Moments.of(read.keys)) if adain else None
    return SharedTokens(read.keys, read.values, weight, match)


@torch.no_grad()
def reference_latents(encode: Callable[[Tensor], Tensor], pictures: Tensor, side_by_side: bool) -> Tensor:
    """Latents [R, C, h, w] of pictures [R, 3, H, W].

    Args:
        encode: pictures [B, 3, H, W] in [0, 1] -> latents, each call as one piece.
        side_by_side: see `ReferenceSettings`.
    """
    if not side_by_side:
        return torch.cat([encode(picture) for picture in pictures.split(1)])
    wide = torch.cat([*pictures], dim=-1)[None]
    return torch.cat(encode(wide).chunk(len(pictures), dim=-1))
