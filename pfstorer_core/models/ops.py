"""What the host decides about layers: their classes, attention, dtype and device.

The networks ask a `Backend` for every layer, so that ComfyUI can stream, cast and patch weights
in its own way (``comfy.ops``) while the core stays plain ``torch.nn``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

Attention = Callable[..., Tensor]
"""``attention(q, k, v, heads) -> out``; q [B, N, heads·d], k and v [B, M, heads·d]. Some callers add
``mask=``: bool [B, M], the keys that may be attended to, or numbers that are added to the scores
[B or 1, heads, N, M]."""

SMALL_MAP = 2**17
"""Weights of an attention map that may as well be kept."""


def attention(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None) -> Tensor:
    """Multi-head attention by `scaled_dot_product_attention`.

    Args:
        q: queries [B, N, heads·d]. k, v: keys and values [B, M, heads·d].
        mask: keys that may be attended to, bool [B, M]; or what is added to the scores,
            [B or 1, heads, N, M].
    Returns:
        [B, N, heads·d].
    """
    q, k, v = (rearrange(x, "b n (head d) -> b head n d", head=heads) for x in (q, k, v))
    if mask is not None and mask.dtype == torch.bool:
        mask = mask[:, None, None]
    # On a CPU the fused kernel's backward pass in bf16 takes 2 to 4 times as long as these matrix products.
    training = q.requires_grad and q.dtype == torch.bfloat16 and q.device.type == "cpu"
    if training and q.shape[-2] * k.shape[-2] <= SMALL_MAP:
        scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
        out = scores.softmax(-1).to(v.dtype) @ v
    else:
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return rearrange(out, "b head n d -> b n (head d)")


def fitted(features: Tensor, h: Tensor) -> Tensor:
    """Features [B, F, H', W'] at the size of h [B, C, H, W]: the same where they have it; bilinear where a
    patch of the host, such as deep shrink, changed the size of h."""
    if features.shape[-2:] == h.shape[-2:]:
        return features
    return F.interpolate(features, size=h.shape[-2:], mode="bilinear")


@dataclass(frozen=True)
class Backend:
    """Layer factory of the networks.

    Attributes:
        ops: namespace with Conv1d, Conv2d, Linear, Embedding, GroupNorm, LayerNorm (torch.nn or comfy.ops).
        attention: see `Attention`.
        transformer_block: class of the transformer's inner block, called as
            ``transformer_block(dim, heads, head_dim, context_dim=…, dtype=…, device=…,
            operations=ops)``; None takes `BasicTransformerBlock`. Its parameter names have to be
            Stable Diffusion's (attn1, attn2, ff, norm1..3).
        dtype, device: of the weights; None is torch's default.
        norm_groups: of group normalization.
    """

    ops: Any = nn
    attention: Attention = attention
    transformer_block: Callable[..., nn.Module] | None = None
    dtype: torch.dtype | None = None
    device: torch.device | str | None = None
    norm_groups: int = 32

    @property
    def placement(self) -> dict[str, Any]:
        return {"dtype": self.dtype, "device": self.device}

    def conv(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, padding: int | None = None
    ) -> nn.Module:
        """2-D convolution; `padding` defaults to "same"."""
        padding = kernel // 2 if padding is None else padding
        return self.ops.Conv2d(inputs, outputs, kernel, stride, padding, **self.placement)

    def conv1d(self, inputs: int, outputs: int) -> nn.Module:
        """Point-wise 1-D convolution."""
        return self.ops.Conv1d(inputs, outputs, 1, **self.placement)

    def linear(self, inputs: int, outputs: int, bias: bool = True) -> nn.Module:
        return self.ops.Linear(inputs, outputs, bias=bias, **self.placement)

    def embedding(self, entries: int, channels: int) -> nn.Module:
        return self.ops.Embedding(entries, channels, **self.placement)

    def group_norm(self, channels: int, eps: float = 1e-5) -> nn.Module:
        """Affine GroupNorm in the dtype of its input: torch computes a bf16 GroupNorm in fp32 and rounds
        once, so an upcast would change nothing but the time."""
        return self.ops.GroupNorm(self.norm_groups, channels, eps=eps, **self.placement)

    def layer_norm(self, channels: int) -> nn.Module:
        return self.ops.LayerNorm(channels, **self.placement)
