"""Identities in the host's MODEL: the core's numbers, the base's bits where none acts, no trace behind."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import comfy.sample
import pytest
import torch
from inside_model import HEADER, SIZES, inputs, path, restorer  # noqa: F401 - fixtures
from pfstorer.nodes.apply import ApplyPersonalization
from pfstorer.nodes.host.conditioning import prompts_for, with_lq
from pfstorer.nodes.host.model import build_model
from pfstorer.nodes.host.tiles import Tiles, with_tiles
from pfstorer.pfstorer_core.personalization.pfstorer import apply as core
from pfstorer.pfstorer_core.personalization.pfstorer.adapter import IdentityAdapter, PFStorerHeader
from pfstorer.pfstorer_core.personalization.pfstorer.sites import default_sites, new_blocks
from pfstorer.pfstorer_core.restorers.base import Restorer
from pfstorer.pfstorer_core.restorers.changes import sites_of
from pfstorer.pfstorer_core.restorers.files import open_restorer
from torch import Tensor


@pytest.fixture
def model(path: Path) -> Any:  # noqa: F811
    return build_model(open_restorer(path), torch.float32)


@pytest.fixture(scope="module")
def adapter(restorer: Restorer) -> IdentityAdapter:  # noqa: F811
    return stand_in(restorer)


def stand_in(restorer: Restorer) -> IdentityAdapter:  # noqa: F811
    """Of a person that nobody has learned."""
    sites = default_sites(restorer.unet)
    blocks = new_blocks(restorer.unet, sites, seed=1)
    generator = torch.Generator().manual_seed(3)
    for block in blocks.values():
        torch.nn.init.normal_(block.gamma, 0.5, 0.2, generator=generator).requires_grad_(False)
        block.requires_grad_(False)
    header = PFStorerHeader(
        base=restorer.fingerprint,
        sites=sites,
        heads=[block.attn1.heads for block in blocks.values()],
        prediction_type=restorer.header.prediction_type,
        prompt="a photo of *",
        person=1,
        end=2,
    )
    context = torch.randn(restorer.null_context.shape, generator=generator)
    references = torch.randn(2, 4, 16, 16, generator=generator)
    return IdentityAdapter(header, blocks, context[0, :1], context, references)


def applied(model: Any, adapter: IdentityAdapter, gamma: float = 1.0, **settings: Any) -> Any:
    return ApplyPersonalization.execute(model, adapter, gamma, **settings).args[0]


def sampled(model: Any, steps: int = 2, cfg: float = 1.0, **conditions: Any) -> Tensor:
    lq = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(5))
    prompts = [conditions.get(name) for name in ("positive", "negative")]
    positive, negative = with_lq(prompts_for(model.model, *prompts), lq)
    noise = comfy.sample.prepare_noise(lq, 0)
    return comfy.sample.sample(
        model, noise, steps, cfg, "euler", "normal", positive, negative, lq, seed=0, disable_pbar=True
    )


@torch.no_grad()
def test_it_is_the_core_s_personalization(restorer: Restorer, model: Any, adapter: IdentityAdapter) -> None:  # noqa: F811
    x, _, context, lq = inputs((16, 16))
    sigma = model.model.model_sampling.sigma(torch.tensor([500.0, 500.0]))
    personal = applied(model, adapter, 0.7)
    options = personal.model_options["transformer_options"]
    given = {"c_crossattn": context, "lq_latent": lq}
    out = personal.model.apply_model(x, sigma, transformer_options=options, **given)
    sites = sites_of(adapter.bind(restorer.unet, restorer.schedule, 0.7).prepare(500))
    scaled = model.model.model_sampling.calculate_input(sigma, x)
    t = torch.tensor([500.0, 500.0])
    v = restorer.unet(scaled, t, context, lq, sites)
    expected = model.model.model_sampling.calculate_denoised(sigma, v, x)
    torch.testing.assert_close(out, expected, rtol=0, atol=2e-3)
    base = model.model.apply_model(x, sigma, transformer_options={}, **given)
    assert (out - base).abs().max() > 0.02, "it changes nothing: the test is blind"


def test_gamma_0_and_bypass_are_the_base_bit_for_bit(model: Any, adapter: IdentityAdapter) -> None:
    base = sampled(model)
    assert torch.equal(sampled(applied(model, adapter, 0.0)), base)
    assert not torch.equal(sampled(applied(model, adapter)), base)
    assert torch.equal(sampled(model), base), "something stayed behind"


@pytest.mark.parametrize(("kind", "times"), [("zero", 1), ("same", 3), ("noised", 3)])
def test_references_are_read_once(
    model: Any, adapter: IdentityAdapter, monkeypatch: pytest.MonkeyPatch, kind: str, times: int
) -> None:
    """Once for all steps, or once a step: tiles and both branches of guidance share them."""
    calls = []
    read = core.read_references
    monkeypatch.setattr(core, "read_references", lambda *a, **k: calls.append(a) or read(*a, **k))
    who = replace(adapter, header=replace(adapter.header, reference_timestep=kind))
    tiled = with_tiles(applied(model, who), Tiles(8, 4, 2))
    sampled(tiled, steps=3, cfg=2.0)
    assert len(calls) == times
    sampled(tiled, steps=3, cfg=2.0)
    assert len(calls) == 2 * times, "the references outlived the sampling"


@pytest.mark.parametrize("tile", [0, 8])
def test_a_mask_keeps_it_in_its_place(model: Any, adapter: IdentityAdapter, tile: int) -> None:
    mask = torch.zeros(1, 64, 64)
    mask[..., :24] = 1

    def change(**settings: Any) -> Tensor:
        one, two = model, applied(model, adapter, **settings)
        if tile:
            one, two = (with_tiles(m, Tiles(tile, tile // 2, 2)) for m in (one, two))
        return (sampled(two, 1) - sampled(one, 1)).abs().mean((0, 1, 2))

    whole, part = change(mask=torch.ones(1, 64, 64)), change(mask=mask)
    reach = 2 if tile else 0  # cells that the blending of tiles looks at, beside its own
    torch.testing.assert_close(part[: 6 - reach], whole[: 6 - reach], rtol=1e-4, atol=1e-6)
    assert not part[6 + reach :].any(), "what the person changes is seen beside the mask"


def test_only_the_empty_positive_prompt_is_called_by_the_name(model: Any, adapter: IdentityAdapter) -> None:
    """With γ = 0 in every block, S* alone acts."""
    silent = {}
    for site, block in adapter.blocks.items():
        silent[site] = new_blocks_like(block)
    word = replace(adapter, blocks=silent)
    named = applied(model, word)
    assert not torch.equal(sampled(named), sampled(model))
    own = [[torch.randn(1, 3, SIZES.context_dim), {}]]
    assert torch.equal(sampled(named, positive=own), sampled(model, positive=own))
    null = model.model.null_context
    half = sampled(applied(model, word, 0.5))
    lerped = [[torch.lerp(null, adapter.context, 0.5), {}]]
    torch.testing.assert_close(half, sampled(model, positive=lerped), rtol=0, atol=1e-5)
    guided, other = sampled(named, cfg=3.0), [[null, {}]]
    expected = sampled(model, cfg=3.0, positive=[[adapter.context, {}]], negative=other)
    torch.testing.assert_close(guided, expected, rtol=0, atol=1e-4)


def new_blocks_like(block: Any) -> Any:
    from pfstorer.pfstorer_core.personalization.pfstorer.block import PersonalizationBlock

    return PersonalizationBlock(len(block.gamma), block.attn1.heads).requires_grad_(False)


def test_it_ends_where_it_is_told_to(model: Any, adapter: IdentityAdapter) -> None:
    base, whole = sampled(model, 4), sampled(applied(model, adapter), 4)
    begun = sampled(applied(model, adapter, end_percent=0.5), 4)
    assert not torch.equal(begun, base)
    assert not torch.equal(begun, whole)
    assert torch.equal(sampled(applied(model, adapter, start_percent=1.0), 4), base)


def test_two_in_a_row_add_up(model: Any, adapter: IdentityAdapter) -> None:
    one = applied(model, adapter, 0.6)
    two = applied(applied(model, adapter, 0.3), adapter, 0.3)
    own = [[torch.randn(1, 3, SIZES.context_dim), {}]]
    expected = sampled(one, positive=own)
    torch.testing.assert_close(sampled(two, positive=own), expected, rtol=0, atol=1e-4)


def test_a_foreign_base_is_refused(model: Any, adapter: IdentityAdapter) -> None:
    other = replace(adapter, header=replace(adapter.header, base=f"{int(HEADER.scale_factor * 1e9):016x}"))
    with pytest.raises(ValueError, match="another base"):
        applied(model, other)
    with pytest.raises(ValueError, match="gamma"):
        applied(model, adapter, float("nan"))
