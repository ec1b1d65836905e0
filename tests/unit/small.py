"""A small restorer, and the published layouts of it as files."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from harness.stand_ins import own
from pfstorer_core import Restorer, RestorerHeader
from pfstorer_core.checkpoints.parts import AUTOENCODER as FIRST_STAGE
from pfstorer_core.models import (
    Autoencoder,
    AutoencoderConfig,
    ControlConfig,
    LQEncoderConfig,
    TextTower,
    TextTowerConfig,
    UNet,
    UNetConfig,
)
from pfstorer_core.restorers.clr_face.variants import CLR_FACE
from pfstorer_core.restorers.diffbir.variants import VARIANTS
from pfstorer_core.restorers.keys import NULL_CONTEXT, file_tensors

SIZES = UNetConfig(
    model_channels=32,
    channel_mult=(1, 2, 2),
    num_res_blocks=1,
    attention_resolutions=(4, 2),
    context_dim=64,
    sft_channels=32,
    sft_hidden=16,
    lq_encoder=LQEncoderConfig(
        model_channels=32,
        out_channels=32,
        channel_mult=(1, 1, 2),
        num_res_blocks=2,
        attention_resolutions=(4,),
    ),
)
CONTROLLED = replace(
    SIZES,
    sft_channels=0,
    lq_encoder=None,
    control=ControlConfig(
        in_channels=8,
        model_channels=32,
        channel_mult=(1, 2, 2),
        num_res_blocks=1,
        attention_resolutions=(4, 2),
        context_dim=SIZES.context_dim,
    ),
)
"""As `SIZES`, with a control network in place of SFT."""
AUTOENCODER = AutoencoderConfig(ch=32, ch_mult=(1, 2, 2), num_res_blocks=1, z_channels=4, cfw=True)
TEXT = TextTowerConfig(width=SIZES.context_dim, heads=1, layers=2)
HEADER = RestorerHeader("v", 0.7, 32, preview=[[0.1, 0.2, 0.3]] * 5, training={"steps": 3})
"""Its heads are those of files without a header, so that the same networks make all layouts."""

Tensors = Mapping[str, Tensor]


def small_restorer() -> Restorer:
    """With a null context that is not its text tower's."""
    torch.manual_seed(0)
    tower = TextTower(TEXT).eval()
    torch.nn.init.normal_(tower.model.positional_embedding, std=0.1)
    context = torch.randn(1, 2, SIZES.context_dim)
    return Restorer(UNet(SIZES).eval(), Autoencoder(AUTOENCODER).eval(), context, HEADER, tower)


def small_diffbir(variant: str = "v1_face") -> Restorer:
    """Its pictures have 32 pixels; no zero convolution is zero."""
    base = small_restorer()
    torch.manual_seed(1)
    header = replace(VARIANTS[variant], image_size=32)
    return replace(base, unet=UNet(CONTROLLED).eval(), header=header)


PLAIN = replace(
    SIZES,
    in_channels=8,
    sft_channels=0,
    sft_hidden=UNetConfig.sft_hidden,
    lq_encoder=None,
    context_dim=0,
    num_head_channels=32,
)
"""As `SIZES`, without a text; it sees the latent of the LQ picture beside the noisy one."""
VQ = replace(AUTOENCODER, cfw=False, codebook=16, double_z=False)


def small_prior(**header: Any) -> Restorer:
    """Its pictures have 32 pixels; latents spread as its codebook does."""
    torch.manual_seed(2)
    first_stage = Autoencoder(VQ).eval()
    assert first_stage.quantize is not None
    torch.nn.init.normal_(first_stage.quantize.get_parameter("embedding.weight"), std=0.3)
    known = replace(CLR_FACE, image_size=32, preview=[[0.1, 0.2, 0.3]] * 5, **header)
    return Restorer(UNet(PLAIN).eval(), first_stage, torch.zeros(1, 1, 0), known)


def published(restorer: Restorer) -> dict[str, Tensor]:
    """Its tensors as a full checkpoint with a CFW autoencoder has them: no null context."""
    assert restorer.text is not None
    tensors = file_tensors(
        restorer.unet.state_dict(),
        restorer.autoencoder.state_dict(),
        restorer.text.state_dict(),
        restorer.null_context,
    )
    del tensors[NULL_CONTEXT]
    return tensors


def select(tensors: Tensors, wanted: Callable[[str], bool]) -> dict[str, Tensor]:
    return {key: value for key, value in tensors.items() if wanted(key)}


def bare(tensors: Tensors) -> dict[str, Tensor]:
    """Keys of an autoencoder, without their prefix."""
    return {key.removeprefix(FIRST_STAGE.prefix): value for key, value in tensors.items()}


def is_autoencoder(key: str) -> bool:
    return key.startswith(FIRST_STAGE.prefix)


def is_fusion(key: str) -> bool:
    return ".fusion_layer_" in key


def base_keys(key: str) -> bool:
    """Whether a key is Stable Diffusion's."""
    return not own(key) and not is_fusion(key)


LOSS = {"loss.logvar": torch.zeros(()), "loss.discriminator.main.0.weight": torch.zeros(1, 3, 4, 4)}
"""What only the training of an autoencoder needs."""


def write(path: Path, tensors: Tensors, header: RestorerHeader | None = HEADER) -> Path:
    """A .safetensors file with our header, without any, or a pickled one under ``state_dict``."""
    if path.suffix == ".safetensors":
        contiguous = {key: value.contiguous() for key, value in tensors.items()}
        save_file(contiguous, path, header.to_metadata() if header else None)
    else:
        torch.save({"state_dict": dict(tensors), "global_step": 7}, path)
    return path
