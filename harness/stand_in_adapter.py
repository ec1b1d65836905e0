"""Identity adapters that nobody has learned, where a test or a benchmark needs one."""

from __future__ import annotations

import torch
from torch import Tensor

from pfstorer_core.personalization.pfstorer.adapter import IdentityAdapter, PFStorerHeader
from pfstorer_core.personalization.pfstorer.sites import default_sites, new_blocks
from pfstorer_core.restorers.base import Restorer


def stand_in_adapter(
    restorer: Restorer, latents: Tensor, *, reference_timestep: str = "zero", gamma: float = 0.0
) -> IdentityAdapter:
    """Blocks of random weights at the default sites, with these references [R, C, h, w].

    Args:
        gamma: deviation of the blocks' gammas; at 0 it changes nothing.
    """
    sites = default_sites(restorer.unet)
    blocks = new_blocks(restorer.unet, sites, 0)
    for block in blocks.values():
        torch.nn.init.normal_(block.gamma, std=gamma)
    header = PFStorerHeader(
        base=restorer.fingerprint,
        sites=sites,
        heads=[block.attn1.heads for block in blocks.values()],
        prediction_type=restorer.header.prediction_type,
        prompt="a photo of *",
        person=0,
        end=1,
        init_word="person",
        null_lq="drop",
        reference_timestep=reference_timestep,
        run_key="stand-in",
        steps=0,
        losses=[],
        training={},
    )
    context = restorer.null_context
    return IdentityAdapter(header, blocks, torch.zeros(1, context.shape[-1]), context, latents)
