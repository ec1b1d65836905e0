"""The networks' builders, conditions and hooks, beside what the golden data hold."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from lab.benchmarks.operations import counted
from pfstorer_core.models import (
    AutoencoderConfig,
    BlockHooks,
    Conditioning,
    ControlConfig,
    LQEncoderConfig,
    UNet,
    UNetConfig,
)
from pfstorer_core.models.conditioning import for_rows
from pfstorer_core.models.ops import Backend

from .small import CONTROLLED, SIZES

MOST = 1185, 809
"""Operations that launch something in one evaluation at full size, with the LQ encoder and without, of
weights as a host has them: at most so many."""


@pytest.fixture(scope="module")
def unet() -> UNet:
    torch.manual_seed(0)
    return UNet(SIZES).eval().requires_grad_(False)


@pytest.fixture
def given() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x, lq = torch.randn(2, 2, 4, 10, 13, generator=generator)
    return x, torch.tensor([3, 3]), torch.randn(2, 5, SIZES.context_dim, generator=generator), lq


Given = tuple[Tensor, Tensor, Tensor, Tensor]


def test_rows_may_share_their_condition(unet: UNet, given: Given) -> None:
    x, t, context, lq = given
    shared, expanded = lq[:1], lq[:1].expand(2, -1, -1, -1)
    torch.testing.assert_close(unet(x, t, context, shared), unet(x, t, context, expanded))
    assert (unet(x, t, context, shared) - unet(x, t, context, lq)).abs().max() > 1e-3


def test_a_condition_may_be_computed_once(unet: UNet, given: Given) -> None:
    x, t, context, lq = given
    condition = unet.conditioning(lq, x, t, context)
    assert torch.equal(unet(x, t, context, condition), unet(x, t, context, lq))
    assert unet.conditioning(condition, x, t, context) is condition


def test_residuals_of_several_networks_add_up_and_stay(unet: UNet, given: Given) -> None:
    x, t, context, _ = given
    generator = torch.Generator().manual_seed(2)
    middle, output = torch.randn(2, 2, 64, 3, 4, generator=generator)
    one, other = {"middle": [middle]}, {"output": [None, output], "input": [None]}
    halves = [{"middle": [middle / 2]}, {"middle": [middle / 2]}, other]
    together = unet(x, t, context, Conditioning(residuals=[one, other]))
    torch.testing.assert_close(unet(x, t, context, Conditioning(residuals=halves)), together)
    for alone in (one, other):
        assert (unet(x, t, context, Conditioning(residuals=[alone])) - together).abs().max() > 1e-3
    assert [len(rows) for rows in other.values()] == [2, 1], "the lists of the caller were used up"


def test_hooks_come_in_order_and_by_name(unet: UNet, given: Given) -> None:
    x, t, context, lq = given
    seen: list[str] = []
    hooks = BlockHooks(start=lambda block, inputs: (seen.append(block), inputs)[1])
    assert torch.equal(unet(x, t, context, lq, hooks=hooks), unet(x, t, context, lq))
    inputs, outputs = len(unet.input_blocks), len(unet.output_blocks)
    expected = [f"input_blocks.{i}" for i in range(inputs)] + ["middle_block"]
    assert seen == expected + [f"output_blocks.{i}" for i in range(outputs)]


def test_a_hook_may_change_what_a_block_sees(unet: UNet, given: Given) -> None:
    x, t, context, _ = given
    hooks = BlockHooks(start=lambda _, inputs: replace(inputs, context=context.flip(0)))
    assert torch.equal(unet(x, t, context, hooks=hooks), unet(x, t, context.flip(0)))


def test_queries_are_told_and_the_rest_is_not_computed(unet: UNet, given: Given) -> None:
    x, t, context, _ = given
    found: dict[str, Tensor] = {}
    site = "output_blocks.1.1"
    tokens: list[Tensor] = []
    sites = {site: lambda features: (tokens.append(features), features)[1]}
    hooks = BlockHooks(queries={site: lambda q: found.update({site: q})}, until="output_blocks.1")
    features = unet(x, t, context, sites=sites, hooks=hooks)
    assert features.shape[1] == unet.config.widths[-1]
    assert found[site].shape == tokens[0].shape
    attn = unet.get_submodule(site).transformer_blocks[0].attn2  # type: ignore[union-attr]
    asked: list[Tensor] = []
    handle = attn.to_q.register_forward_hook(lambda _m, _i, out: asked.append(out))
    unet(x, t, context)
    handle.remove()
    assert torch.equal(found[site], asked[0])


def test_a_site_may_be_any_layer(given: Given) -> None:
    """A residual block, a transformer and a plain attention have their features replaced as tokens."""
    x, t, context, _ = given
    for sizes, name in (
        (SIZES, "output_blocks.1.0"),
        (SIZES, "output_blocks.1.1"),
        (replace(SIZES, context_dim=0, num_head_channels=16), "output_blocks.1.1"),
    ):
        torch.manual_seed(0)
        unet = UNet(sizes).eval().requires_grad_(False)
        context = context if sizes.context_dim else None
        plain = unet(x, t, context)
        assert torch.equal(unet(x, t, context, sites={name: lambda tokens: tokens}), plain)
        assert (unet(x, t, context, sites={name: lambda tokens: 2 * tokens}) - plain).abs().max() > 1e-4


def test_it_compiles_as_one_graph(given: Given) -> None:
    x, t, context, lq = given
    few = {"channel_mult": (1,), "attention_resolutions": (1,), "num_res_blocks": 1}
    encoder = LQEncoderConfig(model_channels=32, out_channels=32, **few)  # type: ignore[arg-type]
    unet = UNet(replace(SIZES, **few, num_head_channels=32, lq_encoder=encoder)).eval()  # type: ignore[arg-type]
    unet.requires_grad_(False)
    compiled = torch.compile(unet, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, t, context, lq), unet(x, t, context, lq))


@torch.no_grad()
def test_a_step_dispatches_no_more_than_it_did() -> None:
    meta = Backend(device="meta")
    unet = UNet(UNetConfig(lq_encoder=LQEncoderConfig()), meta)
    x, t, context = (torch.empty(size, device="meta") for size in ((1, 4, 64, 64), (1,), (1, 77, 1024)))
    for condition, most in zip((x, None), MOST, strict=True):
        assert counted(lambda condition=condition: unet(x, t, context, condition)).total() <= most


def test_gradients_are_checkpointed_in_all_blocks_of_the_unet_and_its_control_network() -> None:
    unet = UNet(
        replace(SIZES, control=ControlConfig(model_channels=64, channel_mult=(1,))), Backend(device="meta")
    )
    unet.checkpoint_gradients()
    on = {name for name, module in unet.named_modules() if getattr(module, "recompute", False)}
    rows = ("input_blocks", "output_blocks", "control_model.input_blocks")
    own = {f"{name}.{i}" for name in rows for i in range(len(unet.get_submodule(name)))}  # type: ignore[arg-type]
    assert on == own | {"middle_block", "control_model.middle_block"}
    unet.checkpoint_gradients(False)
    assert not any(getattr(module, "recompute", False) for module in unet.modules())


@pytest.mark.parametrize("levels", [1, 2])
def test_cfw_without_a_level_for_it_is_refused(levels: int) -> None:
    with pytest.raises(ValueError, match=rf"this one has {levels}: it needs 3 or more"):
        AutoencoderConfig(ch_mult=(1,) * levels, cfw=True)


def test_pictures_are_repeated_as_the_rows_of_guidance_are() -> None:
    picture = torch.arange(2.0).reshape(2, 1, 1, 1)
    assert for_rows(picture, torch.zeros(4, 1, 1, 1)).flatten().tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize(
    "sizes", [SIZES, CONTROLLED, replace(SIZES, in_channels=8, sft_channels=0, lq_encoder=None)]
)
def test_the_first_rows_alone_may_see_the_condition(sizes: UNetConfig, given: Given) -> None:
    x, t, context, lq = given
    torch.manual_seed(3)
    unet = UNet(sizes).eval().requires_grad_(False)
    for out in unet.control_model.zero_convs if unet.control_model else ():
        torch.nn.init.normal_(out[0].weight, std=0.1)  # pyright: ignore
    both = [part.repeat(2, *[1] * (part.ndim - 1)) for part in (x, t, context)]
    seeing, blind = unet(*both, lq, condition_rows=2).chunk(2)
    torch.testing.assert_close(seeing, unet(x, t, context, lq), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(blind, unet(x, t, context), rtol=1e-4, atol=1e-5)
    assert (seeing - blind).abs().max() > 1e-3
