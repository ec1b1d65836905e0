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
ROWS = 256
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
        indices = nearest(rearrange(z, "b c h w -> (b h w) c"), cast(Tensor, self.embedding.weight))
        indices = indices.unflatten(0, (len(z), *z.shape[-2:]))
        q = rearrange(self.embedding(indices), "b h w c -> b c h w").to(z.dtype)
        loss = F.mse_loss(q.detach(), z) + COMMITMENT * F.mse_loss(q, z.detach())
        return z + (q - z).detach(), indices, loss


@torch.no_grad()
def nearest(cells: Tensor, entries: Tensor) -> Tensor:
    """For each of the cells [N, C] the number of the nearest of the entries [n, C]: int64 [N]."""
    with torch.autocast(cells.device.type, enabled=False):  # distances are small differences
        entries = entries.float()
        lengths = entries.square().sum(1)
        # The cells' own lengths are the same for all entries.
        return torch.cat(
            [torch.addmm(lengths, rows, entries.T, alpha=-2).argmin(1) for rows in cells.float().split(ROWS)]
        )
