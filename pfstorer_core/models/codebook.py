"""The codebook of a VQ autoencoder."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .ops import Backend

COMMITMENT = 0.25
"""Weight of the codebook's term of the loss, see `Codebook.forward`."""
ROWS = 4096
"""Latent cells whose distances to all entries are in memory at a time."""


class Codebook(nn.Module):
    """The entries that a VQ autoencoder's latents are made of (VQ-VAE, arXiv:1711.00937)."""

    def __init__(self, entries: int, channels: int, backend: Backend) -> None:
        super().__init__()
        self.embedding = backend.embedding(entries, channels)
        nn.init.uniform_(self.embedding.weight, -1 / entries, 1 / entries)  # type: ignore[arg-type]

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """z [B, C, h, w] -> the nearest entries in its place, through which gradients pass straight to z;
        their numbers [B, h, w]; and the loss that draws both together.

        The loss is ``mean((sg(q) - z)²) + 0.25·mean((q - sg(z))²)``: the published code has the factor on the
        codebook's term.
        """
        entries = cast(Tensor, self.embedding.weight)
        cells = rearrange(z, "b c h w -> (b h w) c").float()
        lengths = entries.float().square().sum(1)
        # The cells' own lengths are the same for all entries.
        nearest = [torch.addmm(lengths, rows, entries.float().T, alpha=-2) for rows in cells.split(ROWS)]
        indices = torch.cat([distances.argmin(1) for distances in nearest])
        indices = indices.unflatten(0, (len(z), *z.shape[-2:]))
        q = rearrange(self.embedding(indices), "b h w c -> b c h w").to(z.dtype)
        loss = F.mse_loss(q.detach(), z) + COMMITMENT * F.mse_loss(q, z.detach())
        return z + (q - z).detach(), indices, loss
