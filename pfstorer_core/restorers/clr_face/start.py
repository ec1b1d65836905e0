"""Where the training of a conditional prior starts: from another one, one that only draws, or nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from ...checkpoints.errors import StateDict
from ...checkpoints.parts.encoder import FIRST
from ...diffusion.schedule import PredictionType
from ...models import Autoencoder, UNet, UNetConfig
from ...training.data import Crops
from ..base import Restorer
from ..diffbir.cleaner import Cleaner, load_swinir
from ..files import RestorerFile, open_restorer
from ..stablesr.start import FITTED_PICTURES, latent_scale, preview_colours, start_idle
from ..trainable import TrainableRestorer, trainable
from .variants import CLR_FACE


def open_prior_start(
    path: Path | str,
    addons: Sequence[Path | str] = (),
    *,
    prediction_type: PredictionType | None = None,
    variant: str | None = None,
) -> tuple[TrainableRestorer, Cleaner | None]:
    """Start from a latent diffusion model without a text, and its cleaner, which the training has no use for.

    One that has no condition gets the channels for it, whose weights are zeros: it goes on as it is until it
    has learned to look.

    Args:
        path, addons, prediction_type, variant: see `open_restorer`.
    Raises:
        FileNotFoundError, CheckpointError: see `open_restorer`.
        ValueError: a restorer of another architecture, or one that sees pixels.
    """
    file, name = open_restorer(path, addons, prediction_type, variant), Path(path).name
    if file.header.architecture != CLR_FACE.architecture or file.header.condition == "pixels":
        raise ValueError(
            f"{name} is a {file.header.architecture} restorer, and a prior begins as a latent diffusion "
            "model without a text that sees latents, such as ReF-LDM's or FFHQ's, or from a first "
            "stage alone (--first-stage)."
        )
    if file.header.condition == "none":
        file = with_condition(file)
    cleaner = Cleaner.of(load_swinir(file.cleaner).float()) if file.cleaner else None
    return trainable(file, name, train="prior"), cleaner


def with_condition(file: RestorerFile) -> RestorerFile:
    """A latent diffusion model that has channels for a condition, which it takes no notice of yet."""
    beside = file.autoencoder_config.embed_dim
    weight = file.unet[FIRST]
    wider = torch.cat([weight, weight.new_zeros(len(weight), beside, *weight.shape[2:])], dim=1)
    unet: StateDict = {**file.unet, FIRST: wider}
    header = replace(
        file.header,
        condition="concat",
        start=CLR_FACE.start,
        start_at=CLR_FACE.start_at,
        variant=f"from_{file.header.variant}" if file.header.variant else "",
    )
    sizes = replace(file.unet_config, in_channels=file.unet_config.in_channels + beside)
    return replace(file, unet=unet, unet_config=sizes, header=header)


def new_prior(
    autoencoder: Autoencoder,
    crops: Crops,
    config: UNetConfig,
    *,
    prediction_type: PredictionType = "eps",
    seed: int = 0,
) -> TrainableRestorer:
    """Start from nothing but a first stage.

    Args:
        config: of the U-Net, whose channels in and out are the first stage's.
    """
    channels = autoencoder.config.embed_dim
    config = replace(config, in_channels=2 * channels, out_channels=channels)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        unet = UNet(config)
        start_idle(unet, sft_acts=False)
    images = [crops[k]["image"][None].float() / 255 for k in range(min(FITTED_PICTURES, len(crops)))]
    scale = latent_scale(autoencoder, images)
    header = replace(
        CLR_FACE,
        prediction_type=prediction_type,
        scale_factor=scale,
        image_size=crops.size,
        num_head_channels=config.num_head_channels,
        norm_groups=config.norm_groups,
        preview=preview_colours(autoencoder, images, scale),
    )
    return TrainableRestorer(Restorer(unet, autoencoder, torch.zeros(1, 1, 0), header), {}, {}, {})
