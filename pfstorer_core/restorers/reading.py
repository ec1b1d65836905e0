"""What a restorer's self-attentions see in photos: each goes once through the same U-Net (CacheKV)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor

from ..models import BlockHooks, UNet
from ..models.conditioning import Concatenation
from ..models.layers import SelfAttention
from .shared_attention import SharedTokens, joined


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


def looking_at(unet: UNet, latents: Tensor, rows: Tensor) -> SelfAttention:
    """The hook by which rows of a batch attend to photos of their own, through which gradients flow.

    Args:
        latents: [B, R, C, h, w], as the U-Net, which reads no text, gets them.
        rows: bool [B], those that look.
    """
    count = len(latents)
    read = read_photos(unet, rearrange(latents, "b r c h w -> 1 (b r) c h w"), 0, None)  # all at once
    tokens = {
        name: [rearrange(each, "(b r) n c -> b (r n) c", b=count) for each in (found.keys, found.values)]
        for name, found in read.items()
    }
    seen = rows[:, None, None, None]
    return joined({name: [SharedTokens(key, value, rows=seen)] for name, (key, value) in tokens.items()})


def condition_of(unet: UNet, latents: Tensor) -> Tensor | None:
    """What a U-Net gets for the bad picture of photos [B, C, h, w]: nothing, which are zeros in further
    channels (ReF-LDM); a network that reads it gets the photo, which is restored as itself."""
    return None if isinstance(unet.conditioner, Concatenation) else latents
