"""A start for autoencoders: what they make of a picture is the mean colours of its cells."""

from __future__ import annotations

from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from ..models import Autoencoder
from ..models.autoencoder import AttnBlock, Resample
from ..models.blocks import ResnetBlock

COLOURS = 3
ANCHOR = 1.5
"""Size of the constants that keep a group's deviation what it is, whatever the picture."""


@torch.no_grad()
def start_as_low_pass(model: Autoencoder) -> None:
    """Let a new autoencoder pass the colours of a picture through, averaged over each latent pixel, in its
    first three latent channels; residual blocks and attention start as the identity.

    Without it most of a training goes by until colours are learned: group normalization takes their level
    away before each output, and large values in a corner are how a network finds to bring it back. So a
    colour x goes as (x, -x, c, -c), a group whose mean is 0 and whose deviation hardly depends on x, and
    silu(a) - silu(-a) = a undoes the activation.
    """
    for module in model.modules():
        if isinstance(module, (ResnetBlock, AttnBlock)):
            _zero(module.conv2 if isinstance(module, ResnetBlock) else module.proj_out)
    groups = model.config.norm_groups
    encoder: Any = model.encoder
    decoder: Any = model.decoder
    _spread(encoder.conv_in, groups)
    _spread(decoder.conv_in, groups)
    for part in (encoder, decoder):
        for module in part.modules():
            if isinstance(module, Resample):
                _carry(module.conv, groups, side=1 if module.up else 2)
            elif isinstance(module, ResnetBlock) and not isinstance(
                shortcut := module.get_submodule(ResnetBlock.SHORTCUT), nn.Identity
            ):
                _carry(shortcut, groups, side=1)
        _gather(part.conv_out, groups)
    convs: list[Any] = [model.quant_conv, model.post_quant_conv]
    for conv in convs:
        conv.weight.copy_(torch.eye(conv.weight.shape[0])[:, :, None, None])
        conv.bias.zero_()
    # Little noise on the latents to begin with.
    half = model.config.z_channels
    encoder.conv_out.weight[half:].zero_()
    encoder.conv_out.bias[half:].fill_(-6.0)


def _channels(width: int, groups: int) -> list[list[int]]:
    """Where (x, -x, c, -c) of each colour are among `width` channels: at the start of a group."""
    return [[colour * width // groups + i for i in range(4)] for colour in range(COLOURS)]


def _centre(conv: Any) -> Tensor:
    """The weights [out, in] of a convolution's central pixel."""
    return conv.weight[:, :, conv.kernel_size[0] // 2, conv.kernel_size[1] // 2]


def _zero(conv: Any, rows: list[int] | None = None) -> None:
    chosen = slice(None) if rows is None else rows
    conv.weight[chosen] = 0
    conv.bias[chosen] = 0


def _spread(conv: Any, groups: int) -> None:
    for colour, (plus, minus, high, low) in enumerate(_channels(conv.out_channels, groups)):
        _zero(conv, [plus, minus, high, low])
        _centre(conv)[plus, colour], _centre(conv)[minus, colour] = 1, -1
        conv.bias[high], conv.bias[low] = ANCHOR, -ANCHOR


def _carry(conv: Any, groups: int, side: int) -> None:
    sources, targets = (
        list(chain.from_iterable(_channels(width, groups))) for width in (conv.in_channels, conv.out_channels)
    )
    _zero(conv, targets)
    for source, target in zip(sources, targets, strict=True):
        if side > 1:
            conv.weight[target, source, :side, :side] = 1 / side**2
        else:
            _centre(conv)[target, source] = 1


def _gather(conv: Any, groups: int) -> None:
    """What a group of (x, -x, c, -c) and nothing else is divided by, times what is left of x."""
    width = conv.in_channels
    deviation = ANCHOR * (2 / (width // groups)) ** 0.5
    for colour, (plus, minus, *_) in enumerate(_channels(width, groups)):
        _zero(conv, [colour])
        _centre(conv)[colour, plus], _centre(conv)[colour, minus] = deviation, -deviation
