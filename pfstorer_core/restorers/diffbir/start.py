"""Where the training of a control network starts: a copy of the encoder of a U-Net that can draw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

import torch

from ...checkpoints.errors import StateDict
from ...checkpoints.header import RestorerHeader
from ...checkpoints.parts.encoder import FIRST
from ...diffusion.schedule import PredictionType
from ...models import Backend, ControlConfig, ControlNetwork
from ...models.encoder import TransformerEncoderConfig
from ..files import RestorerFile
from ..joints import generator_alone
from ..stablesr.start import open_generator
from ..trainable import TrainableRestorer, trainable
from .cleaner import Cleaner, load_swinir


def open_control_start(
    path: Path | str,
    addons: Sequence[Path | str] = (),
    *,
    cleaner: Cleaner | None = None,
    captions: bool = False,
    prediction_type: PredictionType | None = None,
    variant: str | None = None,
    frozen_dtype: torch.dtype = torch.float32,
    sampling_start: str | None = None,
    aligned: str | None = None,
) -> TrainableRestorer:
    """A restorer of which the control network is trained: its own, else a new one.

    A new one begins as a copy of the U-Net's encoder, which takes no notice of the hint and adds nothing.
    What else reads the LQ picture, StableSR's SFT layers and LQ encoder, is left out.

    Args:
        path, addons: see `open_restorer`; also an SD 2.1 checkpoint.
        cleaner: in place of the restorer's own.
        captions, prediction_type, variant, frozen_dtype: see `open_start`.
        sampling_start, aligned: `start` and `aligned` of the header; None for the restorer's own or, of a new
            control network, DiffBIR's: pure noise, and no alignment.
    Raises:
        FileNotFoundError, CheckpointError: see `open_start`.
        ValueError: there is no cleaner; captions are wanted, and there is no text tower.
    """
    file, name = open_generator(path, addons, prediction_type, variant), Path(path).name
    if not file.unet_config.control:
        file = with_control(file)
    given = {"start": sampling_start, "aligned": aligned}
    header = replace(file.header, **{key: value for key, value in given.items() if value is not None})
    if cleaner is None:
        if not file.cleaner:
            raise ValueError(
                f"{name} has no cleaner, and a control network learns from cleaned pictures: name one by "
                "--cleaner. `train-cleaner` makes one."
            )
        cleaner = Cleaner.of(load_swinir(file.cleaner).float())
    start = trainable(
        replace(file, header=header), name, train="control", captions=captions, frozen_dtype=frozen_dtype
    )
    return replace(start, restorer=replace(start.restorer, cleaner=cleaner))


def with_control(file: RestorerFile) -> RestorerFile:
    """A restorer that goes by a new control network and nothing else."""
    generator = replace(file.unet_config, sft_channels=0, lq_encoder=None)
    sizes = {field.name: getattr(generator, field.name) for field in fields(TransformerEncoderConfig)}
    sizes["in_channels"] = generator.in_channels + file.autoencoder_config.embed_dim
    config = ControlConfig(**sizes)
    unet = generator_alone(file.unet)
    control = {f"control_model.{key}": value for key, value in new_control(unet, config).items()}
    return replace(
        file,
        unet=unet | control,
        unet_config=replace(generator, control=config),
        header=controlled(file.header),
    )


def controlled(header: RestorerHeader) -> RestorerHeader:
    """The header of a restorer that got a control network."""
    return replace(
        header,
        architecture="diffbir",
        condition="control",
        start="noise",
        size_rule="tiled",
        control_prompt="empty",
    )


def new_control(unet: StateDict, config: ControlConfig) -> StateDict:
    """The state dict of a new control network: the U-Net's encoder, zeros for the hint's channels, and
    convolutions of zeros behind each block (DiffBIR section 3.2)."""
    weights: StateDict = {}
    for key, empty in ControlNetwork(config, Backend(device="meta")).state_dict().items():
        value = torch.zeros(empty.shape)
        if key == FIRST:
            value[:, : unet[key].shape[1]] = unet[key]
        elif key in unet:
            value = unet[key].float()
        weights[key] = value
    return weights
