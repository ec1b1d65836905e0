"""PFStorer's adapter: blocks for some layers of the decoder, a word, and photos to attend to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ...checkpoints.errors import StateDict
from ...diffusion.schedule import Schedule
from ...models import Backend, UNet
from ..base import Adapter, context_faults
from .apply import BoundBlocks
from .block import PersonalizationBlock
from .files import block_tensors, read_blocks
from .header import LATENTS, PFStorerHeader, check_tensors
from .sites import site_faults


@dataclass(frozen=True, eq=False)
class IdentityAdapter(Adapter):
    """A person, as PFStorer learns them.

    Attributes:
        blocks: of each site.
        token: S* before the text tower [1, D].
        context: of the header's prompt, after it [1, L, D].
        references: scaled latents of the photos [R, C, h, w].
    """

    kinds: ClassVar[frozenset[str]] = frozenset({"sites", "context"})

    header: PFStorerHeader  # pyright: ignore[reportIncompatibleVariableOverride] - it is frozen
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

    def check_fit(self, unet: UNet, image_size: int, name: str = "this restorer") -> None:
        """See `Adapter.check_fit`; no reference is larger than the latent of a picture of that size."""
        faults = site_faults(unet, self.blocks, name)
        channels, *sides = self.references.shape[1:]
        if channels != unet.config.out_channels or max(sides) > image_size:
            faults.append(
                f"its references are {list(self.references.shape)}, but {name} has latents of "
                f"{unet.config.out_channels} channels, and pictures of {image_size} pixels"
            )
        faults += context_faults(self.context, unet, name)
        if faults:
            raise ValueError(
                f"This identity adapter does not fit: {faults[0]}. Load the restorer that it was trained "
                "with, or train it anew."
            )

    def bind(
        self, unet: UNet, schedule: Schedule, gamma: float = 1.0, factors: Mapping[int, float] | None = None
    ) -> BoundBlocks:
        return BoundBlocks(self, unet, schedule, gamma, factors or {})

    def tensors(self) -> StateDict:
        latents = (self.token, self.context, self.references)
        return {**dict(zip(LATENTS, latents, strict=True)), **block_tensors(self.blocks)}


def load(tensors: StateDict, metadata: Mapping[str, str], name: str) -> IdentityAdapter:
    """Of the file of that name, in fp32 on the CPU; raises CheckpointError where it is damaged."""
    header = PFStorerHeader.from_file(metadata, name)
    check_tensors(header, tensors, f"The identity adapter {name}")
    blocks = read_blocks(tensors, header.sites, header.heads)
    token, context, references = (tensors[name].float().clone() for name in LATENTS)
    return IdentityAdapter(header, blocks, token, context, references)
