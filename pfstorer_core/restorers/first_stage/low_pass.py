"""A start for autoencoders: a small picture in the first three channels of the latent, or in the first six,
its lightness then at twice the size.

Between two of its latent pixels a decoder of convolutions on nearest-neighbour enlargements cannot tell
where it is, and group normalization takes the level of colours away before each output. Found by gradient
descent, ways around both take most of a training; here they are where it starts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ...models import Autoencoder
from ...models.autoencoder import AttnBlock
from ...models.blocks import ResnetBlock

ANCHOR = 4.0
"""Size of the constants that keep a group's deviation what it is, whatever the picture."""

COLOURS = torch.tensor([[1 / 3, 1 / 3, 1 / 3], [1 / 2, 0, -1 / 2], [-1 / 3, 2 / 3, -1 / 3]])
"""Lightness, red against blue, green against both, from red, green and blue; `inverse()` leads back."""

Tap = tuple[int, int, int, int, float]
"""(from carrier, to carrier, row and column of the kernel, weight)"""

MEAN = [(k, k, y, x, 0.25) for k in range(3) for y in (0, 1) for x in (0, 1)]
SAME = [(k, k, 1, 1, 1.0) for k in range(3)]
PHASES = [(y, x) for y in (0, 1) for x in (0, 1)]
SPLIT = [
    *((0, number, y, x, 1.0) for number, (y, x) in enumerate(PHASES)),
    *((k, k + 3, y, x, 0.25) for k in (1, 2) for y, x in PHASES),
]
"""Halves once more without losing lightness: its four phases become four carriers."""
JOIN = [
    *((number, 0, 1 - y, 1 - x, 0.25) for number, (y, x) in enumerate(PHASES)),
    *((k + 3, k, 1, 1, 1.0) for k in (1, 2)),
]
"""Enlarges them, each to where it came from: together their boxes are half a pixel off, which `SHIFT` mends
at twice the size."""
SHIFT = [(0, 0, 2, 2, 1.0), *SAME[1:]]

ENLARGED = torch.eye(3)[[0, 0, 0, 0, 1, 2]]
"""Where the latent has the lightness at its own size, its four phases are made of it."""
BETWEEN = torch.tensor([[0.25, 0.75, 0.0], [0.0, 0.75, 0.25]])
"""By these parts of a pixel and its neighbours, along a side."""


@torch.no_grad()
def start_as_low_pass(model: Autoencoder, outer: bool = False) -> None:
    """Let a new autoencoder pass a blurred picture through; residual blocks and attention start as the
    identity, and further latent channels as they are drawn. One that has no room for it stays as it is: it
    takes two halvings, three latent channels, and six groups of four channels or more.

    A value x travels as (x, -x, c, -c), in a group of normalization of its own: its mean is 0, its deviation
    hardly depends on x, and silu(a) - silu(-a) = a undoes the activation.

    Args:
        outer: whether its levels are to be the outer ones of a deeper autoencoder that began here, which has
            the lightness at these levels' own size.
    """
    config = model.config
    room = len(config.ch_mult) > 2 and config.z_channels >= 3 and config.norm_groups >= 6
    if not room or config.ch < 4 * config.norm_groups:
        return
    for module in model.modules():
        if isinstance(module, ResnetBlock):
            _zero(module.conv2)
        elif isinstance(module, AttnBlock):
            _zero(module.proj_out)
    groups = config.norm_groups
    encoder: Any = model.encoder
    decoder: Any = model.decoder

    _spread(encoder.conv_in, groups, COLOURS)
    halvings, split = len(encoder.down) - 1, config.z_channels >= 6
    for level, layers in enumerate(encoder.down):
        _shortcuts(layers, groups, 6 if split and level == halvings else 3)
        if level < halvings:
            _carry(layers.downsample.conv, groups, SPLIT if split and level == halvings - 1 else MEAN)
    _gather(encoder.conv_out, groups, torch.eye(6 if split else 3))

    enlarges = not split and not outer
    _spread(decoder.conv_in, groups, ENLARGED if enlarges else torch.eye(6 if split else 3))
    if enlarges:
        _interpolate(decoder.conv_in, groups)
    for level, layers in reversed(list(enumerate(decoder.up))):
        _shortcuts(layers, groups, 6 if level == halvings else 3)
        if level:
            kinds = {halvings: JOIN, halvings - 1: SHIFT}
            _carry(layers.upsample.conv, groups, kinds.get(level, SAME))
    _gather(decoder.conv_out, groups, COLOURS.inverse())

    convs: list[Any] = [model.quant_conv, model.post_quant_conv]
    for conv in convs:
        conv.weight.copy_(torch.eye(conv.weight.shape[0])[:, :, None, None])
        conv.bias.zero_()
    if not config.double_z:
        return
    # Little noise on the latents to begin with.
    half = config.z_channels
    encoder.conv_out.weight[half:].zero_()
    encoder.conv_out.bias[half:].fill_(-9.0)


def _places(width: int, groups: int, carrier: int) -> list[int]:
    """The channels of (x, -x, c, -c): at the start of a group."""
    return [carrier * (width // groups) + i for i in range(4)]


def _zero(conv: Any, rows: Sequence[int] | None = None) -> None:
    chosen = slice(None) if rows is None else list(rows)
    conv.weight[chosen] = 0
    conv.bias[chosen] = 0


def _spread(conv: Any, groups: int, mixture: torch.Tensor) -> None:
    """From plain channels to carriers, by a matrix [carriers, channels]."""
    for carrier, weights in enumerate(mixture):
        plus, minus, high, low = places = _places(conv.out_channels, groups, carrier)
        _zero(conv, places)
        conv.weight[plus, : len(weights), 1, 1] = weights
        conv.weight[minus, : len(weights), 1, 1] = -weights
        conv.bias[high], conv.bias[low] = ANCHOR, -ANCHOR


def _interpolate(conv: Any, groups: int) -> None:
    """Let the first four carriers be the phases of the first channel, twice as large."""
    for carrier, (y, x) in enumerate(PHASES):
        plus, minus, *_ = _places(conv.out_channels, groups, carrier)
        taps = BETWEEN[y][:, None] * BETWEEN[x]
        conv.weight[plus, 0], conv.weight[minus, 0] = taps, -taps


def _carry(conv: Any, groups: int, taps: Sequence[Tap]) -> None:
    """From carriers to carriers."""
    for target in {tap[1] for tap in taps}:
        _zero(conv, _places(conv.out_channels, groups, target))
    for source, target, y, x, weight in taps:
        pair = _places(conv.in_channels, groups, source), _places(conv.out_channels, groups, target)
        for i, o in zip(*pair, strict=True):
            conv.weight[o, i, y % conv.kernel_size[0], x % conv.kernel_size[1]] = weight


def _shortcuts(layers: Any, groups: int, carriers: int) -> None:
    for block in layers.block:
        shortcut = block.get_submodule(ResnetBlock.SHORTCUT)
        if not isinstance(shortcut, nn.Identity):
            _carry(shortcut, groups, [(k, k, 0, 0, 1.0) for k in range(carriers)])


def _gather(conv: Any, groups: int, mixture: torch.Tensor) -> None:
    """From carriers to plain channels, by a matrix [channels, carriers]: a group of (x, -x, c, -c) and little
    else was divided by its deviation."""
    width = conv.in_channels
    deviation = ANCHOR * (2 / (width // groups)) ** 0.5
    _zero(conv, range(len(mixture)))
    for channel, weights in enumerate(mixture):
        for carrier, weight in enumerate(weights):
            plus, minus, *_ = _places(width, groups, carrier)
            conv.weight[channel, plus, 1, 1] = deviation * weight
            conv.weight[channel, minus, 1, 1] = -deviation * weight
