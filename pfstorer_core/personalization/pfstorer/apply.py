"""PFStorer at work: from a person's photos to what is added at the sites of the decoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from ...diffusion.schedule import Schedule
from ...models import UNet
from ...restorers.changes import Changes
from ..references import as_seen
from .block import Influence, Reference
from .reference import otsu_mask, reference_features, token_maps
from .sites import site_factor

if TYPE_CHECKING:
    from .adapter import IdentityAdapter

KEY_BUDGET = 2
"""Keys at a site as a multiple of one reference's tokens: more photos cost no more time."""


@torch.no_grad()
def read_references(
    unet: UNet,
    adapter: IdentityAdapter,
    timestep: int = 0,
    references: int = 0,
    schedule: Schedule | None = None,
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
        schedule: of the restorer; adapters whose photos are read "noised" need it.
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
    latents = as_seen(latents, t, header.reference_timestep, schedule)
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


class BoundBlocks:
    """The blocks of an adapter in one U-Net. Keeps what `read_references` gave for as long as the time step
    needs nothing new.

    Args:
        references: how many of the photos, see `read_references`.
    """

    def __init__(
        self,
        adapter: IdentityAdapter,
        unet: UNet,
        schedule: Schedule,
        gamma: float,
        factors: Mapping[int, float],
        references: int = 0,
    ) -> None:
        self.adapter, self.unet, self.schedule = adapter, unet, schedule
        self.gamma, self.factors, self.references = gamma, factors, references
        self._found: tuple[int, Changes] | None = None

    def prepare(self, timestep: int) -> Changes:
        timestep = 0 if self.adapter.header.reference_timestep == "zero" else timestep
        if self._found is None or self._found[0] != timestep:
            self._found = timestep, self._changes(timestep)
        return self._found[1]

    def strength(self, site: str) -> float:
        return self.gamma * self.factors.get(site_factor(self.unet, site), 1.0)

    def _changes(self, timestep: int) -> Changes:
        found = read_references(self.unet, self.adapter, timestep, self.references, self.schedule)
        sites = {
            site: [Influence(block, found[site], strength)]
            for site, block in self.adapter.blocks.items()
            if (strength := self.strength(site))
        }
        share = min(max(map(self.strength, self.adapter.blocks), default=self.gamma), 1.0)
        named = share > 0 and self.adapter.context.numel() > 0
        return Changes(sites, context=self.adapter.context if named else None, context_share=share)
