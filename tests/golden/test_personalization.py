"""The personalization block, its mask and its loss against ViCo."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from pfstorer_core.models import Backend, UNet
from pfstorer_core.models.layers import LayerInputs
from pfstorer_core.models.transformer import SpatialTransformer
from pfstorer_core.personalization.pfstorer.block import Influence
from pfstorer_core.personalization.pfstorer.reference import (
    attention_loss,
    columns_at,
    otsu_mask,
    reference_features,
    token_maps,
)
from pfstorer_core.restorers.changes import sum_at

from . import golden
from .vico import IMAGE, block_of, split, weights

NAME = "output_blocks.0.1"
BLOCK, SITE, OTSU, REG = (f"vico_{name}" for name in ("block", "spatial_transformer", "otsu", "attn_reg"))


@pytest.mark.parametrize(
    ("mask", "out"), [("mask", "masked"), (None, "no_mask"), ("mask_single", "mask_single")]
)
def test_block(mask: str | None, out: str):
    given, expected = golden.group(BLOCK, "in"), golden.group(BLOCK, "out")
    block = block_of(weights(BLOCK), golden.metadata(BLOCK)["heads"])
    reference = block.read(given["ref"], given[mask].bool() if mask else None)
    golden.assert_near(given["x"] + block.change(given["x"], reference), expected[out])


def test_gate():
    given, derived = golden.group(BLOCK, "in"), golden.group(BLOCK, "derived")
    block = block_of(weights(BLOCK) | {"gamma": derived["gamma"]}, golden.metadata(BLOCK)["heads"])
    reference = block.read(given["ref"], given["mask"].bool())
    site = sum_at([Influence(block, reference)])
    golden.assert_near(site(given["x"]), derived["out"])


def test_masked_keys_may_as_well_be_left_out():
    given, expected = golden.group(BLOCK, "in"), golden.group(BLOCK, "out")
    block = block_of(weights(BLOCK), golden.metadata(BLOCK)["heads"])
    for row, mask in enumerate(given["mask"].bool()):
        reference = block.read(given["ref"][row : row + 1, mask])
        tokens = given["x"][row : row + 1]
        golden.assert_near(tokens + block.change(tokens, reference), expected["masked"][row : row + 1])


@pytest.mark.parametrize("kind", golden.cases(OTSU, "map"))
def test_otsu(kind: str):
    given = golden.group(OTSU, kind)
    assert torch.equal(otsu_mask(given["map"]), given["mask"].bool())


@pytest.mark.parametrize("case", golden.cases(REG, "attn"))
def test_attention_loss(case: str):
    given = golden.group(REG, case)
    attention = given["attn"].clone().requires_grad_()
    loss = attention_loss(
        columns_at(attention, given["token_index"]), columns_at(attention, given["eot_index"])
    )
    golden.assert_near(loss, given["loss"].squeeze())
    golden.assert_near(torch.autograd.grad(loss, attention)[0], given["grad_attn"], 1e-6)


class OneSite(UNet):
    """A U-Net that is nothing but one site."""

    def __init__(self, layer: SpatialTransformer) -> None:
        torch.nn.Module.__init__(self)
        self.output_blocks = torch.nn.ModuleList([torch.nn.ModuleList([torch.nn.Identity(), layer])])

    def forward(self, x: Tensor, timesteps: Tensor, context: Tensor | None, *_: Any, **given: Any) -> Tensor:
        return self.get_submodule(NAME)(x, LayerInputs(timesteps, context, **given), NAME)


def test_site():
    given, mid, out = (golden.group(SITE, part) for part in ("in", "mid", "out"))
    meta = golden.metadata(SITE)
    own, frozen = split(weights(SITE), IMAGE)
    channels, width = given["x"].shape[1], given["context"].shape[-1]
    layer = SpatialTransformer(channels, meta["dim_head"], width, 1, Backend())
    layer.load_state_dict(frozen)
    layer.requires_grad_(False)
    unet, name = OneSite(layer), NAME
    context = given["context"].clone().requires_grad_()
    features = reference_features(unet, given["ref"], torch.zeros(2), context, [name])[name]
    golden.assert_near(features.tokens, mid["F_ref"])
    words = given["token_index"].long(), given["eot_index"].long()
    person, end = token_maps(unet, name, features, context, *words)
    golden.assert_near(person, columns_at(mid["attn_ref_text"], words[0]))
    mask = otsu_mask(person)
    assert torch.equal(mask, mid["mask"].bool())

    loss = attention_loss(person, end)
    golden.assert_near(loss, out["loss_reg"].squeeze())
    gradient = torch.autograd.grad(loss, context)[0]
    golden.assert_near(gradient, out["grad_context_of_loss_reg"], 1e-6)

    block = block_of(own, meta["heads"])
    site = sum_at([Influence(block, block.read(features.tokens, mask))])
    plain = LayerInputs(torch.zeros(2, 1), context)
    golden.assert_near(layer(given["x"], replace(plain, sites={NAME: site}), NAME), out["x"])
    golden.assert_near(layer(given["x"], plain), out["x_without_image_attn"])
    golden.assert_near(layer(given["ref"], plain), out["ref"])
