"""A codebook in training: where its entries begin, and which of them are used.

Drawn at random, few entries are ever the nearest one and only these are trained. K-means of latents is a
better start, and what nothing uses any more can become what something does. Neither is in the published
recipes (taming-transformers, ReF-LDM). Of several processes the main one decides, by the latents that it has
seen itself: so their number matters a little.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from einops import rearrange
from torch import Tensor, nn

from ...models.codebook import Codebook, nearest
from ...training.processes import Processes

POOL = 8
"""Latent cells for each entry that are kept to make entries of."""
SHARE = 16
"""Steps that the pool is filled in."""
ROUNDS = 8
"""Of k-means."""
MEMORY = 0.99
"""Of how often an entry is used, for a step."""
UNUSED = 0.3
"""An entry of fewer uses, remembered that way, is one that nothing uses: its last was 120 steps ago."""
EVERY = 50
"""Steps between two looks for such entries."""


class CodebookCare(nn.Module):
    """Sees what a codebook is used for.

    Attributes:
        uses: how often each entry was the nearest, exponentially forgotten. cells: latents of late.
    """

    uses: Tensor
    cells: Tensor
    seen: Tensor

    def __init__(self, codebook: Codebook, quantize_from: int, renew: bool, seed: int) -> None:
        super().__init__()
        entries = cast(Tensor, codebook.embedding.weight)
        self._codebook = (codebook,)  # not a child: its parameters are another's
        self.quantize_from, self.renew, self.seed = quantize_from, renew, seed
        self.register_buffer("uses", torch.zeros(len(entries)))
        self.register_buffer("cells", torch.zeros(POOL * len(entries) if self.acts else 0, entries.shape[1]))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    @property
    def acts(self) -> bool:
        """Whether it ever changes entries."""
        return self.renew or self.quantize_from > 0

    @torch.no_grad()
    def see(self, z: Tensor, indices: Tensor | None) -> None:
        """Note the latents [B, C, h, w] of a step, and the entries that they were brought to [B, h, w]."""
        if indices is not None:
            used = indices.flatten().bincount(minlength=len(self.uses))
            self.uses.mul_(MEMORY).add_(used)
        if self.acts:
            cells = rearrange(z, "b c h w -> (b h w) c").float()
            count = min(len(cells), len(self.cells) // SHARE)
            chosen = cells[torch.arange(count, device=cells.device) * len(cells) // count]
            places = (int(self.seen) + torch.arange(count, device=cells.device)) % len(self.cells)
            self.cells[places] = chosen
            self.seen += count

    @torch.no_grad()
    def change(self, step: int, average: Tensor, processes: Processes) -> None:
        """After `step` steps: make entries of the latents that were seen, where it is time to.

        Args:
            average: of the entries, which is changed as they are.
        """
        entries = cast(Tensor, self._codebook[0].embedding.weight)
        pool = self.cells[: int(self.seen)]
        generator = torch.Generator().manual_seed(self.seed + step)
        if step == self.quantize_from and len(pool):
            made = k_means(pool, len(entries), generator)
            self.uses.fill_(1 / (1 - MEMORY))
            changed = torch.ones(len(entries), dtype=torch.bool, device=entries.device)
        elif self.renew and step > self.quantize_from and step % EVERY == 0 and len(pool):
            changed = processes.same(self.uses < UNUSED)
            made = pool[_drawn(len(pool), int(changed.sum()), generator)]
            self.uses[changed] = 1 / (1 - MEMORY)
        else:
            return
        made = processes.same(made.to(entries))
        entries[changed], average[changed] = made, made

    def figures(self) -> Mapping[str, float]:
        """`usage`, the share of the entries that are used, and `perplexity`, how many entries used equally
        often would tell as much."""
        share = self.uses / self.uses.sum().clamp_min(1e-12)
        return {
            "usage": float((self.uses >= UNUSED).float().mean()),
            "perplexity": float(torch.special.entr(share).sum().exp()),
        }


def _drawn(number: int, count: int, generator: torch.Generator) -> Tensor:
    """`count` of the first `number` numbers, none twice where there are enough."""
    rounds = -(-count // number)
    return torch.cat([torch.randperm(number, generator=generator) for _ in range(max(1, rounds))])[:count]


@torch.no_grad()
def k_means(cells: Tensor, count: int, generator: torch.Generator, rounds: int = ROUNDS) -> Tensor:
    """Means [count, C] of clusters of cells [N, C], by Lloyd's algorithm from drawn cells; a mean that loses
    all its cells stays."""
    means = cells[_drawn(len(cells), count, generator)].clone()
    for _ in range(rounds):
        index = nearest(cells, means)
        sums = torch.zeros_like(means).index_add_(0, index, cells)
        sizes = index.bincount(minlength=count)[:, None]
        means = torch.where(sizes > 0, sums / sizes.clamp_min(1), means)
    return means
