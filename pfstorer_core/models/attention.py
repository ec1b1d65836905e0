"""Latent diffusion's self-attention without a text."""

from __future__ import annotations

from functools import partial

from einops import rearrange
from torch import Tensor

from .layers import Layer, LayerInputs
from .ops import Backend


class AttentionBlock(Layer):
    """Self-attention over the pixels, with one projection for q, k and v.

    The published weights hold q, k and v of a head side by side (head first, then q, k, v).
    """

    def __init__(self, channels: int, heads: int, backend: Backend) -> None:
        super().__init__()
        self.heads, self.out_channels = heads, channels
        self.attention = backend.attention
        self.norm = backend.group_norm(channels)
        self.qkv = backend.conv1d(channels, 3 * channels)
        self.proj_out = backend.conv1d(channels, channels)

    def forward(self, h: Tensor, given: LayerInputs, name: str = "") -> Tensor:
        """[B, C, H, W] -> [B, C, H, W]. A site replaces the tokens before `proj_out`."""
        height, width = h.shape[-2:]
        qkv = self.qkv(rearrange(self.norm(h), "b c h w -> b c (h w)"))
        q, k, v = rearrange(qkv, "b (head three d) n -> three b n (head d)", head=self.heads, three=3)
        attend = partial(self.attention, heads=self.heads)
        around = given.self_attention(name)
        tokens = around(q, k, v, attend) if around else attend(q, k, v)
        if site := given.sites.get(name):
            tokens = site(tokens).to(tokens.dtype)
        out = self.proj_out(rearrange(tokens, "b n c -> b c n"))
        return h + rearrange(out, "b c (h w) -> b c h w", h=height, w=width)
