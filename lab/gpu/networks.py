"""The restorer that is checked: full-size or tiny networks with random weights, and what they are given."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pfstorer_core import Restorer, RestorerHeader
from pfstorer_core.models import (
    Autoencoder,
    AutoencoderConfig,
    Backend,
    ControlConfig,
    LQEncoderConfig,
    SwinIR,
    SwinIRConfig,
    TextTower,
    TextTowerConfig,
    UNet,
    UNetConfig,
)
from pfstorer_core.restorers.diffbir.cleaner import Cleaner
from pfstorer_core.restorers.diffbir.variants import VARIANTS


@dataclass(frozen=True)
class Sizes:
    """Of the networks, and the header of the restorer."""

    unet: UNetConfig
    autoencoder: AutoencoderConfig
    text: TextTowerConfig
    header: RestorerHeader
    cleaner: SwinIRConfig | None = None

    @property
    def side(self) -> int:
        """Of a tile's latent: 64 at full size."""
        return self.header.image_size // self.autoencoder.downscale


def full_sizes(image_size: int = 512) -> Sizes:
    """Stable Diffusion 2.1's with StableSR's layers."""
    return Sizes(
        UNetConfig(lq_encoder=LQEncoderConfig()),
        AutoencoderConfig(cfw=True),
        TextTowerConfig(),
        RestorerHeader("v", image_size=image_size),
    )


def tiny_sizes() -> Sizes:
    lq_encoder = LQEncoderConfig(
        model_channels=32, out_channels=32, channel_mult=(1, 1, 2), num_res_blocks=1,
        attention_resolutions=(4,),
    )  # fmt: skip
    unet = UNetConfig(
        model_channels=32, channel_mult=(1, 2, 2), num_res_blocks=1, attention_resolutions=(4, 2, 1),
        num_head_channels=32, context_dim=64, sft_channels=32, sft_hidden=16, lq_encoder=lq_encoder,
    )  # fmt: skip
    return Sizes(
        unet,
        AutoencoderConfig(ch=32, ch_mult=(1, 1, 2), num_res_blocks=1, cfw=True),
        TextTowerConfig(width=64, heads=1, layers=2),
        RestorerHeader("v", 0.7, 64, num_head_channels=32),
    )


def full_diffbir(image_size: int = 512) -> Sizes:
    """Stable Diffusion 2.1's with DiffBIR's control network and cleaner."""
    return Sizes(
        UNetConfig(sft_channels=0, control=ControlConfig()),
        AutoencoderConfig(),
        TextTowerConfig(),
        replace(VARIANTS["v1_general"], image_size=image_size),
        SwinIRConfig(),
    )


def tiny_diffbir() -> Sizes:
    plain = replace(tiny_sizes().unet, sft_channels=0, lq_encoder=None)
    control = ControlConfig(
        model_channels=plain.model_channels, channel_mult=plain.channel_mult,
        num_res_blocks=plain.num_res_blocks, attention_resolutions=plain.attention_resolutions,
        num_head_channels=plain.num_head_channels, context_dim=plain.context_dim,
    )  # fmt: skip
    return Sizes(
        replace(plain, control=control),
        replace(tiny_sizes().autoencoder, cfw=False),
        tiny_sizes().text,
        replace(VARIANTS["v1_general"], image_size=64, num_head_channels=32),
        SwinIRConfig(embed_dim=12, depths=(2,), num_heads=(2,), window_size=4, img_size=16),
    )


def build(sizes: Sizes, dtype: torch.dtype, device: torch.device) -> Restorer:
    backend = Backend(dtype=dtype, device=device)
    unet = lively(UNet(sizes.unet, backend), 1)
    autoencoder = lively(Autoencoder(sizes.autoencoder, backend), 2)
    text = lively(TextTower(sizes.text, backend), 3)
    generator = torch.Generator().manual_seed(4)
    context = torch.randn(1, 77, sizes.unet.context_dim or 0, generator=generator).to(device, dtype)
    cleaner = Cleaner.of(lively(SwinIR(sizes.cleaner, backend), 5)) if sizes.cleaner else None
    return Restorer(unet, autoencoder, context, sizes.header, text, cleaner)


@torch.no_grad()
def lively(module: torch.nn.Module, seed: int) -> Any:
    """Random weights of the size that lets activations live (harness.stand_ins.formula)."""
    device = next(module.parameters()).device
    generator = torch.Generator(device).manual_seed(seed)
    for name, parameter in module.named_parameters():
        u = torch.rand(parameter.shape, generator=generator, device=device) * 2 - 1
        if parameter.ndim >= 2:
            u *= math.sqrt(3 / math.prod(parameter.shape[1:]))
        elif name.endswith(".weight"):
            u = 1 + 0.25 * u
        else:
            u *= 0.125
        parameter.copy_(u)
    return module.eval().requires_grad_(False)


def as_dtype(restorer: Restorer, dtype: torch.dtype) -> Restorer:
    """A copy in another number format, without the text tower."""

    def moved(module: torch.nn.Module) -> Any:
        return copy.deepcopy(module).to(dtype)

    unet, autoencoder = moved(restorer.unet), moved(restorer.autoencoder)
    return Restorer(unet, autoencoder, restorer.null_context.to(dtype), restorer.header, None)


def pictures(count: int, side: int, seed: int) -> Tensor:
    """Pictures [count, 3, side, side] in [0, 1], of coarse and of fine noise."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 12, 12, generator=generator)
    picture = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bicubic")
    return (picture + 0.1 * torch.randn(picture.shape, generator=generator)).clamp(0, 1)
