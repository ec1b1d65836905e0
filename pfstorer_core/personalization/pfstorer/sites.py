"""Sites: the layers of the decoder at which a person can be learned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch

from ...models import UNet
from ...models.blocks import Upsample
from ...models.transformer import SpatialTransformer
from ...models.unet import Block
from .block import PersonalizationBlock


def default_sites(unet: UNet) -> list[str]:
    """ViCo's choice, every second transformer of the decoder: in Stable Diffusion output_blocks.4.1, .6.1,
    .8.1 and .10.1. Where the finest level has no transformers, as in the embedded restorer, the last one and
    all residual blocks after it: a face of few pixels is drawn there (docs/personalization.md). Of a U-Net
    that reads no text all but those of the finest features, which are too many to attend to."""
    sites = decoder_sites(unet)
    reading = [number for number, site in enumerate(sites) if text_attention_of(unet, site)]
    if not reading:
        return [site for site in sites if site_factor(unet, site) > 1]
    finest_reads = reading[-1] == len(sites) - 1
    return sites[reading[0] + 1 :: 2] if finest_reads else sites[reading[-1] :]


def decoder_sites(unet: UNet) -> list[str]:
    """Where an identity can act: each decoder block's attention, or its residual block if it has none."""
    blocks = (cast(Block, block) for block in unet.output_blocks)
    return [
        f"{block.name}.{max(k for k, layer in enumerate(block) if not isinstance(layer, Upsample))}"
        for block in blocks
    ]


def new_blocks(unet: UNet, sites: Sequence[str], seed: int) -> dict[str, PersonalizationBlock]:
    """Blocks that do nothing yet, for these sites.

    Raises:
        ValueError: a site that the U-Net's decoder does not have.
    """
    known = decoder_sites(unet)
    strange = [site for site in sites if site not in known]
    if strange or not sites:
        raise ValueError(
            f"An identity cannot act at {', '.join(strange) or 'no site'}: choose from {', '.join(known)}."
        )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return {
            site: PersonalizationBlock(width, heads)
            for site in known
            if site in sites
            for width, heads in [site_size(unet, site)]
        }


def site_size(unet: UNet, site: str) -> tuple[int, int]:
    if attn := text_attention_of(unet, site):
        return attn.to_q.in_features, attn.heads
    width: Any = unet.get_submodule(site).out_channels
    return width, max(1, width // unet.config.num_head_channels)


def site_faults(unet: UNet, blocks: Mapping[str, PersonalizationBlock], name: str) -> list[str]:
    """Why blocks of sites do not fit a U-Net, of a restorer that errors call by that name."""
    known = decoder_sites(unet)
    return [
        *(f"{name} has no site {site}" for site in blocks if site not in known),
        *(
            f"{site} is {len(block.gamma)} channels wide, but {width} in {name}"
            for site, block in blocks.items()
            if site in known and len(block.gamma) != (width := site_size(unet, site)[0])
        ),
    ]


def site_factor(unet: UNet, site: str) -> int:
    """How much smaller the features of a site are than the latent: 1, 2, 4, …"""
    levels, blocks = len(unet.config.channel_mult), unet.config.num_res_blocks + 1
    return 2 ** (levels - 1 - block_number(site) // blocks)


def block_number(site: str) -> int:
    """Of a site's block in the decoder: 4 of "output_blocks.4.1"."""
    return int(site.split(".")[1])


def text_attention_of(unet: UNet, site: str) -> Any:
    """The frozen attention to the text at a site; None at a residual block, or where no text is read."""
    layer: Any = unet.get_submodule(site)
    return layer.transformer_blocks[0].attn2 if isinstance(layer, SpatialTransformer) else None
