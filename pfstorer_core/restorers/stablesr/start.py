"""Where a training of a base restorer starts: from a file, or from nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...checkpoints.errors import StateDict
from ...checkpoints.header import RestorerHeader
from ...checkpoints.layouts import BASE
from ...checkpoints.parts import AUTOENCODER, TEXT, UNET
from ...checkpoints.tensors import check_fit, read_layout
from ...diffusion.schedule import PredictionType
from ...models import Autoencoder, Backend, LQEncoderConfig, TextTower, TextTowerConfig, UNet, UNetConfig
from ...models.attention import AttentionBlock
from ...models.blocks import ResBlock
from ...models.sft import SFT
from ...models.transformer import SpatialTransformer
from ...training.data import Crops
from ..base import Restorer
from ..files import RestorerFile, open_restorer
from ..trainable import TrainableRestorer, is_trained, trainable
from .tiny import TINY, TINY_TEXT

FITTED_PICTURES = 100
"""Pictures that the latent scale and the preview colours are fitted to."""


def open_start(
    path: Path | str,
    addons: Sequence[Path | str] = (),
    *,
    train: str = "sft",
    captions: bool = False,
    prediction_type: PredictionType | None = None,
    frozen_dtype: torch.dtype = torch.float32,
    renew: Sequence[str] = (),
    seed: int = 0,
) -> TrainableRestorer:
    """Start from a restorer, or from an SD 2.1 checkpoint, which gets SFT layers whose gamma and beta are
    zero and a new LQ encoder, of StableSR's sizes.

    Args:
        addons: see `open_restorer`.
        train: "sft", "unet" or "all", see `is_trained`.
        captions: also load the text tower.
        frozen_dtype: of what is not trained.
        renew: parts of the U-Net that are drawn anew, such as "middle_block" or "attn2": what has learned
            nothing but noise learns better from nothing. Their SFT layers stay.
        seed: of that draw.
    Raises:
        FileNotFoundError, CheckpointError: see `open_restorer`; also where captions are wanted and there
            is no text tower.
        ValueError: a part to renew that is not there or not trained.
    """
    file = open_generator(path, addons, prediction_type)
    unet, _ = file.build(Backend(device="meta"))
    new = [key for key in unet.state_dict() if key not in file.unet]
    check_fit({key: value for key, value in unet.state_dict().items() if key not in new}, file.unet, "U-Net")
    file = replace(file, unet={**(_fresh(unet) if new else {}), **file.unet})
    start = trainable(file, Path(path).name, train=train, captions=captions, frozen_dtype=frozen_dtype)
    _renew(start.restorer.unet, renew, train, seed)
    return start


def new_start(
    autoencoder: Autoencoder,
    crops: Crops,
    *,
    train: str = "unet",
    prediction_type: PredictionType = "v",
    config: UNetConfig = TINY,
    text: TextTowerConfig = TINY_TEXT,
    seed: int = 0,
) -> TrainableRestorer:
    """Start from nothing but an autoencoder: a new U-Net and a new text tower, which is trained with it.

    Raises:
        ValueError: `train` is "sft", which needs a U-Net that can already draw.
    """
    if train == "sft":
        raise ValueError(
            "SFT is trained on a U-Net that can draw: name one to start from, or train unet or all."
        )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        unet, tower = UNet(config), TextTower(text)
        start_idle(unet, sft_acts=train != "unet")
        # As OpenCLIP draws them; torch's own draw of an embedding would drown the positions.
        nn.init.normal_(tower.model.token_embedding.weight, std=0.02)
        nn.init.normal_(tower.model.positional_embedding, std=0.01)
    blocks = cast("nn.ModuleList", tower.model.transformer["resblocks"])
    blocks[-1].requires_grad_(False)
    for key, parameter in unet.named_parameters():
        parameter.requires_grad_(is_trained(train, key))
    images = [crops[k]["image"][None].float() / 255 for k in range(min(FITTED_PICTURES, len(crops)))]
    scale = latent_scale(autoencoder, images)
    assert config.lq_encoder is not None
    header = RestorerHeader(
        prediction_type=prediction_type,
        scale_factor=scale,
        image_size=crops.size,
        num_head_channels=config.num_head_channels,
        lq_num_heads=config.lq_encoder.num_heads,
        norm_groups=config.norm_groups,
        preview=preview_colours(autoencoder, images, scale),
    )
    empty = torch.zeros(1, 1, config.context_dim)  # the tower's answer takes its place
    return TrainableRestorer(Restorer(unet, autoencoder, empty, header, tower), {}, {}, {})


def open_generator(
    path: Path | str,
    addons: Sequence[Path | str] = (),
    prediction_type: PredictionType | None = None,
    variant: str | None = None,
) -> RestorerFile:
    """A restorer, or an SD 2.1 checkpoint with the sizes of StableSR's SFT layers and LQ encoder, whose
    weights are not there yet. See `open_start` for the errors."""
    path = Path(path)
    tensors, metadata, layout = read_layout(path)
    if addons or layout is not BASE:
        return open_restorer(path, addons, prediction_type, variant)
    header = RestorerHeader.from_file(metadata, tensors, path.name)
    if prediction_type is not None:
        header = replace(header, prediction_type=prediction_type)
    unet, autoencoder = UNET.of(tensors), AUTOENCODER.of(tensors)
    plain, own = UNET.config_from(unet, header), UNetConfig()
    sizes = replace(
        plain,
        sft_channels=own.sft_channels,
        sft_hidden=own.sft_hidden,
        lq_encoder=LQEncoderConfig(
            in_channels=plain.in_channels,
            channel_mult=LQEncoderConfig().channel_mult[: len(plain.channel_mult)],
            num_heads=header.lq_num_heads,
            norm_groups=header.norm_groups,
        ),
    )
    return RestorerFile(
        unet,
        autoencoder,
        TEXT.of(tensors),
        None,
        sizes,
        AUTOENCODER.config_from(autoencoder, header),
        header,
    )


def _fresh(unet: UNet) -> StateDict:
    """New weights of the SFT layers and the LQ encoder of a U-Net on the meta device."""
    weights: StateDict = {}
    for name, module in unet.named_modules():
        if isinstance(module, SFT) or name == "lq_encoder":
            module.to_empty(device="cpu")
            _reset(module.modules())
            if isinstance(module, SFT):
                _zero(module)
            weights |= {f"{name}.{key}": value for key, value in module.state_dict().items()}
    return weights


def _renew(unet: UNet, parts: Sequence[str], train: str, seed: int) -> None:
    """Raises ValueError where a part is not there, or is not trained: the file would keep the old one."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for wanted in parts:
            layers = [
                module
                for name, module in unet.named_modules()
                if f".{wanted}." in f".{name}."
                and ".spade" not in name
                and name.startswith("lq_encoder") == wanted.startswith("lq_encoder")
                and is_trained(train, f"{name}.")
            ]
            if not layers:
                raise ValueError(
                    f"The U-Net has no {wanted!r} to renew that --train {train} trains; "
                    "output_blocks.3 is one of unet and all, or attn2."
                )
            _reset(layers)


def _reset(layers: Iterable[nn.Module]) -> None:
    """torch's own draw of their weights."""
    for layer in layers:
        if hasattr(layer, "reset_parameters"):
            layer.reset_parameters()  # type: ignore[operator]


def start_idle(unet: UNet, sft_acts: bool) -> None:
    """Latent diffusion's start: residual branches and the output begin at zero."""
    for module in unet.modules():
        if isinstance(module, SFT):
            _zero(module)
        elif isinstance(module, (SpatialTransformer, AttentionBlock)):
            _zero_layer(module.proj_out)
        elif isinstance(module, ResBlock) and not (sft_acts and module.spade):
            _zero_layer(module.out_layers[-1])  # where SFT acts, its norm would enlarge a zero's noise
    _zero_layer(unet.out[-1])


def _zero(sft: SFT) -> None:
    """StableSR's start: gamma = beta = 0, whatever the LQ picture."""
    _zero_layer(sft.mlp_gamma)
    _zero_layer(sft.mlp_beta)


def _zero_layer(layer: nn.Module) -> None:
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)


@torch.no_grad()
def latent_scale(autoencoder: Autoencoder, images: Sequence[Tensor]) -> float:
    """What gives the latents of pictures [1, 3, H, W] in [0, 1] the deviation 1."""
    return 1 / torch.cat([autoencoder.encode(2 * image - 1).flatten() for image in images]).std().item()


@torch.no_grad()
def preview_colours(autoencoder: Autoencoder, images: Sequence[Tensor], scale: float) -> list[list[float]]:
    """`RestorerHeader.preview`: the linear map from latents to small pictures that fits best here."""
    small, latents = [], []
    for image in images:
        latent = autoencoder.encode(2 * image - 1) * scale
        latents.append(latent.flatten(2).squeeze(0).T)
        small.append(F.avg_pool2d(2 * image - 1, autoencoder.config.downscale).flatten(2).squeeze(0).T)
    points = F.pad(torch.cat(latents), (0, 1), value=1.0)
    return torch.linalg.lstsq(points, torch.cat(small)).solution.tolist()
