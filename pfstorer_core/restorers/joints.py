"""Whether the networks of a file belong together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields

from ..checkpoints.errors import CheckpointError, StateDict
from ..checkpoints.layouts import CONTROL_NETWORK, DIFFBIR_MODEL, FIRST_STAGE, Layout
from ..checkpoints.parts import AUTOENCODER, LQ_ENCODER, UNET
from ..models import AutoencoderConfig, ControlConfig, UNetConfig
from ..models.encoder import TransformerEncoderConfig


def joined(base: StateDict, addon: StateDict, kind: Layout) -> StateDict:
    """The tensors of a checkpoint with those of an add-on of this kind on top. A control network takes the
    place of what read the LQ picture before, and a first stage that of all there was of another."""
    if kind in (CONTROL_NETWORK, DIFFBIR_MODEL):
        base = generator_alone(base)
    if kind is FIRST_STAGE:
        base = {key: value for key, value in base.items() if not key.startswith(AUTOENCODER.prefix)}
    return base | addon


def generator_alone(tensors: StateDict) -> StateDict:
    """The tensors of a checkpoint, or of a U-Net, less StableSR's LQ encoder and SFT layers."""
    prefixes = (LQ_ENCODER.prefix, "lq_encoder.")
    sft = UNET.addition[1]
    return {key: value for key, value in tensors.items() if not key.startswith(prefixes) and sft not in key}


def check_joints(unet: UNetConfig, autoencoder: AutoencoderConfig, condition: str = "sft") -> None:
    """Raise CheckpointError where networks cannot be joined: one gives what the next does not take.

    Args:
        condition: how the LQ picture enters the U-Net, see `RestorerHeader`.
    """
    beside = CHANNELS_BESIDE.get(condition, lambda _: 0)(autoencoder)
    if condition in CHANNELS_BESIDE:
        names, channels = "U-Net", (unet.in_channels - beside, autoencoder.embed_dim)
    else:
        reader, by = _reader(unet)
        names, channels = f"U-Net, {by}", (unet.in_channels, reader, autoencoder.embed_dim)
    if len(set(channels)) > 1:
        without = f" beside the {beside} of a condition" if beside else ""
        raise CheckpointError(
            f"{names} and autoencoder have {channels} latent channels{without}, which have to be the same: "
            "inpainting and depth models cannot restore, nor can parts of different models."
        )
    joints = {
        "channels in and out of the U-Net": (unet.in_channels - beside, unet.out_channels),
        "channels of a picture, into and out of the autoencoder": (
            3,
            autoencoder.in_channels,
            autoencoder.out_ch,
        ),
    }
    if encoder := unet.lq_encoder:
        joints["channels of LQ features and SFT"] = (encoder.out_channels, unet.sft_channels)
        joints["levels of LQ encoder and U-Net"] = (len(encoder.channel_mult), len(unet.channel_mult))
    if control := unet.control:
        joints |= _alike(unet, control)
    for what, found in joints.items():
        if len(set(found)) > 1:
            raise CheckpointError(f"The {what} have to be the same, but are {' and '.join(map(str, found))}.")


CHANNELS_BESIDE: dict[str, Callable[[AutoencoderConfig], int]] = {
    "concat": lambda autoencoder: autoencoder.embed_dim,
    "pixels": lambda autoencoder: autoencoder.in_channels,
    "none": lambda _: 0,
}
"""Channels that a condition takes of those that the U-Net has for its input."""


def _reader(unet: UNetConfig) -> tuple[int, str]:
    """Channels of the LQ latent, by what reads it."""
    if unet.lq_encoder and unet.control:
        raise CheckpointError(
            "This checkpoint has both StableSR's LQ encoder and DiffBIR's control network: take one of them."
        )
    if unet.lq_encoder:
        return unet.lq_encoder.in_channels, "LQ encoder"
    assert unet.control is not None
    return unet.control.in_channels - unet.in_channels, "control network"


def _alike(unet: UNetConfig, control: ControlConfig) -> dict[str, tuple]:
    """A control network is a copy of the U-Net's encoder but for its first convolution."""
    names = [field.name for field in fields(TransformerEncoderConfig) if field.name != "in_channels"]
    return {
        f"sizes of U-Net and control network ({name})": (getattr(unet, name), getattr(control, name))
        for name in names
    }
