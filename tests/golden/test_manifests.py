"""Keys, shapes and sizes of the networks against those of the published checkpoints."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from harness.stand_ins import listed
from pfstorer_core.checkpoints.header import RestorerHeader
from pfstorer_core.checkpoints.parts import AUTOENCODER, CONTROL, LQ_ENCODER, SWINIR, UNET, Part
from pfstorer_core.models import AutoencoderConfig, ControlConfig, LQEncoderConfig, SwinIRConfig, UNetConfig

VQ_F4 = AutoencoderConfig(ch_mult=(1, 2, 4), z_channels=3, embed_dim=3, codebook=8192, double_z=False)
FFHQ = UNetConfig(
    in_channels=3,
    out_channels=3,
    model_channels=224,
    channel_mult=(1, 2, 3, 4),
    attention_resolutions=(8, 4, 2),
    num_head_channels=32,
    context_dim=0,
    sft_channels=0,
)
REFLDM = AutoencoderConfig(ch_mult=(1, 1, 2, 4), z_channels=8, embed_dim=8, codebook=8192, double_z=False)
REFLDM_UNET = replace(
    FFHQ,
    in_channels=16,
    out_channels=8,
    model_channels=160,
    channel_mult=(1, 2, 2, 4),
)
NETWORKS: dict[str, tuple[str, Part, Any]] = {
    "StableSR's U-Net": ("stablesr_full", UNET, UNetConfig()),
    "StableSR's LQ encoder": ("stablesr_full", LQ_ENCODER, LQEncoderConfig()),
    "StableSR's CFW": ("stablesr_cfw_full", AUTOENCODER, AutoencoderConfig(cfw=True)),
    "DiffBIR's control network": ("diffbir_controlnet", CONTROL, ControlConfig()),
    "DiffBIR's cleaner": ("diffbir_swinir", SWINIR, SwinIRConfig()),
    "FFHQ's U-Net": ("vqgan_ldm_ffhq256", UNET, FFHQ),
    "FFHQ's autoencoder": ("vqgan_ldm_ffhq256", AUTOENCODER, VQ_F4),
    "vq-f4": ("vqgan_f4", AUTOENCODER, VQ_F4),
    "vq-f4-noattn": (
        "vqgan_f4_noattn",
        AUTOENCODER,
        AutoencoderConfig(**{**VQ_F4.__dict__, "mid_attention": False}),
    ),
    "ReF-LDM's autoencoder": ("refldm_vqgan", AUTOENCODER, REFLDM),
    "ReF-LDM's first stage": ("refldm_refldm", AUTOENCODER, REFLDM),
    "ReF-LDM's U-Net": ("refldm_refldm", UNET, REFLDM_UNET),
    "bsr_sr's U-Net": (
        "vqgan_ldm_bsr_sr",
        UNET,
        replace(REFLDM_UNET, in_channels=6, out_channels=3, attention_resolutions=(8,)),
    ),
}


def published(name: str) -> dict[str, Tensor]:
    """A network's part of a file; the whole of one that holds nothing else but losses."""
    manifest, part, _ = NETWORKS[name]
    tensors = listed(manifest)
    return part.of(tensors) or {key: value for key, value in tensors.items() if not key.startswith("loss.")}


@pytest.mark.parametrize("name", NETWORKS)
def test_keys_and_shapes_are_the_published_ones(name: str) -> None:
    _, part, config = NETWORKS[name]
    shapes = {key: value.shape for key, value in part.expected(config).items()}
    assert shapes == {key: value.shape for key, value in published(name).items()}


@pytest.mark.parametrize("name", NETWORKS)
def test_sizes_are_told_from_the_tensors(name: str) -> None:
    _, part, config = NETWORKS[name]
    heads = getattr(config, "num_head_channels", 64)
    assert part.config_from(published(name), RestorerHeader(num_head_channels=heads)) == config
    assert all(value.device == torch.device("meta") for value in part.expected(config).values())
