"""What a restorer's self-attentions see in photos: each goes once through the same U-Net (CacheKV)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ...models import BlockHooks, UNet
from ...models.conditioning import Concatenation


class Projections(NamedTuple):
    """Of one self-attention, of the tokens of all photos one after the other: [B, R · N, C] each."""

    queries: Tensor
    keys: Tensor
    values: Tensor


def read_photos(unet: UNet, latents: Tensor, timestep: int, context: Tensor | None) -> dict[str, Projections]:
    """Queries, keys and values of photos in every self-attention, by its name (see `BlockHooks`).

    Args:
        latents: of R photos for each row of a batch, or for all rows (B = 1): [R, B, C, h, w], as the U-Net
            gets them.
        timestep: 0…999.
        context: of the empty prompt [1, L, D]; None where the U-Net reads no text.
    """
    found: dict[str, list[Projections]] = {}

    def keep(name: str, q: Tensor, k: Tensor, v: Tensor, attend: Callable[..., Tensor]) -> Tensor:
        found.setdefault(name, []).append(Projections(q, k, v))
        return attend(q, k, v)

    hooks, rows = BlockHooks(self_attention=keep), latents.shape[1]
    t = torch.full((rows,), timestep, device=latents.device)
    context = None if context is None else context.expand(rows, -1, -1)
    for photo in latents:  # what is read at once does not grow with the photos
        unet(photo, t, context, condition=condition_of(unet, photo), hooks=hooks)
    return {
        name: Projections(*(torch.cat(parts, dim=1) for parts in zip(*photos, strict=True)))
        for name, photos in found.items()
    }


def condition_of(unet: UNet, latents: Tensor) -> Tensor | None:
    """What a U-Net gets for the bad picture of photos [B, C, h, w]: nothing, which are zeros in further
    channels (ReF-LDM); a network that reads it gets the photo, which is restored as itself."""
    return None if isinstance(unet.conditioner, Concatenation) else latents
