"""An identity adapter of the embedded restorer that changes nothing, where a workflow needs one to choose."""

from __future__ import annotations

from pathlib import Path

import torch

from pfstorer_core.adapter import AdapterHeader, IdentityAdapter, default_sites, new_blocks
from pfstorer_core.restorer import load_restorer

from . import ROOT

RESTORER = ROOT / "assets" / "pfstorer_tiny.safetensors"


def write_stand_in_adapter(path: Path) -> None:
    """Write it; its blocks have a gamma of zero."""
    restorer = load_restorer(RESTORER)
    sites = default_sites(restorer.unet)
    blocks = new_blocks(restorer.unet, sites, 0)
    header = AdapterHeader(
        base=restorer.fingerprint,
        sites=sites,
        heads=[block.attn1.heads for block in blocks.values()],
        prediction_type=restorer.header.prediction_type,
        prompt="a photo of *",
        person=4,
        end=5,
        init_word="person",
        null_lq="drop",
        reference_timestep="zero",
        run_key="stand-in",
        steps=0,
        losses=[],
        training={},
    )
    channels, side = restorer.unet.config.in_channels, restorer.header.image_size
    latents = torch.zeros(1, channels, *(2 * [side // restorer.autoencoder.config.downscale]))
    context = restorer.null_context
    path.parent.mkdir(parents=True, exist_ok=True)
    IdentityAdapter(header, blocks, torch.zeros(1, context.shape[-1]), context, latents).save(path)
