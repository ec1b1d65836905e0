"""Stable Diffusion 2.1's spatial transformer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .conditioning import for_rows
from .layers import AroundAttention, Layer, LayerInputs, attn1_name
from .ops import Attention, Backend
from .packing import each

Reader = Callable[[Tensor], object]
"""Is told the queries [B, N, C] of an attention."""


class GEGLU(nn.Module):
    """``value · gelu(gate)`` with the exact gelu."""

    def __init__(self, inputs: int, outputs: int, ops: Any, **placement: Any) -> None:
        super().__init__()
        self.proj = ops.Linear(inputs, 2 * outputs, **placement)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.proj(x).chunk(2, dim=-1)
        return value * F.gelu(gate)


class FeedForward(nn.Module):
    def __init__(self, dim: int, ops: Any, **placement: Any) -> None:
        super().__init__()
        self.net = nn.Sequential(
            GEGLU(dim, 4 * dim, ops, **placement),
            nn.Identity(),
            ops.Linear(4 * dim, dim, **placement),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class CrossAttention(nn.Module):
    """Attention of x to a context, or to itself where there is none."""

    def __init__(
        self,
        dim: int,
        context_dim: int,
        heads: int,
        head_dim: int,
        attention: Attention,
        ops: Any,
        **placement: Any,
    ) -> None:
        super().__init__()
        inner = heads * head_dim
        self.heads = heads
        self.attention = attention
        self.to_q = ops.Linear(dim, inner, bias=False, **placement)
        self.to_k = ops.Linear(context_dim, inner, bias=False, **placement)
        self.to_v = ops.Linear(context_dim, inner, bias=False, **placement)
        self.to_out = nn.Sequential(ops.Linear(inner, dim, **placement), nn.Identity())

    def joint_layers(self) -> list[Sequence[nn.Module]]:
        alike = self.to_q.weight.shape[1] == self.to_k.weight.shape[1]
        return [((self.to_q,) if alike else ()) + (self.to_k, self.to_v)]

    def forward(
        self,
        x: Tensor,
        context: Tensor | None = None,
        read: Reader | None = None,
        around: AroundAttention | None = None,
    ) -> Tensor:
        """`around`: runs the attention, instead of itself."""
        if context is None:
            query, key, value = each((self.to_q, self.to_k, self.to_v), x)
        else:
            query, (key, value) = self.to_q(x), each((self.to_k, self.to_v), context)
        if read:
            read(query)
        attend = partial(self.attention, heads=self.heads)
        return self.to_out(around(query, key, value, attend) if around else attend(query, key, value))

    def attend(self, x: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        """To keys and values [b, M, C] that are at hand; mask: bool [b, M], see `Attention`. b divides B:
        those of row i are for the rows i, i + b, i + 2b, …"""
        query = self.to_q(x)
        options = {} if mask is None else {"mask": for_rows(mask, x)}
        return self.to_out(self.attention(query, for_rows(key, x), for_rows(value, x), self.heads, **options))


class BasicTransformerBlock(nn.Module):
    """Self-attention, text cross-attention and feed-forward, each with a residual.

    Has the constructor of ComfyUI's class of this name, so that either can stand in the U-Net.
    """

    def __init__(
        self,
        dim: int,
        n_heads: int,
        d_head: int,
        *,
        context_dim: int,
        attention: Attention,
        operations: Any,
        **placement: Any,
    ) -> None:
        super().__init__()
        self.norm1, self.norm2, self.norm3 = (operations.LayerNorm(dim, **placement) for _ in range(3))
        self.attn1 = CrossAttention(dim, dim, n_heads, d_head, attention, operations, **placement)
        self.attn2 = CrossAttention(dim, context_dim, n_heads, d_head, attention, operations, **placement)
        self.ff = FeedForward(dim, operations, **placement)

    def forward(
        self,
        x: Tensor,
        context: Tensor | None = None,
        read: Reader | None = None,
        around: AroundAttention | None = None,
    ) -> Tensor:
        """x [B, N, dim], context [B, M, context_dim] -> [B, N, dim].

        Args:
            read: of the attention to the text. around: of the self-attention, see `CrossAttention`.
        """
        x = x + self.attn1(self.norm1(x), around=around)
        x = x + self.attn2(self.norm2(x), context, read)
        return x + self.ff(self.norm3(x))


class SpatialTransformer(Layer):
    """Transformer over the pixels of a feature map, with linear projections around it (SD 2.x)."""

    def __init__(self, channels: int, head_dim: int, context_dim: int, depth: int, backend: Backend) -> None:
        super().__init__()
        self.norm = backend.group_norm(channels, eps=1e-6)
        self.proj_in = backend.linear(channels, channels)
        self.transformer_blocks = nn.ModuleList(
            _transformer_block(channels, head_dim, context_dim, backend) for _ in range(depth)
        )
        self.proj_out = backend.linear(channels, channels)

    def forward(self, h: Tensor, given: LayerInputs, name: str = "") -> Tensor:
        """[B, C, H, W] -> [B, C, H, W]. A site replaces the tokens before `proj_out` (PFStorer eq. 3)."""
        tokens = self.proj_in(rearrange(self.norm(h), "b c h w -> b (h w) c").contiguous())
        if given.hooks.transformer:
            tokens = given.hooks.transformer(name, self.transformer_blocks, tokens, given.context, h.shape)
        else:
            reading: dict[str, Any] = {"read": read} if (read := given.hooks.queries.get(name)) else {}
            for number, block in enumerate(self.transformer_blocks):
                if around := given.self_attention(attn1_name(name, number)):
                    reading["around"] = around
                tokens, reading = block(tokens, given.context, **reading), {}
        if site := given.sites.get(name):
            # A block in training is fp32, and the layers after this one may not be.
            tokens = site(tokens).to(tokens.dtype)
        return h + rearrange(self.proj_out(tokens), "b (h w) c -> b c h w", h=h.shape[-2])


def _transformer_block(channels: int, head_dim: int, context_dim: int, backend: Backend) -> nn.Module:
    options: dict[str, Any] = {
        "context_dim": context_dim,
        "operations": backend.ops,
        **backend.placement,
    }
    if backend.transformer_block is not None:
        return backend.transformer_block(channels, channels // head_dim, head_dim, **options)
    return BasicTransformerBlock(
        channels, channels // head_dim, head_dim, attention=backend.attention, **options
    )
