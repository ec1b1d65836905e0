"""SwinIR as DiffBIR has it: the cleaner, which takes the damage out of a picture before it is restored.

Liang et al. 2021 (arXiv:2108.10257) with a PixelUnshuffle in front, so that it works on cells of 8 x 8 pixels
and its result has the size of its input (DiffBIR, arXiv:2308.15070, section 3.1).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from .ops import Backend

MEAN = (0.4488, 0.4371, 0.4040)
"""Of DIV2K's pictures, RGB: what the network sees as 0."""
FEATURES = 64
"""Width of the layers that enlarge."""
APART = -100.0
"""Added to the score of two tokens that lie side by side only because a shift rolled them there."""
OTHERS_SLOPE = 0.2
"""Of all LeakyReLUs but the first after the transformer, which has torch's own."""


@dataclass(frozen=True)
class SwinIRConfig:
    """Sizes of a SwinIR, in the words of the published configurations; the defaults are DiffBIR's.

    Attributes:
        embed_dim: width of the tokens.
        depths, num_heads: blocks and attention heads of every group (RSTB).
        window_size: side in tokens of the windows within which tokens attend.
        mlp_ratio: width of the blocks' inner layer by that of the tokens.
        img_size: side in tokens of the pictures that it was made for. Others do as well; but one no larger
            than a window has no blocks with shifted windows.
        unshuffle_scale: pixels along a token: 2, 4 or 8.
    """

    embed_dim: int = 180
    depths: tuple[int, ...] = (6,) * 8
    num_heads: tuple[int, ...] = (6,) * 8
    window_size: int = 8
    mlp_ratio: float = 2
    img_size: int = 64
    unshuffle_scale: int = 8

    def __post_init__(self) -> None:
        """Raises ValueError where sizes do not go together."""
        if self.unshuffle_scale not in (2, 4, 8):
            raise ValueError(f"it has {self.unshuffle_scale} pixels along a token, expected 2, 4 or 8.")
        if len(self.depths) != len(self.num_heads) or not self.depths or min(self.depths) < 1:
            raise ValueError(f"it has groups of {self.depths} blocks with {self.num_heads} heads.")
        if any(heads < 1 or self.embed_dim % heads for heads in self.num_heads):
            raise ValueError(f"{self.num_heads} heads do not divide its width {self.embed_dim}.")
        if self.window_size < 2 or self.img_size < 1 or self.img_size % self.window_size:
            raise ValueError(f"windows of {self.window_size} tokens do not divide {self.img_size}.")

    @property
    def multiple(self) -> int:
        """Pixels along a window, of which the sides of a picture are made multiples."""
        return self.window_size * self.unshuffle_scale

    @property
    def shift(self) -> int:
        """Tokens by which every second block's windows are moved."""
        return self.window_size // 2 if self.img_size > self.window_size else 0


class WindowAttention(nn.Module):
    """Attention of the tokens of a window to each other, with a learned bias for each offset between two."""

    def __init__(self, config: SwinIRConfig, heads: int, backend: Backend) -> None:
        super().__init__()
        width, offsets = config.embed_dim, (2 * config.window_size - 1) ** 2
        self.heads, self.attention = heads, backend.attention
        self.qkv = backend.linear(width, 3 * width)
        self.proj = backend.linear(width, width)
        self.relative_position_bias_table = nn.Parameter(torch.zeros(offsets, heads, **backend.placement))
        # Files have it; what is used is computed anew, so that nothing depends on what a file says.
        self.register_buffer("relative_position_index", offsets_of(config.window_size, backend.device))

    def forward(self, windows: Tensor, offsets: Tensor, apart: Tensor | None) -> Tensor:
        """windows [B·W, N, C]; offsets [N, N], see `offsets_of`; apart [W, N, N], see `apart_by_shift`."""
        q, k, v = self.qkv(windows).chunk(3, dim=-1)
        bias = rearrange(self.relative_position_bias_table.to(q)[offsets], "n m head -> 1 head n m")
        if apart is not None:
            bias = bias + apart[:, None].to(q)
            bias = repeat(bias, "w head n m -> (b w) head n m", b=len(windows) // len(apart))
        return self.proj(self.attention(q, k, v, self.heads, mask=bias))


class SwinBlock(nn.Module):
    """Attention within windows, then a small network for each token; both are added to what came in."""

    def __init__(self, config: SwinIRConfig, heads: int, shift: int, backend: Backend) -> None:
        super().__init__()
        width, inner = config.embed_dim, round(config.embed_dim * config.mlp_ratio)
        self.window, self.shift = config.window_size, shift
        self.norm1 = backend.layer_norm(width)
        self.attn = WindowAttention(config, heads, backend)
        self.norm2 = backend.layer_norm(width)
        self.mlp = nn.ModuleDict({"fc1": backend.linear(width, inner), "fc2": backend.linear(inner, width)})
        if shift:  # see `relative_position_index`
            side, placed = config.img_size, backend.placement
            self.register_buffer("attn_mask", apart_by_shift(side, side, self.window, shift).to(**placed))

    def forward(self, x: Tensor, offsets: Tensor, apart: Tensor) -> Tensor:
        """x: tokens [B, H, W, C]; H and W are multiples of the window."""
        height, width = x.shape[1] // self.window, x.shape[2] // self.window
        h = torch.roll(self.norm1(x), (-self.shift, -self.shift), (1, 2))
        h = rearrange(h, "b (y i) (x j) c -> (b y x) (i j) c", i=self.window, j=self.window)
        h = self.attn(h, offsets, apart if self.shift else None)
        h = rearrange(h, "(b y x) (i j) c -> b (y i) (x j) c", y=height, x=width, i=self.window)
        x = x + torch.roll(h, (self.shift, self.shift), (1, 2))
        return x + self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(x))))


class SwinGroup(nn.Module):
    """A residual group of blocks (RSTB), with a convolution behind them."""

    def __init__(self, config: SwinIRConfig, depth: int, heads: int, backend: Backend) -> None:
        super().__init__()
        shifts = [config.shift * (block % 2) for block in range(depth)]
        blocks = nn.ModuleList(SwinBlock(config, heads, shift, backend) for shift in shifts)
        self.residual_group = nn.ModuleDict({"blocks": blocks})
        self.conv = backend.conv(config.embed_dim, config.embed_dim, 3)

    def forward(self, x: Tensor, offsets: Tensor, apart: Tensor) -> Tensor:
        """x: tokens [B, H, W, C]."""
        h = x
        for block in self.residual_group["blocks"]:  # type: ignore[union-attr]
            h = block(h, offsets, apart)
        return x + as_tokens(self.conv(as_picture(h)))


class SwinIR(nn.Module):
    """A damaged picture -> the same without its damage, at the same size; smooth where it cannot know."""

    def __init__(self, config: SwinIRConfig, backend: Backend | None = None) -> None:
        super().__init__()
        backend, width = backend or Backend(), config.embed_dim
        self.config = config
        pixels = 3 * config.unshuffle_scale**2
        self.conv_first = nn.Sequential(
            nn.PixelUnshuffle(config.unshuffle_scale), backend.conv(pixels, width, 3)
        )
        self.patch_embed = nn.ModuleDict({"norm": backend.layer_norm(width)})
        self.layers = nn.ModuleList(
            SwinGroup(config, depth, heads, backend)
            for depth, heads in zip(config.depths, config.num_heads, strict=True)
        )
        self.norm = backend.layer_norm(width)
        self.conv_after_body = backend.conv(width, width, 3)
        self.conv_before_upsample = nn.Sequential(backend.conv(width, FEATURES, 3), nn.LeakyReLU())
        self.enlarging = [f"conv_up{n + 1}" for n in range(config.unshuffle_scale.bit_length() - 1)]
        for name in self.enlarging:
            self.add_module(name, backend.conv(FEATURES, FEATURES, 3))
        self.conv_hr = backend.conv(FEATURES, FEATURES, 3)
        self.conv_last = backend.conv(FEATURES, 3, 3)

    def forward(self, picture: Tensor) -> Tensor:
        """[B, 3, H, W] in [0, 1] -> the same, not clamped. Sides that are no multiples of
        `SwinIRConfig.multiple` are mirrored below and on the right as far as it takes."""
        height, width = picture.shape[-2:]
        mean = picture.new_tensor(MEAN)[:, None, None]
        h = self.features(padded(picture, self.config.multiple) - mean)
        h = self.conv_before_upsample(h)
        for name in self.enlarging:
            h = self.get_submodule(name)(F.interpolate(h, scale_factor=2, mode="nearest"))
            h = F.leaky_relu(h, OTHERS_SLOPE)
        h = self.conv_last(F.leaky_relu(self.conv_hr(h), OTHERS_SLOPE))
        return h[..., :height, :width] + mean

    def features(self, picture: Tensor) -> Tensor:
        """[B, 3, H, W] -> the transformer's features [B, C, H/8, W/8]."""
        first = self.conv_first(picture)
        size, window, device = first.shape[-2:], self.config.window_size, first.device
        offsets = offsets_of(window, device)
        apart = apart_by_shift(size[0], size[1], window, self.config.shift, device)
        tokens = self.patch_embed["norm"](as_tokens(first))
        for layer in self.layers:
            tokens = layer(tokens, offsets, apart)
        return first + self.conv_after_body(as_picture(self.norm(tokens)))


def offsets_of(window: int, device: torch.device | str | None = None) -> Tensor:
    """Which entry of the bias table each pair of a window's tokens has, int64 [N, N]: rows by the first one's
    number, offsets counted row by row from that of the last token to the first."""
    place = torch.arange(window, device=device)
    y, x = place.repeat_interleave(window), place.repeat(window)
    away = [axis[:, None] - axis + window - 1 for axis in (y, x)]
    return away[0] * (2 * window - 1) + away[1]


def apart_by_shift(
    height: int, width: int, window: int, shift: int, device: torch.device | str | None = None
) -> Tensor:
    """What shifted windows add to the scores of their tokens, float32 [W, N, N]: `APART` where two of them
    come from opposite edges of the picture, else 0.

    Args:
        height, width: in tokens, multiples of the window.
    """

    def side(length: int) -> Tensor:
        """Of each row: 0 in front, 1 in the last windows, 2 what was rolled there from the front."""
        place = torch.arange(length, device=device)
        return (place >= length - window).long() + (place >= length - shift).long()

    region = 3 * side(height)[:, None] + side(width)
    region = rearrange(region, "(y i) (x j) -> (y x) (i j)", i=window, j=window)
    return (region[:, None] != region[:, :, None]).float() * APART


def as_tokens(picture: Tensor) -> Tensor:
    return rearrange(picture, "b c h w -> b h w c")


def as_picture(tokens: Tensor) -> Tensor:
    return rearrange(tokens, "b h w c -> b c h w")


def padded(picture: Tensor, multiple: int) -> Tensor:
    """[B, C, H, W] with sides that are multiples: mirrored below and on the right, or, where there is not
    enough to mirror, the last row and column repeated."""
    short = [-length % multiple for length in picture.shape[-2:]]
    mirrored = [min(more, length - 1) for more, length in zip(short, picture.shape[-2:], strict=True)]
    if any(mirrored):
        picture = F.pad(picture, (0, mirrored[1], 0, mirrored[0]), mode="reflect")
    rest = [more - done for more, done in zip(short, mirrored, strict=True)]
    return F.pad(picture, (0, rest[1], 0, rest[0]), mode="replicate") if any(rest) else picture
