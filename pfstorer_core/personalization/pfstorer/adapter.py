"""The identity adapter: what a restorer has learned of one person, and its file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from ...checkpoints.layouts import CheckpointError
from ...checkpoints.reading import DamagedFile
from ...checkpoints.tensors import load_exactly, read_checkpoint, write_safetensors
from ...models import Backend, UNet
from ...models.blocks import Upsample
from ...models.unet import Block
from ...restorers.fingerprint import same_base
from .block import PersonalizationBlock
from .header import FORMAT, LATENTS, AdapterHeader, check_tensors
from .reference import text_attention_of


@dataclass(frozen=True, eq=False)
class IdentityAdapter:
    """An identity.

    Attributes:
        blocks: of each site.
        token: S* before the text tower [1, D].
        context: of the header's prompt, after it [1, L, D].
        references: scaled latents of the photos [R, C, h, w].
    """

    header: AdapterHeader
    blocks: dict[str, PersonalizationBlock]
    token: Tensor
    context: Tensor
    references: Tensor

    def to(self, device: torch.device | str, dtype: torch.dtype) -> IdentityAdapter:
        """A copy elsewhere, or in another number format."""
        blocks = {}
        for (site, block), heads in zip(self.blocks.items(), self.header.heads, strict=True):
            blocks[site] = PersonalizationBlock(len(block.gamma), heads, Backend(device="meta"))
            weights = {key: value.to(device, dtype) for key, value in block.state_dict().items()}
            blocks[site].load_state_dict(weights, assign=True)
            blocks[site].eval().requires_grad_(False)
        token, context, references = (
            t.to(device, dtype) for t in (self.token, self.context, self.references)
        )
        return IdentityAdapter(self.header, blocks, token, context, references)

    def check_base(self, base: str, name: str = "this restorer") -> None:
        """Raise ValueError where the adapter was trained on another base than that of the fingerprint."""
        if not same_base(self.header.base, base):
            raise ValueError(
                f"This identity adapter was trained on another base: on {self.header.base}, but {name} is "
                f"{base}. Load the restorer that it was trained with, or train it anew."
            )

    def check_fit(self, unet: UNet, image_size: int, name: str = "this restorer") -> None:
        """Raise ValueError, before any work, where the adapter's parts do not fit the U-Net.

        Args:
            image_size: of the restorer's header: no reference is larger than such a picture's latent.
        """
        known = decoder_sites(unet)
        faults = [f"{name} has no site {site}" for site in self.blocks if site not in known]
        faults += [
            f"{site} is {len(block.gamma)} channels wide, but {width} in {name}"
            for site, block in self.blocks.items()
            if site in known and len(block.gamma) != (width := _site_size(unet, site)[0])
        ]
        channels, *sides = self.references.shape[1:]
        if channels != unet.config.in_channels or max(sides) > image_size:
            faults.append(
                f"its references are {list(self.references.shape)}, but {name} has latents of "
                f"{unet.config.in_channels} channels, and pictures of {image_size} pixels"
            )
        if self.context.shape[-1] != unet.config.context_dim:
            faults.append(
                f"its context is {self.context.shape[-1]} wide, but {unet.config.context_dim} in {name}"
            )
        if faults:
            raise ValueError(
                f"This identity adapter does not fit: {faults[0]}. Load the restorer that it was trained "
                "with, or train it anew."
            )

    def save(self, path: Path | str) -> None:
        """Write it in fp16; see `write_safetensors` for the errors."""
        tensors = {
            "token.embedding": self.token,
            "context.main": self.context,
            "refs.latents": self.references,
        }
        for site, block in self.blocks.items():
            tensors |= {f"sites.{site}.{key}": value for key, value in block.state_dict().items()}
        write_safetensors(path, tensors, self.header.to_metadata(), torch.float16)


def load_identity_adapter(path: Path | str) -> IdentityAdapter:
    """Read an adapter, in fp32 on the CPU.

    Raises:
        FileNotFoundError, PermissionError: not readable.
        CheckpointError: a file of another kind, or damaged; the message says which.
    """
    path = Path(path)
    try:
        tensors, metadata = read_checkpoint(path)
    except DamagedFile as error:
        raise CheckpointError(f"{error} Take it from a copy, or learn the person anew.") from error
    header = AdapterHeader.from_file(metadata, path.name)
    check_tensors(header, tensors, f"The identity adapter {path.name}")
    blocks = {}
    for site, heads in zip(header.sites, header.heads, strict=True):
        prefix = f"sites.{site}."
        weights = {key[len(prefix) :]: value for key, value in tensors.items() if key.startswith(prefix)}
        blocks[site] = PersonalizationBlock(weights["gamma"].numel(), heads, Backend(device="meta"))
        load_exactly(blocks[site], weights, f"block {site}", placement={"dtype": torch.float32})
        blocks[site].eval().requires_grad_(False)
    token, context, references = (tensors[name].float().clone() for name in LATENTS)
    return IdentityAdapter(header, blocks, token, context, references)


def is_adapter(path: Path | str) -> bool:
    """Whether a file says that it is one; raises as `read_checkpoint` does."""
    return read_checkpoint(path)[1].get("format") == FORMAT


def default_sites(unet: UNet) -> list[str]:
    """ViCo's choice, every second transformer of the decoder: in Stable Diffusion output_blocks.4.1, .6.1,
    .8.1 and .10.1. Where the finest level has no transformers, as in the embedded restorer, the last one and
    all residual blocks after it: a face of few pixels is drawn there (docs/personalization.md)."""
    sites = decoder_sites(unet)
    reading = [number for number, site in enumerate(sites) if text_attention_of(unet, site)]
    finest_reads = reading[-1] == len(sites) - 1
    return sites[reading[0] + 1 :: 2] if finest_reads else sites[reading[-1] :]


def decoder_sites(unet: UNet) -> list[str]:
    """Where an identity can act: each decoder block's transformer, or its residual block if it has none."""
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
            for width, heads in [_site_size(unet, site)]
        }


def _site_size(unet: UNet, site: str) -> tuple[int, int]:
    if attn := text_attention_of(unet, site):
        return attn.to_q.in_features, attn.heads
    width: Any = unet.get_submodule(site).out_channels
    return width, max(1, width // unet.config.num_head_channels)
