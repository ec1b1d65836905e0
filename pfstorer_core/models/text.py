"""The text tower of OpenCLIP's ViT-H, Stable Diffusion 2.x's text encoder, for use without a host."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .ops import Backend


@dataclass(frozen=True)
class TextTowerConfig:
    """Sizes of a text tower; the defaults are Stable Diffusion 2.x's.

    Attributes:
        vocab: number of token ids.
        context_length: tokens of a text, start, end and padding included.
    """

    width: int = 1024
    heads: int = 16
    layers: int = 24
    vocab: int = 49408
    context_length: int = 77


class ResidualAttentionBlock(nn.Module):
    """Causal self-attention and an MLP, each behind its LayerNorm and with a residual."""

    def __init__(self, width: int, heads: int, backend: Backend) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = backend.layer_norm(width), backend.layer_norm(width)
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True, **backend.placement)
        self.mlp = nn.Sequential()
        self.mlp.add_module("c_fc", backend.linear(width, 4 * width))
        self.mlp.add_module("gelu", nn.GELU())
        self.mlp.add_module("c_proj", backend.linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """x [B, N, width] -> the same shape."""
        projected = F.linear(self.ln_1(x), self.attn.in_proj_weight, self.attn.in_proj_bias)
        heads = self.attn.num_heads
        q, k, v = (rearrange(each, "b n (h d) -> b h n d", h=heads) for each in projected.chunk(3, dim=-1))
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.attn.out_proj(rearrange(attended, "b h n d -> b n (h d)"))
        return x + self.mlp(self.ln_2(x))


class TextLayers(nn.Module):
    """The parameters of the tower, under the names that OpenCLIP gives them."""

    def __init__(self, config: TextTowerConfig, backend: Backend) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(config.vocab, config.width, **backend.placement)
        self.positional_embedding = nn.Parameter(
            torch.zeros(config.context_length, config.width, **backend.placement)
        )
        blocks = (ResidualAttentionBlock(config.width, config.heads, backend) for _ in range(config.layers))
        self.transformer = nn.ModuleDict({"resblocks": nn.ModuleList(blocks)})
        self.ln_final = backend.layer_norm(config.width)


class TextTower(nn.Module):
    """Token ids -> text context of the U-Net (Radford et al. 2021, section 2.4, without the projection).

    `embed` and `encode` are the two halves of a call, so that embeddings that no token has, such as
    those of textual inversion, can take their place in between.
    """

    def __init__(self, config: TextTowerConfig, backend: Backend | None = None) -> None:
        super().__init__()
        self.config = config
        self.model = TextLayers(config, backend or Backend())

    def embed(self, tokens: Tensor) -> Tensor:
        """tokens [B, context_length], integer -> embeddings [B, context_length, width], without positions."""
        return self.model.token_embedding(tokens)

    def encode(self, embeddings: Tensor, skip_last: int = 1) -> Tensor:
        """Embeddings as from `embed` -> text context [B, context_length, width].

        Args:
            skip_last: blocks left out at the end, before the last LayerNorm: 1 is the penultimate
                output (Stable Diffusion 2.x's), 0 the last one.
        Raises:
            ValueError: embeddings of another shape, or more blocks left out than there are.
        """
        expected = (self.config.context_length, self.config.width)
        if embeddings.shape[1:] != expected:
            raise ValueError(
                f"The text tower takes embeddings [B, {expected[0]}, {expected[1]}], "
                f"got {list(embeddings.shape)}: pad or cut the tokens to the context length."
            )
        if not 0 <= skip_last <= self.config.layers:
            raise ValueError(f"skip_last must be from 0 to {self.config.layers}, got {skip_last}.")
        x = embeddings + self.model.positional_embedding
        blocks = cast("nn.ModuleList", self.model.transformer["resblocks"])
        for block in blocks[: self.config.layers - skip_last]:
            x = block(x)
        return self.model.ln_final(x)

    def forward(self, tokens: Tensor, skip_last: int = 1) -> Tensor:
        """tokens [B, context_length], integer -> text context [B, context_length, width]; see `encode`."""
        return self.encode(self.embed(tokens), skip_last)
