"""The reference stream: what the frozen U-Net sees in a clean photo of the person (PFStorer figure 3).

ViCo's way (arXiv:2306.00971): the photo's latent goes through the same frozen layers, under the same
prompt. Its tokens at the sites become keys and values, and the attention of those tokens to the word S*
tells which of them show the person.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from ...models import BlockHooks, UNet
from ...models.layers import Site
from .sites import block_number, text_attention_of

THRESHOLDS = 9
"""Candidate thresholds of Otsu's method: 0.1, 0.2, … 0.9."""


@dataclass(frozen=True)
class SiteFeatures:
    """A reference at one site.

    Attributes:
        tokens: F_ref [B, M, C]: after the frozen feed-forward and before `proj_out`, or the pixels
            of a residual block's result.
        queries: of those tokens to the text [B, M, C]; None at a residual block, which reads no text.
    """

    tokens: Tensor
    queries: Tensor | None


def reference_features(
    unet: UNet, latents: Tensor, timesteps: Tensor, context: Tensor, sites: Sequence[str]
) -> dict[str, SiteFeatures]:
    """Send references through the plain Stable Diffusion in `unet`, as far as the last of the sites.

    Args:
        latents: scaled latents of the photos [B, C, H, W]. timesteps: [B].
        context: of a prompt with S* [B, L, D].
        sites: names of layers of the decoder, such as "output_blocks.4.1", in their order.
    """
    tokens: dict[str, Tensor] = {}
    queries: dict[str, Tensor] = {}

    def keep(site: str) -> Site:
        def note(features: Tensor) -> Tensor:
            tokens[site] = features
            return features

        return note

    hooks = BlockHooks(
        queries={site: partial(queries.__setitem__, site) for site in sites},
        until=f"output_blocks.{max(map(block_number, sites))}",
    )
    unet(latents, timesteps, context, sites={site: keep(site) for site in sites}, hooks=hooks)
    return {site: SiteFeatures(tokens[site], queries.get(site)) for site in sites}


def token_maps(
    unet: UNet, site: str, features: SiteFeatures, context: Tensor, *indices: Tensor
) -> tuple[Tensor, ...]:
    """How much the tokens of a reference attend to words, mean over heads: [B, M] for each of `indices`. At a
    residual block all attend to all words alike.

    Args:
        context: [B, L, D], of which gradients are wanted in training.
        indices: positions of a word in each row's prompt, integers [B].
    """
    if features.queries is None:
        return tuple(features.tokens.new_ones(features.tokens.shape[:2]) for _ in indices)
    attn = text_attention_of(unet, site)
    q, k = (x.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for x in (features.queries, attn.to_k(context)))
    probabilities = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).float().softmax(-1).mean(1)
    return tuple(columns_at(probabilities, index) for index in indices)


def columns_at(attention: Tensor, index: Tensor) -> Tensor:
    """Column `index` [B] of each row of [B, M, L]: [B, M]."""
    return attention.gather(-1, index[:, None, None].expand(-1, attention.shape[1], -1)).squeeze(-1)


def otsu_mask(maps: Tensor) -> Tensor:
    """Which tokens show what a map attends to: Otsu's threshold of each row, scaled to 0 … 1.

    Args:
        maps: [B, M].
    Returns:
        bool [B, M]; all True where a row is constant.
    """
    maps = maps.detach().float()
    low, high = maps.amin(-1, keepdim=True), maps.amax(-1, keepdim=True)
    scaled = (maps - low) / (high - low)
    thresholds = torch.arange(1, THRESHOLDS + 1, device=maps.device) / (THRESHOLDS + 1)
    above = scaled[:, None] >= thresholds[:, None]
    share = above.float().mean(-1)
    inside = (scaled[:, None] * above).sum(-1) / above.sum(-1)
    outside = (scaled[:, None] * ~above).sum(-1) / (~above).sum(-1)
    score = (share * (1 - share) * (inside - outside) ** 2).nan_to_num(-1.0)
    best = thresholds[score.argmax(-1)]
    return (scaled >= best[:, None]) | (high <= low)


def attention_loss(person: Tensor, end: Tensor) -> Tensor:
    """L_Pers at one site: S* is to be seen where the end-of-text token, which reads the whole prompt, is.

    Args:
        person, end: maps [B, M] of S* and of the end-of-text token, which is a constant target.
    """
    target = (end / end.amax(-1, keepdim=True)).detach()
    return F.mse_loss(person / person.amax(-1, keepdim=True), target)
