"""Identities at work: from adapters to what the U-Net does at its sites."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...diffusion.schedule import Schedule
from ...models import UNet
from .adapter import IdentityAdapter
from .block import Influence, Personalization, Reference
from .reference import block_number, otsu_mask, reference_features, token_maps

KEY_BUDGET = 2
"""Keys at a site as a multiple of one reference's tokens: more photos cost no more time."""

MAX_GAMMA = 2.0

ROUNDING = 1e-6
"""What complementary areas may fail to add up to 1 by."""


@dataclass(frozen=True, eq=False)
class Identity:
    """An identity to restore.

    Attributes:
        gamma: strength, 0…2: multiplies every learned γ. 0 is the base restorer, bit for bit.
        area: where the identity acts [1, 1, H, W] in [0, 1], of any size; None for the whole picture.
        factors: further factors on gamma by how much smaller a site's features are than the latent (1, 2, 4).
    """

    adapter: IdentityAdapter
    gamma: float = 1.0
    area: Tensor | None = None
    factors: Mapping[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 <= self.gamma <= MAX_GAMMA:  # NaN is in no range
            raise ValueError(f"gamma must be from 0 to {MAX_GAMMA:g}, got {self.gamma}.")

    def strength(self, unet: UNet, site: str) -> float:
        return self.gamma * self.factors.get(site_factor(unet, site), 1.0)


def site_factor(unet: UNet, site: str) -> int:
    """How much smaller the features of a site are than the latent: 1, 2, 4, …"""
    levels, blocks = len(unet.config.channel_mult), unet.config.num_res_blocks + 1
    return 2 ** (levels - 1 - block_number(site) // blocks)


@torch.no_grad()
def read_references(
    unet: UNet, adapter: IdentityAdapter, timestep: int = 0, references: int = 0
) -> dict[str, Reference]:
    """Keys and values of an adapter's photos at each site, for all rows of a batch; of one without photos a
    key that says nothing.

    What a photo's mask leaves out is not among them; of several photos together the best-scoring
    `KEY_BUDGET` times one photo's tokens are kept.

    Args:
        adapter: on the device and in the number format of the U-Net.
        timestep: 0…999, for adapters whose `reference_timestep` is not "zero".
        references: how many of the photos; 0 for all with "zero", for one otherwise, where they are read anew
            in every step.
    """
    header = adapter.header
    if not len(adapter.references):
        return {
            site: block.read(block.gamma.new_zeros(1, 1, len(block.gamma)))
            for site, block in adapter.blocks.items()
        }
    count = references or (len(adapter.references) if header.reference_timestep == "zero" else 1)
    latents = adapter.references[:count]
    t = torch.full((len(latents),), 0 if header.reference_timestep == "zero" else timestep)
    t = t.to(latents.device)
    latents = as_seen(latents, t, header.reference_timestep)
    context = adapter.context.expand(len(latents), -1, -1)
    features = reference_features(unet, latents, t, context, header.sites)
    person = torch.full_like(t, header.person)
    found = {}
    for site, block in adapter.blocks.items():
        tokens = features[site].tokens
        (scores,) = token_maps(unet, site, features[site], context, person)
        kept = otsu_mask(scores).flatten()
        best = scores.flatten().masked_fill(~kept, -1.0).argsort(descending=True, stable=True)
        best = best[: min(int(kept.sum()), KEY_BUDGET * tokens.shape[1])].sort().values
        found[site] = block.read(tokens.flatten(0, 1)[best][None])
    return found


def as_seen(latents: Tensor, t: Tensor, reference_timestep: str) -> Tensor:
    """Reference latents [R, C, h, w] as the U-Net gets them: clean, or noised to their time step, always by
    the same noise."""
    if reference_timestep != "noised":
        return latents
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
    schedule = Schedule.scaled_linear(dtype=torch.float32)
    return schedule.q_sample(latents.float(), t, noise.to(latents.device)).to(latents.dtype)


class References:
    """Keeps what `read_references` gave for an identity, as long as the time step needs nothing new."""

    def __init__(self, unet: UNet, adapter: IdentityAdapter, references: int = 0) -> None:
        self.unet, self.adapter, self.references = unet, adapter, references
        self._found: tuple[int, dict[str, Reference]] | None = None

    def at(self, timestep: int) -> dict[str, Reference]:
        timestep = 0 if self.adapter.header.reference_timestep == "zero" else timestep
        if self._found is None or self._found[0] != timestep:
            self._found = timestep, read_references(self.unet, self.adapter, timestep, self.references)
        return self._found[1]


def personalization(
    unet: UNet, identities: Sequence[Identity], found: Sequence[Mapping[str, Reference]]
) -> dict[str, Personalization]:
    """What `UNet.forward` takes: at each site the sum of the identities' influences, wherever they act.

    Args:
        found: what `read_references` gave for each identity.
    """
    sites: dict[str, list[Influence]] = {}
    for identity, references in zip(identities, found, strict=True):
        for site, block in identity.adapter.blocks.items():
            if strength := identity.strength(unet, site):
                sites.setdefault(site, []).append(Influence(block, references[site], strength))
    return {site: Personalization(influences) for site, influences in sites.items()}


def each_in_its_area(predict: Callable[[Sequence[int]], Tensor], areas: Sequence[Tensor | None]) -> Tensor:
    """The prediction for identities of which some act in a part of the picture only.

    What acts inside the network is seen everywhere, by attention and normalization. So each bounded identity
    gets an evaluation of its own, of which its area counts, and what is nobody's area is the base's; where
    areas overlap, the changes add up. An evaluation that counts nowhere is left out.

    Args:
        predict: evaluates the network with the identities of these numbers.
        areas: of each identity [B, 1, H, W] in [0, 1], as large as the prediction; None for everywhere.
    """
    everywhere = [k for k, area in enumerate(areas) if area is None]
    bounded = {k: area for k, area in enumerate(areas) if area is not None}
    if not bounded:
        return predict(everywhere)
    shares = [(everywhere, 1 - torch.stack([*bounded.values()]).sum(0))]
    shares += [([*everywhere, k], area) for k, area in bounded.items()]
    counting = [(who, share) for who, share in shares if (share.abs() > ROUNDING).any()]
    return sum((share * predict(who) for who, share in counting), torch.zeros(()))


def named(null_context: Tensor, identities: Sequence[Identity]) -> Tensor:
    """The context in place of the empty prompt's: one identity that acts everywhere is called by its name, as
    far as its gamma goes; with several, or in a part of the picture, nobody is."""
    if len(identities) != 1 or identities[0].area is not None or not identities[0].gamma:
        return null_context
    own, null = of_one_length(identities[0].adapter.context.to(null_context), null_context)
    return torch.lerp(null, own.expand_as(null), min(identities[0].gamma, 1.0))


def of_one_length(*contexts: Tensor) -> list[Tensor]:
    """Text contexts [B, L, D], repeated until all are as long: what is there equally often is attended to as
    if it were there once."""
    length = math.lcm(*(context.shape[1] for context in contexts))
    return [context.repeat(1, length // context.shape[1], 1) for context in contexts]
