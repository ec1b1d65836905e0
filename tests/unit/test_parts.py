"""A network's sizes are told from its own tensors: whatever was built."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch

from pfstorer_core import CheckpointError, RestorerHeader
from pfstorer_core.checkpoints.parts import AUTOENCODER, CONTROL, LQ_ENCODER, PARTS, SWINIR, TEXT, UNET, Part
from pfstorer_core.checkpoints.parts.dlib_resnet import DLIB_RESNET
from pfstorer_core.checkpoints.parts.iresnet import IRESNET
from pfstorer_core.models import (
    AutoencoderConfig,
    ControlConfig,
    LQEncoderConfig,
    SwinIRConfig,
    TextTowerConfig,
    UNetConfig,
)
from pfstorer_core.models.dlib_resnet import DlibResNetConfig
from pfstorer_core.models.iresnet import IRESNET18, IRESNET50, IRESNET100, IResNetConfig

FEW: dict[str, Any] = {"model_channels": 32, "channel_mult": (1,), "attention_resolutions": (1,)}
LQ = LQEncoderConfig(**FEW, out_channels=32, num_res_blocks=1)
LEVELS = [((1,), (1,)), ((1, 2), (2, 1)), ((1, 2), ()), ((1, 1, 2), (4, 2)), ((1, 2, 3, 4), (8, 2))]
"""Widths of levels, and the factors that attend."""


def encoders() -> Iterator[dict[str, Any]]:
    for number, ((levels, attending), blocks) in enumerate(product(LEVELS, (1, 2))):
        yield {
            "in_channels": (3, 4, 9)[number % 3],
            "model_channels": 32,
            "channel_mult": levels,
            "attention_resolutions": attending,
            "num_res_blocks": blocks,
        }


def unets() -> Iterator[tuple[UNetConfig, RestorerHeader]]:
    kinds: list[dict[str, Any]] = [
        {"context_dim": 0},
        {"context_dim": 24, "transformer_depth": 2},
        {"context_dim": 64, "sft_channels": 32, "sft_hidden": 16, "lq_encoder": LQ},
        {"context_dim": 64, "control": ControlConfig(**FEW, context_dim=64)},
    ]
    told: dict[str, Any]
    for number, (sizes, kind) in enumerate(product(encoders(), kinds)):
        heads, groups = [(32, 32), (16, 8), (8, 32)][number % 3]
        told = {"num_head_channels": heads, "norm_groups": groups}
        children = {
            name: replace(kind[name], **({"norm_groups": groups} if name == "lq_encoder" else told))
            for name in ("lq_encoder", "control")
            if name in kind
        }
        header = replace(RestorerHeader(), **told, lq_num_heads=LQ.num_heads)
        yield UNetConfig(**{"sft_channels": 0, **sizes, **kind, **told, **children}), header


def controls() -> Iterator[tuple[ControlConfig, RestorerHeader]]:
    for sizes, width in product(encoders(), (0, 20)):
        yield (
            ControlConfig(**sizes, context_dim=width, num_head_channels=16),
            RestorerHeader(num_head_channels=16),
        )


def lq_encoders() -> Iterator[tuple[LQEncoderConfig, RestorerHeader]]:
    for number, sizes in enumerate(encoders()):
        heads, groups = [(4, 32), (2, 8)][number % 2]
        config = LQEncoderConfig(**sizes, out_channels=64, num_heads=heads, norm_groups=groups)
        yield config, RestorerHeader(lq_num_heads=heads, norm_groups=groups)


def autoencoders() -> Iterator[tuple[AutoencoderConfig, RestorerHeader]]:
    kinds = [(0, True), (0, False), (48, False), (48, True)]
    for (levels, _), (codebook, double), attends in product(LEVELS, kinds, (True, False)):
        for cfw in {False, len(levels) > 2}:
            yield (
                AutoencoderConfig(
                    ch=32, ch_mult=levels, num_res_blocks=1, z_channels=3, embed_dim=5, cfw=cfw,
                    codebook=codebook, double_z=double, mid_attention=attends, norm_groups=8,
                ),
                RestorerHeader(norm_groups=8),
            )  # fmt: skip


def towers() -> Iterator[tuple[TextTowerConfig, RestorerHeader]]:
    for width, layers, length in product((64, 192), (1, 3), (3, 77)):
        config = TextTowerConfig(width, width // 64, layers, vocab=50, context_length=length)
        yield config, RestorerHeader()


def cleaners() -> Iterator[tuple[SwinIRConfig, RestorerHeader]]:
    for (depths, heads), (window, img_size), (ratio, scale) in product(
        [((1, 2), (2, 3)), ((2,), (1,)), ((4, 4, 4), (6, 2, 2))],
        [(8, 64), (8, 16), (4, 4), (2, 6)],
        [(2, 8), (1.5, 4), (4, 2)],
    ):
        yield SwinIRConfig(12, depths, heads, window, ratio, img_size, scale), RestorerHeader()


def recognisers() -> Iterator[tuple[IResNetConfig, RestorerHeader]]:
    for config in (IRESNET18, IRESNET50, IRESNET100):
        yield config, RestorerHeader()
    for depths, stem, side in product([(1, 1, 1, 1), (2, 1, 3, 1)], (3, 8), (16, 48)):
        yield IResNetConfig(stem, (8, 8, 16, 5), depths, 7, side), RestorerHeader()


def dlib_recognisers() -> Iterator[tuple[DlibResNetConfig, RestorerHeader]]:
    yield DlibResNetConfig(), RestorerHeader()
    for stem, (widths, depths), features in product(
        (4, 7), [((4,), (1,)), ((4, 8), (2, 3)), ((8, 4, 4), (1, 2, 1))], (5, 9)
    ):
        yield DlibResNetConfig(stem, widths, depths, features), RestorerHeader()


ALL: dict[Part, Callable[[], Iterator[Any]]] = {
    UNET: unets,
    CONTROL: controls,
    LQ_ENCODER: lq_encoders,
    AUTOENCODER: autoencoders,
    TEXT: towers,
    SWINIR: cleaners,
    IRESNET: recognisers,
    DLIB_RESNET: dlib_recognisers,
}


def test_every_part_is_tried() -> None:
    assert set(ALL) >= set(PARTS)


@pytest.mark.parametrize("part", ALL, ids=lambda part: part.title)
def test_what_was_built_tells_its_sizes(part: Part) -> None:
    seen = 0
    for config, header in ALL[part]():
        weights = part.expected(config)
        assert part.sign in weights
        assert part.config_from(weights, header) == config
        assert part.of(part.prefixed(weights)) == weights
        part.check_fit(weights, config)
        seen += 1
    assert seen >= 8


@pytest.mark.parametrize("part", ALL, ids=lambda part: part.title)
def test_what_does_not_fit_is_named(part: Part) -> None:
    config, header = next(iter(ALL[part]()))
    weights = part.expected(config)
    last = list(weights)[-1]
    with pytest.raises(
        CheckpointError, match=rf"^The {part.title} .*: 1 missing: {last}; 1 unexpected: more"
    ):
        part.check_fit({k: v for k, v in weights.items() if k != last} | {"more": torch.zeros(1)}, config)
    with pytest.raises(CheckpointError, match=rf"no complete .*{part.title}: {part.prefix}"):
        part.config_from({}, header)


def test_heads_and_groups_of_the_header_have_to_divide_the_widths() -> None:
    weights = UNET.expected(next(unets())[0])
    for header, words in (
        (RestorerHeader(num_head_channels=24), "attention heads of 24 do not divide"),
        (RestorerHeader(num_head_channels=32, norm_groups=5), "groups of normalization of 5 do not divide"),
    ):
        with pytest.raises(CheckpointError, match=words):
            UNET.config_from(weights, header)


def test_fusion_layers_without_a_level_for_them_are_damage() -> None:
    config = AutoencoderConfig(ch=32, ch_mult=(1, 2), num_res_blocks=1)
    weights = AUTOENCODER.expected(config) | {"decoder.fusion_layer_1.x": torch.zeros(1)}
    with pytest.raises(CheckpointError, match=r"autoencoder .*damaged.*this one has 2: it needs 3 or more"):
        AUTOENCODER.config_from(weights)


@pytest.mark.parametrize(
    ("key", "shape", "words"),
    [
        ("conv_first.1.weight", (12, 108, 3, 3), "6 pixels along a token, expected 2, 4 or 8"),
        ("conv_first.1.weight", (11, 192, 3, 3), r"\(2, 3\) heads do not divide its width 11"),
        ("layers.0.residual_group.blocks.0.attn.relative_position_bias_table", (1, 2), "windows of 1 tokens"),
    ],
)
def test_sizes_of_a_cleaner_that_cannot_be_are_damage(key: str, shape: tuple[int, ...], words: str) -> None:
    weights = SWINIR.expected(next(cleaners())[0]) | {key: torch.zeros(shape)}
    with pytest.raises(CheckpointError, match=rf"SwinIR cleaner .*damaged.*{words}"):
        SWINIR.config_from(weights)


def test_blocks_that_a_cleaner_s_keys_only_claim_are_not_built() -> None:
    weights = SWINIR.expected(next(cleaners())[0])
    more = {f"layers.1.residual_group.blocks.{number}.x": torch.zeros(1) for number in range(2, 400)}
    with pytest.raises(CheckpointError, match=r"SwinIR cleaner .*its keys claim 401 blocks"):
        SWINIR.config_from(weights | more)
