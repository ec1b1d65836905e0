"""The models that the golden loops were run with."""

import math
from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pfstorer_core.checkpoints.header import RestorerHeader
from pfstorer_core.diffusion.guidance import cfg_combine
from pfstorer_core.diffusion.sampling import Denoiser, SamplerStep, sample_ddpm
from pfstorer_core.diffusion.schedule import PredictionType, Schedule
from pfstorer_core.models import (
    Autoencoder,
    AutoencoderConfig,
    Conditioning,
    LQEncoder,
    LQEncoderConfig,
    UNet,
    UNetConfig,
)
from pfstorer_core.recognition import Recognizer
from pfstorer_core.restorers.base import Restorer

from . import golden

UNET, LQ_ENCODER = "stablesr_unet", "stablesr_structcond"

ConditionedModel = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(x, time steps, LQ latent) -> the network's output, for a canvas or a tile."""


def unet_config(params: Mapping[str, Any]) -> UNetConfig:
    """From the `params` of a latent-diffusion `unet_config` (extra entries are training matters)."""
    return UNetConfig(
        **chosen(params, UNetConfig),
        sft_channels=params.get("semb_channels", 0),
    )


def plain_unet(name: str) -> UNet:
    """Of a file with a U-Net that reads no text."""
    unet = UNet(unet_config({**golden.metadata(name)["config"], "context_dim": 0})).requires_grad_(False)
    unet.load_state_dict(golden.under(name, "weights"))
    return unet


def lq_encoder_config(params: Mapping[str, Any]) -> LQEncoderConfig:
    """From the `params` of StableSR's `structcond_stage_config`."""
    return LQEncoderConfig(**chosen(params, LQEncoderConfig))


def autoencoder_config(header: Mapping[str, Any], **others: Any) -> AutoencoderConfig:
    """From the `params` of a latent-diffusion `first_stage_config`."""
    sizes = chosen(header["ddconfig"], AutoencoderConfig)
    return AutoencoderConfig(**sizes, embed_dim=header["embed_dim"], **others)


@cache
def decoder(name: str) -> Autoencoder:
    """Of a file that has no weights of an encoder, and those of a codebook or not."""
    weights = golden.under(name, "weights")
    codebook = len(weights.get("quantize.embedding.weight", ()))
    model = Autoencoder(autoencoder_config(golden.metadata(name), codebook=codebook))
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert not unexpected
    assert all(key.startswith(("encoder.", "quant_conv.")) for key in missing)
    return model.requires_grad_(False)


def schedule_of(name: str) -> Schedule:
    """The full one that a file's header tells the betas of."""
    betas = golden.metadata(name)["schedule"]
    return Schedule.scaled_linear(betas["start"], betas["end"], betas["timesteps"])


def chosen(params: Mapping[str, Any], config: type) -> dict[str, Any]:
    """The entries that a config has a field for."""
    names = {field.name for field in fields(config)}
    return {k: tuple(v) if isinstance(v, list) else v for k, v in params.items() if k in names}


@cache
def load_unet(folder: Path) -> UNet:
    unet = UNet(unet_config(golden.metadata(UNET, folder)["config"]))
    unet.load_state_dict(golden.state_dict(UNET, folder))
    return unet.eval().requires_grad_(False)


@cache
def load_lq_encoder(folder: Path) -> LQEncoder:
    encoder = LQEncoder(lq_encoder_config(golden.metadata(LQ_ENCODER, folder)["config"]))
    encoder.load_state_dict(golden.state_dict(LQ_ENCODER, folder))
    return encoder.eval().requires_grad_(False)


def struct_cases() -> list[str]:
    """The cases of the U-Net whose structural features are given."""
    return [case for case in golden.cases(UNET, "out") if golden.group(UNET, f"{case}.struct")]


def loop_cases(name: str) -> list[str]:
    """The sampling loops of a file that can run: those with a text context need the networks."""
    return [
        case
        for case in golden.cases(name, "x_T")
        if "context" not in golden.group(name, case) or golden.has(UNET, LQ_ENCODER)
    ]


def loop_model(loop: Mapping[str, Tensor], guidance_scale: float = 1.0) -> ConditionedModel:
    """The model of a loop: the networks if its tensors have a text context, else the toy."""
    if "context" not in loop:
        return toy_model
    unet, encoder = load_unet(golden.folder()), load_lq_encoder(golden.folder())
    contexts = [loop[key] for key in ("context", "uncond_context") if key in loop]

    def model(x: Tensor, t: Tensor, lq_latent: Tensor) -> Tensor:
        features = Conditioning(encoder(lq_latent, t))
        # Tiles in one batch are stacked tile by tile, so the loop's context is repeated as a whole.
        cond, *uncond = [
            unet(x, t, context.repeat(len(x) // len(context), 1, 1), features) for context in contexts
        ]
        return cfg_combine(cond, uncond[0], guidance_scale) if uncond else cond

    return model


def restorer_of(unet: UNet, prediction_type: PredictionType) -> Restorer:
    """A restorer that has nothing but this U-Net, and the schedule that the golden numbers were made with."""
    constants = golden.document("stablesr_schedule")
    header = RestorerHeader(
        prediction_type,
        beta_start=constants["linear_start"],
        beta_end=constants["linear_end"],
        num_train_timesteps=constants["num_train_timesteps"],
    )
    nothing: Any = None
    return Restorer(unet, nothing, torch.zeros(1, 1, unet.config.context_dim), header)


def assert_loop(
    name: str, case: str, model: Denoiser, schedule: Schedule, prediction_type: PredictionType
) -> None:
    """Sampling by `model` passes through the reference's states, and ends where it did."""
    loop = golden.group(name, case)
    states: dict[int, Tensor] = {}

    def record(step: SamplerStep) -> None:
        states[step.total - 1 - step.number] = step.x

    out = sample_ddpm(model, loop["x_T"], schedule, prediction_type, noises=loop["noises"], callback=record)
    for index, state in golden.group(name, f"{case}.x_after_index").items():
        golden.assert_near(states[int(index)], state)
    golden.assert_near(out, loop["out"])


def toy_model(x: Tensor, t: Tensor, lq_latent: Tensor) -> Tensor:
    """A model in one formula, which sees time, channel and place in the tile."""
    _, channels, rows, columns = x.shape
    i = torch.arange(rows, dtype=x.dtype)[:, None]
    j = torch.arange(columns, dtype=x.dtype)
    c = torch.arange(1, channels + 1, dtype=x.dtype)[:, None, None]
    place = 0.02 * c * (i + 2 * j) / columns
    time = 0.01 * t.to(x.dtype)[:, None, None, None] / 1000
    return 0.1 * x + 0.05 * lq_latent + time + place


def reference_window(height: int, width: int) -> Tensor:
    """StableSR's weights of a tile, and DiffBIR's: half a cell off the centre in y."""
    middles = torch.tensor([height / 2, (width - 1) / 2], dtype=torch.float64)
    offsets = torch.cartesian_prod(torch.arange(height), torch.arange(width)) - middles
    squares = (offsets / torch.tensor([height, width])).square().sum(1)
    return (torch.exp(-squares / 0.02) / (0.02 * math.pi)).reshape(height, width)


ACTIVATIONS = {"silu": nn.SiLU, "flatten": nn.Flatten}


@cache
def recogniser(name: str) -> Recognizer:
    """The small network of a file, which its header describes."""
    weights = golden.under(name, "recogniser")
    layers: list[nn.Module] = []
    for number, layer in enumerate(golden.metadata(name)["recogniser"]["layers"]):
        if isinstance(layer, str):
            layers.append(ACTIVATIONS[layer]())
            continue
        before = weights[f"{number}.weight"].shape[1]
        sizes = layer.get("conv")
        layers.append(nn.Conv2d(before, *sizes) if sizes else nn.Linear(before, layer["linear"]))
    network = nn.Sequential(*layers)
    network.load_state_dict(weights)
    return Recognizer(network.requires_grad_(False))
