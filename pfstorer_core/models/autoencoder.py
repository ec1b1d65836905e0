"""Autoencoders of latents, KL (Stable Diffusion's) or VQ, with controllable feature wrapping (CFW)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .blocks import ResnetBlock
from .cfw import FusionLayer
from .codebook import Codebook
from .ops import Backend


@dataclass(frozen=True)
class AutoencoderConfig:
    """Sizes of an autoencoder; the defaults are Stable Diffusion's (without CFW).

    Raises ValueError where CFW is asked for and there is no level for it.

    Attributes:
        ch, ch_mult: width of each level is ch·ch_mult[level]; level 0 has the size of the picture.
        cfw: whether the decoder has fusion layers (at all levels but the finest and the coarsest).
        codebook: entries of a VQ autoencoder's codebook; 0: none, as in a KL autoencoder.
        double_z: whether the encoder tells a distribution, mean and log-variance, or just one latent, as in
            VQ autoencoders.
        mid_attention: whether the middles of encoder and decoder attend.
        norm_groups: of group normalization. Where a layer has but a channel or two a group, the level of
            its features is lost: narrow networks want fewer.
    """

    in_channels: int = 3
    out_ch: int = 3
    ch: int = 128
    ch_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    z_channels: int = 4
    embed_dim: int = 4
    cfw: bool = False
    codebook: int = 0
    double_z: bool = True
    mid_attention: bool = True
    norm_groups: int = 32

    def __post_init__(self) -> None:
        if self.cfw and not self.fusion_levels:
            raise ValueError(
                f"CFW acts between the finest and the coarsest level of an autoencoder, and this one has "
                f"{len(self.ch_mult)}: it needs 3 or more."
            )

    @property
    def widths(self) -> list[int]:
        return [self.ch * mult for mult in self.ch_mult]

    @property
    def downscale(self) -> int:
        """Pixels of a picture along one side of a latent pixel."""
        return 2 ** (len(self.ch_mult) - 1)

    @property
    def moments(self) -> int:
        """Numbers that the encoder tells of each value of a latent."""
        return 1 + self.double_z

    @property
    def fusion_levels(self) -> list[int]:
        return list(range(1, len(self.ch_mult) - 1)) if self.cfw else []


class AttnBlock(nn.Module):
    """Single-head self-attention over the pixels, with 1×1 convolutions."""

    def __init__(self, channels: int, backend: Backend) -> None:
        super().__init__()
        self.attention = backend.attention
        self.norm = backend.group_norm(channels, eps=1e-6)
        self.q, self.k, self.v, self.proj_out = (backend.conv(channels, channels, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        # Attention that keeps no map of all pixels by all wants the channels of one side by side.
        q, k, v = (
            rearrange(layer(h), "b c h w -> b (h w) c").contiguous() for layer in (self.q, self.k, self.v)
        )
        h = rearrange(self.attention(q, k, v, 1), "b (h w) c -> b c h w", h=x.shape[-2])
        return x + self.proj_out(h)


class Resample(nn.Module):
    """Halve (padding right and bottom only, as Stable Diffusion does) or double the resolution."""

    def __init__(self, channels: int, up: bool, backend: Backend) -> None:
        super().__init__()
        self.up = up
        self.conv = (
            backend.conv(channels, channels, 3) if up else backend.conv(channels, channels, 3, 2, padding=0)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = F.interpolate(x, scale_factor=2.0, mode="nearest") if self.up else F.pad(x, (0, 1, 0, 1))
        return self.conv(x)


class Middle(nn.Module):
    def __init__(self, channels: int, attends: bool, backend: Backend) -> None:
        super().__init__()
        self.block_1 = ResnetBlock(channels, channels, backend)
        self.attn_1 = AttnBlock(channels, backend) if attends else nn.Identity()
        self.block_2 = ResnetBlock(channels, channels, backend)

    def forward(self, h: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(h)))


class Level(nn.Module):
    """The residual blocks of one resolution; the way to the next one is a child of its own name."""

    def __init__(
        self,
        channels: int,
        width: int,
        blocks: int,
        backend: Backend,
        downsample: bool = False,
        upsample: bool = False,
    ) -> None:
        super().__init__()
        widths = [channels] + [width] * blocks
        self.block = nn.ModuleList(ResnetBlock(a, b, backend) for a, b in pairwise(widths))
        self.downsample = Resample(width, False, backend) if downsample else None
        self.upsample = Resample(width, True, backend) if upsample else None

    def forward(self, h: Tensor) -> Tensor:
        for block in self.block:
            h = block(h)
        return h


class Encoder(nn.Module):
    """Picture -> moments or latent, and the features that CFW fuses."""

    def __init__(self, config: AutoencoderConfig, backend: Backend) -> None:
        super().__init__()
        self.config = config
        channels = config.ch
        self.conv_in = backend.conv(config.in_channels, channels, 3)
        self.down = nn.ModuleList()
        for level, width in enumerate(config.widths):
            last = level == len(config.widths) - 1
            self.down.append(Level(channels, width, config.num_res_blocks, backend, downsample=not last))
            channels = width
        self.mid = Middle(channels, config.mid_attention, backend)
        self.norm_out = backend.group_norm(channels, eps=1e-6)
        self.conv_out = backend.conv(channels, config.moments * config.z_channels, 3)

    def forward(self, image: Tensor) -> tuple[Tensor, dict[int, Tensor]]:
        """image [B, 3, H, W] in [-1, 1] -> what quant_conv gets, features by fusion level."""
        h, features = self.conv_in(image), {}
        for level, layers in enumerate(cast("list[Level]", self.down)):
            h = layers(h)
            if level in self.config.fusion_levels:
                features[level] = h
            if layers.downsample is not None:
                h = layers.downsample(h)
        return self.conv_out(F.silu(self.norm_out(self.mid(h)))), features


class Decoder(nn.Module):
    """Latent -> picture, fusing encoder features on the way (StableSR section 3.2)."""

    def __init__(self, config: AutoencoderConfig, backend: Backend) -> None:
        super().__init__()
        widths = config.widths
        channels = widths[-1]
        self.conv_in = backend.conv(config.z_channels, channels, 3)
        self.mid = Middle(channels, config.mid_attention, backend)
        levels: list[Level] = []
        for level, width in reversed(list(enumerate(widths))):
            levels.insert(0, Level(channels, width, config.num_res_blocks + 1, backend, upsample=level > 0))
            channels = width
        self.up = nn.ModuleList(levels)
        for level in config.fusion_levels:
            self.add_module(f"fusion_layer_{level}", FusionLayer(widths[level], backend))
        self.norm_out = backend.group_norm(channels, eps=1e-6)
        self.conv_out = backend.conv(channels, config.out_ch, 3)

    def fusion_layers(self) -> nn.ModuleDict:
        """The CFW layers by level: what the CFW stage trains."""
        names = [name for name, _ in self.named_children() if name.startswith("fusion_layer_")]
        return nn.ModuleDict({name: self.get_submodule(name) for name in names})

    def forward(self, z: Tensor, features: Mapping[int, Tensor], fidelity: float) -> Tensor:
        h = self.mid(self.conv_in(z))
        for level, layers in reversed(list(enumerate(cast("list[Level]", self.up)))):
            h = layers(h)
            if level in features:
                h = self.get_submodule(f"fusion_layer_{level}")(features[level], h, fidelity)
            if layers.upsample is not None:
                h = layers.upsample(h)
        return self.conv_out(F.silu(self.norm_out(h)))


class Autoencoder(nn.Module):
    """KL or VQ autoencoder. Latents here are unscaled: divide by the latent scale factor before `decode`."""

    def __init__(self, config: AutoencoderConfig, backend: Backend | None = None) -> None:
        super().__init__()
        backend = replace(backend or Backend(), norm_groups=config.norm_groups)
        self.config = config
        self.encoder = Encoder(config, backend)
        self.decoder = Decoder(config, backend)
        moments = config.moments
        self.quant_conv = backend.conv(moments * config.z_channels, moments * config.embed_dim, 1)
        self.post_quant_conv = backend.conv(config.embed_dim, config.z_channels, 1)
        self.quantize = Codebook(config.codebook, config.embed_dim, backend) if config.codebook else None

    def moments(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """image [B, 3, H, W] in [-1, 1], sides multiples of `config.downscale` -> mean and
        log-variance of the latent, [B, embed_dim, h, w] each."""
        if not self.config.double_z:
            raise ValueError("This autoencoder tells no distribution of its latents: take `encode`.")
        mean, logvar = self.quant_conv(self.encoder(image)[0]).chunk(2, dim=1)
        return mean, logvar.clamp(-30, 20)

    def encode(self, image: Tensor) -> Tensor:
        """The mode of the latent: what inference uses. Of a VQ autoencoder it is not quantized yet: so
        latent diffusion has it."""
        return self.quant_conv(self.encoder(image)[0])[:, : self.config.embed_dim]

    def sample(self, image: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """A draw from the latent's distribution: what training uses."""
        if not self.config.double_z:
            return self.encode(image)
        mean, logvar = self.moments(image)
        noise = torch.randn(mean.shape, generator=generator, dtype=mean.dtype, device=mean.device)
        return mean + (0.5 * logvar).exp() * noise

    def check_fidelity(self, fidelity: float) -> None:
        """Raise ValueError, before any long work, where `decode` could not serve this fidelity."""
        if not 0 <= fidelity <= 1:
            raise ValueError(f"fidelity must be from 0 to 1, got {fidelity}.")
        if fidelity and not self.config.cfw:
            raise ValueError(
                f"fidelity {fidelity} needs an autoencoder with CFW weights, and this restorer's has none: "
                "set fidelity to 0."
            )

    def decode(
        self, z: Tensor, lq: Tensor | None = None, fidelity: float = 0.0, quantize: bool = True
    ) -> Tensor:
        """Latent -> picture.

        Args:
            z: [B, embed_dim, h, w].
            lq: the LQ picture [B, 3, H, W] in [-1, 1] at the output's size, whose features CFW fuses.
            fidelity: CFW's w, 0 (the plain autoencoder, bit for bit) … 1 (closest to the LQ picture).
            quantize: bring z to its codebook first, where it has one.
        Returns:
            [B, 3, H, W], about [-1, 1].
        Raises:
            ValueError: a fidelity above 0 without an LQ picture or without CFW weights.
        """
        features: dict[int, Tensor] = {}
        if fidelity:
            self.check_fidelity(fidelity)
            if lq is None:
                raise ValueError(f"fidelity {fidelity} needs the LQ picture (lq).")
            features = self.encoder(lq)[1]
        if quantize and self.quantize is not None:
            z = self.quantize(z)[0]
        return self.decoder(self.post_quant_conv(z), features, fidelity)
