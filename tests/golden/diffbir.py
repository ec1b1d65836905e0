"""DiffBIR's golden networks: weights that are stored, or given by a rule in the file's header."""

from functools import cache
from typing import Any

import torch
from torch import Tensor

from pfstorer_core.diffusion.sampling import Denoiser, Guide, sample_ddpm
from pfstorer_core.diffusion.schedule import PredictionType, Schedule
from pfstorer_core.models import (
    Autoencoder,
    Conditioning,
    ControlConfig,
    ControlNetwork,
    SwinIR,
    SwinIRConfig,
    UNet,
)

from . import golden
from .networks import autoencoder_config, chosen, unet_config

MODULUS = 65521


def weights(name: str, group: str) -> dict[str, Tensor]:
    """The state dict `group` of a file: "unet", "controlnet", "vae" or "swinir" (without its buffers)."""
    rule = golden.metadata(name).get("weights", {})
    if group not in rule:
        return golden.under(name, group)
    return by_rule(rule[group])


def by_rule(entries: list[list[Any]]) -> dict[str, Tensor]:
    """Of a list of `[key, shape, base, scale, a, b, c]`, or `[key, shape, dtype, value]` for constants."""
    found = {}
    for key, shape, *numbers in entries:
        if isinstance(numbers[0], str):
            dtype, value = numbers
            found[key] = torch.full(shape, value, dtype=getattr(torch, dtype))
            continue
        base, scale, a, b, c = numbers
        i = torch.arange(torch.Size(shape).numel())
        places = ((a * i * i + b * i + c) % MODULUS).double()
        found[key] = (base + scale * (2 * places / MODULUS - 1)).float().reshape(shape)
    return found


@cache
def unet(name: str) -> UNet:
    network = UNet(unet_config(golden.metadata(name)["config"]))
    network.load_state_dict(weights(name, "unet"))
    return network.requires_grad_(False)


@cache
def control(name: str) -> ControlNetwork:
    """With gradients, as the second pivot's training wants it."""
    sizes = golden.metadata(name)["config"]
    channels = {"in_channels": sizes["in_channels"] + sizes["hint_channels"]}
    network = ControlNetwork(ControlConfig(**chosen(sizes, ControlConfig) | channels))
    network.load_state_dict(weights(name, "controlnet"))
    return network


@cache
def autoencoder(name: str) -> Autoencoder:
    network = Autoencoder(autoencoder_config(golden.metadata(name)["vae_config"]))
    network.load_state_dict(weights(name, "vae"))
    return network.requires_grad_(False)


@cache
def swinir(name: str) -> SwinIR:
    """Buffers are its own: files do not list them."""
    network = SwinIR(SwinIRConfig(**chosen(golden.metadata(name)["swinir_config"], SwinIRConfig)))
    network.load_state_dict(network.state_dict() | weights(name, "swinir"))
    return network.requires_grad_(False)


def scale_factor(name: str) -> float:
    return golden.metadata(name)["vae_config"]["scale_factor"]


def encode(name: str, pictures: Tensor) -> Tensor:
    """Pictures [B, 3, H, W] in [0, 1] -> the modes of their latents, scaled."""
    return scale_factor(name) * autoencoder(name).encode(2 * pictures - 1)


def decode(name: str, latents: Tensor) -> Tensor:
    """Scaled latents -> pictures, about [-1, 1]."""
    return autoencoder(name).decode(latents / scale_factor(name))


def steered(name: str, hint: Tensor, context: Tensor, control_context: Tensor | None = None) -> Denoiser:
    """U-Net and control network with a hint; `control_context` is the control network's own context."""
    other = context if control_context is None else control_context

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        own, control_s = (c.expand(len(x), -1, -1) for c in (context, other))
        return unet(name)(x, t, own, Conditioning(residuals=[control(name)(x, hint, t, control_s)]))

    return denoise


def trajectory(
    denoise: Denoiser,
    start: Tensor,
    noises: Tensor,
    schedule: Schedule,
    kind: PredictionType = "eps",
    guide: Guide | None = None,
) -> Tensor:
    """The states after each step, [steps, B, C, H, W]."""
    states: list[Tensor] = []
    sample_ddpm(
        denoise,
        start,
        schedule,
        kind,
        noises=noises,
        guide=guide,
        callback=lambda step: states.append(step.x),
    )
    return torch.stack(states)


def full(name: str) -> Schedule:
    """That of the training, before anything is rescaled."""
    sampler = golden.metadata(name)["sampler"]
    return Schedule.scaled_linear(sampler["linear_start"], sampler["linear_end"])
