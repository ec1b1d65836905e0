"""PFStorer's personalization block: what makes a restorer's features those of one person."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...models.ops import Backend
from ...models.packing import each
from ...models.transformer import CrossAttention, FeedForward


@dataclass(frozen=True)
class Reference:
    """What a block attends to: keys and values of a reference's tokens, computed once for many queries.

    Attributes:
        key, value: [B, M, C], or [1, M, C] for all rows of a batch.
        mask: the keys that may be attended to, bool [B, M]; None for all.
    """

    key: Tensor
    value: Tensor
    mask: Tensor | None = None


class PersonalizationBlock(nn.Module):
    """ViCo's transformer block TB on a site's tokens, gated by PFStorer's learnable γ.

    Self-attention, attention to the reference and feed-forward, each with a residual
    (arXiv:2306.00971, section 3.2). γ starts at 0, where the block does nothing.
    """

    def __init__(self, dim: int, heads: int, backend: Backend | None = None) -> None:
        super().__init__()
        backend = backend or Backend()
        ops, placement = backend.ops, backend.placement
        self.norm1, self.norm2, self.norm3 = (backend.layer_norm(dim) for _ in range(3))
        self.attn1, self.attn2 = (
            CrossAttention(dim, dim, heads, dim // heads, backend.attention, ops, **placement)
            for _ in range(2)
        )
        self.ff = FeedForward(dim, ops, **placement)
        self.gamma = nn.Parameter(torch.zeros(dim, **placement))

    def read(self, tokens: Tensor, mask: Tensor | None = None) -> Reference:
        """Tokens F_ref of a reference [B, M, C], and the keys that count, as `forward` takes them."""
        key, value = each((self.attn2.to_k, self.attn2.to_v), tokens)
        return Reference(key, value, mask)

    def change(self, tokens: Tensor, reference: Reference) -> Tensor:
        """PersonalizationBlock(F, F_ref) = TB(F, F_ref) - F of tokens F [B, N, C]."""
        attended = self.attn1(self.norm1(tokens))
        x = tokens + attended
        read = self.attn2.attend(self.norm2(x), reference.key, reference.value, reference.mask)
        return attended + read + self.ff(self.norm3(x + read))

    def forward(self, tokens: Tensor, reference: Reference) -> Tensor:
        """γ ⊙ PersonalizationBlock(F, F_ref), the second term of PFStorer's eq. 3: [B, N, C]."""
        return self.gamma * self.change(tokens, reference)


@dataclass(frozen=True)
class Influence:
    """γ ⊙ PersonalizationBlock(F, F_ref) of one identity at one site (PFStorer eq. 3); `strength` is the
    user's gamma."""

    block: PersonalizationBlock
    reference: Reference
    strength: float = 1.0

    def __call__(self, tokens: Tensor) -> Tensor:
        change = self.block(tokens, self.reference)
        return change if self.strength == 1 else self.strength * change
