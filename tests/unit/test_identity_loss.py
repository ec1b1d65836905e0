"""What a person is learned by, term by term: against hand computations on one batch (PFStorer eq. 5)."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import pfstorer_core as pf
from pfstorer_core import AdapterTraining, Identity, IdentityAdapter, Restorer
from pfstorer_core.models import Autoencoder, LQEncoderConfig, TextTower, UNet, UNetConfig
from pfstorer_core.models.layers import Site
from pfstorer_core.models.tokenizer import tokenize
from pfstorer_core.personalization.pfstorer.apply import read_references
from pfstorer_core.personalization.pfstorer.block import Influence
from pfstorer_core.personalization.pfstorer.header import PFStorerHeader
from pfstorer_core.personalization.pfstorer.reference import (
    otsu_mask,
    reference_features,
    token_maps,
)
from pfstorer_core.personalization.pfstorer.sites import site_factor
from pfstorer_core.personalization.pfstorer.train import IdentityLoss
from pfstorer_core.personalization.photos import Pairs, Photos
from pfstorer_core.personalization.prompts import PROMPTS, person_prompts, word_id
from pfstorer_core.personalization.training import run_key, train_identity_adapter
from pfstorer_core.restorers.changes import sites_of, sum_at, together
from pfstorer_core.training.data import Batch
from pfstorer_core.training.degradation import random_degradation
from pfstorer_core.training.loop import LoopSettings

from .small import AUTOENCODER, HEADER, SIZES, TEXT, small_restorer

PLAIN = AdapterTraining(
    steps=1, batch=2, pool=4, bf16=False, preview_every=0, lambda_gen=0.0, lambda_pers=0.0
)
"""L_Diff alone."""
READS = ("output_blocks.2.1", "output_blocks.3.1")
"""Sites of transformers, whose references have a mask."""
ALPHAS = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2, 0)
"""Stable Diffusion's schedule."""


@dataclass
class Call:
    """An evaluation of the U-Net: what it was given, and what it answered."""

    x: Tensor
    t: Tensor
    context: Tensor
    output: Tensor


@contextmanager
def calls(unet: UNet) -> Iterator[list[Call]]:
    seen: list[Call] = []

    def note(_: Any, given: tuple[Any, ...], output: Tensor) -> None:
        seen.append(Call(*(each.detach() for each in (*given[:3], output))))

    handle = unet.register_forward_hook(note)
    yield seen
    handle.remove()


@pytest.fixture(scope="module")
def person() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(3, side, side, generator=generator) for side in (40, 56, 33)]


@pytest.fixture(scope="module")
def photos(restorer: Restorer, person: list[Tensor]) -> Photos:
    return Photos.of(restorer, person)


@pytest.fixture(scope="module")
def batch(photos: Photos) -> Batch:
    """Two samples that share nothing: not their latents, reference, prompt, noise or time step."""
    hq, lq = 0.7 * torch.randn(2, 2, 4, 8, 8, generator=torch.Generator().manual_seed(4))
    return {"hq": hq, "lq": lq, "reference": torch.tensor([2, 1]), "seed": torch.tensor([3, 8]), "broken": []}


@pytest.fixture(scope="module")
def trained(restorer: Restorer, person: list[Tensor]) -> IdentityAdapter:
    settings = replace(PLAIN, steps=2, lr=1e-2, gamma_lr=0.1, lambda_gen=0.1)
    return train_identity_adapter(restorer, person, settings)


def objective_of(restorer: Restorer, photos: Photos, gamma: float = 0.0, **changes: Any) -> IdentityLoss:
    objective = IdentityLoss(restorer, photos, replace(PLAIN, **changes))
    for name, parameter in objective.blocks.named_parameters():
        if name.endswith("gamma"):
            torch.nn.init.constant_(parameter, gamma)
    return objective


def velocity(x: Tensor, x0: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """The noise that is in x, and the target of a network that predicts v."""
    signal = ALPHAS[t].reshape(-1, 1, 1, 1).float()
    noise = (x - signal.sqrt() * x0) / (1 - signal).sqrt()
    return noise, signal.sqrt() * noise - (1 - signal).sqrt() * x0


def test_l_diff_is_the_error_of_the_velocity(restorer: Restorer, photos: Photos, batch: Batch) -> None:
    objective = objective_of(restorer, photos)
    with torch.no_grad(), calls(restorer.unet) as seen:
        loss = objective(batch)
    _, call = seen
    noise, target = velocity(call.x, batch["hq"], call.t)
    assert noise.std() == pytest.approx(1, abs=0.2)
    assert not torch.equal(*noise)
    assert len(set(call.t.tolist())) == 2, "a time step of its own for each sample"
    torch.testing.assert_close(loss, F.mse_loss(call.output, target), rtol=1e-3, atol=0)
    with torch.no_grad():
        expected = restorer.unet(call.x, call.t, call.context, condition=batch["lq"])
        other = restorer.unet(call.x, call.t, call.context, condition=batch["lq"].flip(0))
    torch.testing.assert_close(call.output, expected, rtol=0, atol=1e-5)
    assert (other - expected).abs().max() > 1e-3, "the LQ picture has no part in it: the test is blind"


def test_a_network_of_noise_is_asked_for_noise(restorer: Restorer, photos: Photos, batch: Batch) -> None:
    noisy = replace(restorer, header=replace(restorer.header, prediction_type="eps"))
    objective = objective_of(noisy, photos)
    with torch.no_grad(), calls(restorer.unet) as seen:
        loss = objective(batch)
    noise, _ = velocity(seen[-1].x, batch["hq"], seen[-1].t)
    torch.testing.assert_close(loss, F.mse_loss(seen[-1].output, noise), rtol=1e-3, atol=0)


def grey(restorer: Restorer, lq: Tensor) -> Tensor:
    side = lq.shape[-1] * restorer.autoencoder.config.downscale
    pixels = torch.zeros(1, 3, side, side)  # of -1…1
    return restorer.autoencoder.encode(pixels) * restorer.header.scale_factor


NULLS: dict[str, Callable[[Restorer, Tensor], Tensor | None]] = {
    "drop": lambda restorer, lq: None,
    "zero_latent": lambda restorer, lq: torch.zeros_like(lq),
    "gray": lambda restorer, lq: grey(restorer, lq).expand_as(lq),
}


@pytest.mark.parametrize("null_lq", NULLS)
def test_l_gen_sees_no_lq_picture(restorer: Restorer, photos: Photos, batch: Batch, null_lq: str) -> None:
    """The same noise, time step and prompt once more, with the null LQ; weighted by λ_Gen."""
    objective = objective_of(restorer, photos, lambda_gen=0.25, null_lq=null_lq)
    with torch.no_grad(), calls(restorer.unet) as seen:
        loss = objective(batch)
    _, both = seen
    halves = [each.chunk(2) for each in (both.x, both.t, both.context)]
    for one, two in halves:
        assert torch.equal(one, two)
    x, t, context = (one for one, _ in halves)
    with_lq, without = both.output.chunk(2)
    null = NULLS[null_lq](restorer, batch["lq"])
    # As many rows at once: the norms of a small network make much of how a convolution of zeros is rounded.
    conditions = [batch["lq"], batch["lq"] if null is None else null]
    with torch.no_grad():
        expected = restorer.unet(both.x, both.t, both.context, condition=torch.cat(conditions)).chunk(2)
        unseen = restorer.unet(x, t, context) if null is None else expected[1]
    torch.testing.assert_close(with_lq, expected[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(without, unseen, rtol=0, atol=1e-5)
    assert (with_lq - without).abs().max() > 1e-3, "the LQ picture has no part in it"
    _, target = velocity(x, batch["hq"], t)
    by_hand = F.mse_loss(with_lq, target) + 0.25 * F.mse_loss(without, target)
    torch.testing.assert_close(loss, by_hand, rtol=1e-3, atol=0)


def words_of(restorer: Restorer, context: Tensor, objective: IdentityLoss) -> list[int]:
    """Which of the prompts each context is of."""
    assert restorer.text is not None
    prompts = person_prompts(PROMPTS, restorer.text.config.context_length)
    with torch.no_grad():
        every = prompts.context(restorer.text, objective.token.detach(), torch.arange(len(PROMPTS)))
    distance = (every[None] - context[:, None]).abs().amax((-1, -2))
    assert distance.amin(1).max() < 1e-5, "the context of none of the prompts with S*"
    return distance.argmin(1).tolist()


def test_l_pers_is_by_the_attention_of_the_references(
    restorer: Restorer, photos: Photos, batch: Batch
) -> None:
    objective = objective_of(restorer, photos, lambda_pers=2.0, sites=READS)
    torch.nn.init.normal_(objective.token, std=0.5)
    with torch.no_grad(), calls(restorer.unet) as seen:
        loss = objective(batch)
    read, call = seen
    assert torch.equal(read.x, photos.latents[batch["reference"]])
    assert not read.t.any()
    assert torch.equal(read.context, call.context)
    prompts = person_prompts(PROMPTS, 77)
    rows = words_of(restorer, read.context, objective)
    assert len(set(prompts.person[rows].tolist())) == 2, "S* stands in one place: the test is blind"
    by_hand = torch.zeros(())
    features = reference_features(restorer.unet, read.x, read.t, read.context, READS)
    for site in READS:
        person, end = token_maps(
            restorer.unet, site, features[site], read.context, prompts.person[rows], prompts.end[rows]
        )
        apart = person / person.amax(1, keepdim=True) - end / end.amax(1, keepdim=True)
        by_hand = by_hand + apart.square().mean()
    assert by_hand > 1e-6
    _, target = velocity(call.x, batch["hq"], call.t)
    torch.testing.assert_close(
        loss - F.mse_loss(call.output, target), 2.0 * by_hand.detach(), rtol=2e-2, atol=1e-6
    )


def test_only_what_the_mask_keeps_is_learned_from(restorer: Restorer, photos: Photos, batch: Batch) -> None:
    objective = objective_of(restorer, photos, gamma=0.7, sites=READS)
    torch.nn.init.normal_(objective.token, std=0.5)
    with torch.no_grad(), calls(restorer.unet) as seen:
        objective(batch)
    read, call = seen
    prompts = person_prompts(PROMPTS, 77)
    rows = words_of(restorer, read.context, objective)
    adapter = objective.adapter("", 0, [])
    masked, whole = dict[str, Site](), dict[str, Site]()
    with torch.no_grad():
        features = reference_features(restorer.unet, read.x, read.t, read.context, READS)
        for site, block in adapter.blocks.items():
            (map_,) = token_maps(restorer.unet, site, features[site], read.context, prompts.person[rows])
            mask = otsu_mask(map_)
            assert 0 < mask.sum() < mask.numel(), "it masks nothing: the test is blind"
            tokens = features[site].tokens
            masked[site] = sum_at([Influence(block, block.read(tokens, mask))])
            whole[site] = sum_at([Influence(block, block.read(tokens))])
        expected, other = (
            restorer.unet(call.x, call.t, call.context, condition=batch["lq"], sites=sites)
            for sites in (masked, whole)
        )
    torch.testing.assert_close(call.output, expected, rtol=0, atol=1e-5)
    assert (other - expected).abs().max() > 1e-3


@pytest.mark.parametrize("kind", ["zero", "same", "noised"])
def test_references_are_learned_at_their_time_step(
    restorer: Restorer, photos: Photos, batch: Batch, kind: str
) -> None:
    objective = objective_of(restorer, photos, reference_timestep=kind)
    with torch.no_grad(), calls(restorer.unet) as seen:
        objective(batch)
    read, call = seen
    clean = photos.latents[batch["reference"]]
    assert torch.equal(read.t, torch.zeros_like(call.t) if kind == "zero" else call.t)
    assert torch.equal(read.x, clean) == (kind != "noised")
    if kind == "noised":
        noise, _ = velocity(read.x, clean, read.t)
        assert noise.std() == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize("gradients", ["truncated", "full"])
def test_the_word_learns_from_the_first_site_on(
    restorer: Restorer, photos: Photos, batch: Batch, gradients: str
) -> None:
    """Which attentions to the text hand a gradient on to it, in the evaluation that is compared."""
    objective = objective_of(restorer, photos, gradients=gradients, sites=("output_blocks.2.1",))
    learning: dict[str, list[bool]] = {}
    handles = [
        module.register_forward_pre_hook(
            lambda _, given, name=name: learning.setdefault(name, []).append(given[0].requires_grad)
        )
        for name, module in restorer.unet.named_modules()
        if name.endswith("attn2.to_k")
    ]
    objective(batch)
    for handle in handles:
        handle.remove()
    last = {".".join(name.split(".")[:2]): found[-1] for name, found in learning.items()}
    from_site = {"output_blocks.2", "output_blocks.3"}
    assert from_site < last.keys()
    assert {name for name, learns in last.items() if learns} == (
        from_site if gradients == "truncated" else set(last)
    )


@pytest.mark.parametrize("gradients", ["truncated", "full"])
def test_gradients_go_through_the_references_in_full_alone(
    restorer: Restorer, photos: Photos, batch: Batch, gradients: str
) -> None:
    objective, found = objective_of(restorer, photos, gradients=gradients), list[bool]()
    handle = restorer.unet.register_forward_hook(lambda _, __, output: found.append(output.requires_grad))
    objective(batch)
    handle.remove()
    assert found == [gradients == "full", True]


def test_time_steps_and_prompts_are_drawn_evenly(restorer: Restorer, photos: Photos) -> None:
    objective = objective_of(restorer, photos)
    latents = torch.randn(48, 4, 4, 4)
    many: Batch = {
        "hq": latents, "lq": latents, "reference": torch.zeros(48, dtype=torch.int64),
        "seed": torch.arange(48), "broken": [],
    }  # fmt: skip
    with torch.no_grad(), calls(restorer.unet) as seen:
        objective(many)
    times = seen[-1].t.float()
    assert times.mean().item() == pytest.approx(500, abs=150)
    assert times.min() < 150
    assert times.max() > 850
    assert set(words_of(restorer, seen[-1].context, objective)) == set(range(len(PROMPTS)))
    noise, _ = velocity(seen[-1].x, latents, seen[-1].t)
    assert noise.mean().item() == pytest.approx(0, abs=0.1)
    assert noise.std().item() == pytest.approx(1, abs=0.05)


def test_an_adapter_is_what_was_learned(restorer: Restorer, photos: Photos) -> None:
    """S*, the context of the main prompt with it, the photos, and the blocks as they are."""
    objective = objective_of(restorer, photos, gamma=0.3)
    torch.nn.init.normal_(objective.token)
    adapter = objective.adapter("key", 3, [0.5] * 3)
    assert (adapter.header.prompt, adapter.header.person, adapter.header.end) == ("a photo of *", 4, 5)
    assert (adapter.header.run_key, adapter.header.steps, adapter.header.losses) == ("key", 3, [0.5] * 3)
    assert torch.equal(adapter.token[0], objective.token)
    assert words_of(restorer, adapter.context, objective) == [0]
    assert torch.equal(adapter.references, photos.latents)
    for site, block in adapter.blocks.items():
        assert (block.gamma == 0.3).all()
        assert torch.equal(block.ff.net[2].weight, objective.blocks[site.replace(".", "-")].ff.net[2].weight)  # type: ignore[index, union-attr]


def test_a_preview_starts_at_the_noised_bad_picture(restorer: Restorer, photos: Photos, batch: Batch) -> None:
    """And is told of it in every step, with and without the person."""
    objective = objective_of(restorer, photos, gamma=0.5)
    told: list[Tensor] = []
    assert restorer.unet.lq_encoder is not None
    handle = restorer.unet.lq_encoder.register_forward_pre_hook(lambda _, given: told.append(given[0]))
    starts = []
    for lq in (batch["lq"], batch["lq"].flip(0)):
        with calls(restorer.unet) as seen:
            sheet = objective.sheet({**batch, "lq": lq})
        assert len(told) == 20, "ten steps without and with the person"
        assert all(torch.equal(given, lq) for given in told)
        told.clear()
        starts.append([call.x for call in seen if (call.t == 999).all()])
        contexts = {call.context.shape[1] for call in seen}
        assert contexts == {restorer.null_context.shape[1], 77}
    handle.remove()
    apart = batch["lq"] - batch["lq"].flip(0)
    for one, two in zip(*starts, strict=True):
        torch.testing.assert_close(one - two, 0.06826 * apart, rtol=0, atol=1e-4)
    side = 8 * restorer.autoencoder.config.downscale
    assert sheet.shape == (1, 3, 2 * side, 4 * side)
    with torch.no_grad():
        hq = (restorer.autoencoder.decode(batch["hq"] / restorer.header.scale_factor) + 1) / 2
    torch.testing.assert_close(sheet[0, :, :side, -side:], hq[0].clamp(0, 1), rtol=0, atol=1e-4)


@pytest.mark.parametrize("p_hq", [0.0, 1.0])
def test_p_hq_is_the_share_of_pairs_that_are_good(restorer: Restorer, photos: Photos, p_hq: float) -> None:
    pairs = Pairs(restorer, photos, random_degradation("heavy", 32), p_hq, 8, 2, 0)
    for k in range(4):
        assert torch.equal(pairs[k]["hq"], pairs[k]["lq"]) == bool(p_hq)
    pairs.close()


@pytest.mark.parametrize("change", [{"seed": 1}, {"degradation": "severe"}, {"batch": 3}, {"pool": 16}])
def test_a_training_is_that_of_its_settings(
    restorer: Restorer, person: list[Tensor], change: dict[str, Any]
) -> None:
    one, same, other = (
        train_identity_adapter(restorer, person, replace(PLAIN, **given)).header.losses
        for given in ({}, {}, change)
    )
    assert one == same
    assert one != other


def test_the_loop_is_that_of_the_settings(restorer: Restorer, photos: Photos) -> None:
    """A few steps at a steady pace, whose last weights are what was learned."""
    settings = AdapterTraining(
        steps=9, batch=3, lr=0.1, weight_decay=0.2, seed=4, bf16=False, save_every=7, preview_every=5
    )
    loop = settings.loop(32)
    assert (loop.steps, loop.batch, loop.lr, loop.weight_decay, loop.seed) == (9, 3, 0.1, 0.2, 4)
    assert (loop.bf16, loop.save_every, loop.validate_every, loop.validate_at) == (False, 7, 5, ())
    assert (loop.ema, loop.warmup, loop.betas) == (0.0, 0, (0.9, 0.999))
    assert AdapterTraining().loop(32).bf16
    assert AdapterTraining().loop(32).looks(10)
    one, other = (
        torch.cat([p.flatten() for p in objective_of(restorer, photos, seed=seed).blocks.parameters()])
        for seed in (0, 1)
    )
    assert not torch.equal(one, other)


@pytest.mark.parametrize("p_hq", [0.0, 1.0])
def test_a_training_takes_its_p_hq(restorer: Restorer, person: list[Tensor], p_hq: float) -> None:
    """Where every LQ picture is HQ as it is, it is all the same what the others would suffer from."""
    losses = [
        train_identity_adapter(restorer, person, replace(PLAIN, p_hq=p_hq, degradation=name)).header.losses
        for name in ("heavy", "severe")
    ]
    assert (losses[0] == losses[1]) == bool(p_hq)


def test_only_what_the_mask_keeps_is_read(restorer: Restorer, trained: IdentityAdapter) -> None:
    """Keys are those of the tokens that the mask keeps; of several photos the best-scoring ones, as many as
    two photos have."""
    header = replace(trained.header, sites=list(READS), heads=[1, 1])
    blocks = {site: next(b for b in trained.blocks.values() if len(b.gamma) == 64) for site in READS}
    latents = torch.randn(10, *trained.references.shape[1:], generator=torch.Generator().manual_seed(0))
    adapter = replace(trained, header=header, blocks=blocks, references=latents)
    found = read_references(restorer.unet, adapter)
    count = len(adapter.references)
    context, zero = adapter.context.expand(count, -1, -1), torch.zeros(count, dtype=torch.int64)
    with torch.no_grad():
        features = reference_features(restorer.unet, adapter.references, zero, context, READS)
        for site in READS:
            (scores,) = token_maps(restorer.unet, site, features[site], context, zero + header.person)
            mask = otsu_mask(scores)
            assert 0 < mask.sum() < mask.numel()
            per_photo = scores.shape[1]
            kept = [
                (float(score), row, column)
                for row in range(count)
                for column, score in enumerate(scores[row])
                if mask[row, column]
            ]
            assert len(kept) > 2 * per_photo, "all have room: the test is blind"
            best = sorted(kept, key=lambda each: -each[0])[: 2 * per_photo]
            places = sorted((row, column) for _, row, column in best)
            tokens = torch.stack([features[site].tokens[place] for place in places])
            torch.testing.assert_close(found[site].key[0], blocks[site].attn2.to_k(tokens))
            torch.testing.assert_close(found[site].value[0], blocks[site].attn2.to_v(tokens))
            assert found[site].mask is None


def test_references_are_noised_always_alike(restorer: Restorer, trained: IdentityAdapter) -> None:
    """Photos that are read in every step are read one at a time, by the same noise."""
    header = replace(trained.header, reference_timestep="noised")
    adapter = replace(trained, header=header)
    with calls(restorer.unet) as seen:
        read_references(restorer.unet, adapter, 300, schedule=restorer.schedule)
        read_references(restorer.unet, adapter, 300, schedule=restorer.schedule)
        read_references(restorer.unet, adapter, 300, references=2, schedule=restorer.schedule)
        read_references(restorer.unet, trained, 300)
    assert [len(call.x) for call in seen] == [1, 1, 2, 3]
    assert torch.equal(seen[0].x, seen[1].x)
    assert [set(call.t.tolist()) for call in seen] == [{300}, {300}, {300}, {0}]
    assert torch.equal(seen[-1].x, trained.references)
    signal = ALPHAS[300].item()
    noise = (seen[0].x - signal**0.5 * trained.references[:1]) / (1 - signal) ** 0.5
    assert noise.std().item() == pytest.approx(1, abs=0.2)


def test_influences_add_up(restorer: Restorer, trained: IdentityAdapter) -> None:
    """F + γ₁·ΔF₁ + γ₂·ΔF₂ at every site, each person with the strength that the user gave them."""
    other = replace(trained, references=trained.references.flip(-1))
    people = [Identity(trained, 0.5), Identity(other, 2.0)]
    found = [read_references(restorer.unet, adapter) for adapter in (trained, other)]
    changes = [who.bound(restorer).prepare(0) for who in people]
    sites = sites_of(together(*changes))
    assert list(sites) == list(trained.blocks)
    for site, block in trained.blocks.items():
        tokens = torch.randn(2, 9, len(block.gamma))
        with torch.no_grad():
            changes = [block.gamma * block.change(tokens, references[site]) for references in found]
            torch.testing.assert_close(sites[site](tokens), tokens + 0.5 * changes[0] + 2.0 * changes[1])
    silent = Identity(trained, 1.0, factors={1: 0.0, 2: 0.0, 4: 0.0}).bound(restorer).prepare(0)
    assert not sites_of(together(silent))


def test_factors_of_the_resolutions(restorer: Restorer, trained: IdentityAdapter) -> None:
    """A site's is that of its features' size, as a part of the latent's; it is multiplied with gamma."""
    latent = torch.randn(1, 4, 16, 16)
    found = reference_features(
        restorer.unet, latent, torch.tensor([9]), restorer.null_context, list(trained.blocks)
    )
    sizes = {site: int((256 / features.tokens.shape[1]) ** 0.5) for site, features in found.items()}
    assert {site: site_factor(restorer.unet, site) for site in trained.blocks} == sizes
    assert len(set(sizes.values())) > 1

    lq = torch.rand(1, 3, 12, 12, generator=torch.Generator().manual_seed(2))

    def restored(gamma: float, factors: dict[int, float]) -> Tensor:
        identity = Identity(trained, gamma, factors=factors)
        return pf.restore(restorer, lq, upscale=4, steps=2, identities=[identity], color_fix="none")

    one = restored(1.0, {})
    assert torch.equal(restored(2.0, dict.fromkeys(sizes.values(), 0.5)), one)
    base = pf.restore(restorer, lq, upscale=4, steps=2, color_fix="none")
    assert torch.equal(restored(1.0, dict.fromkeys(sizes.values(), 0.0)), base)
    each = [restored(1.0, {factor: 0.0}) for factor in sorted(set(sizes.values()))]
    assert not any(torch.equal(picture, one) for picture in each)
    assert not torch.equal(each[0], each[1])


def wide_restorer() -> Restorer:
    """As wide as a U-Net has to be for the rates of Stable Diffusion's, else as small as can be."""
    torch.manual_seed(0)
    encoder = LQEncoderConfig(model_channels=32, out_channels=32, channel_mult=(1,), num_res_blocks=1)
    sizes = UNetConfig(
        model_channels=256, channel_mult=(1,), num_res_blocks=1, attention_resolutions=(1,),
        context_dim=SIZES.context_dim, sft_channels=32, sft_hidden=16, lq_encoder=encoder,
    )  # fmt: skip
    header = replace(HEADER, num_head_channels=64)
    context = torch.randn(1, 2, SIZES.context_dim)
    tower = TextTower(TEXT).eval()
    torch.nn.init.normal_(tower.model.positional_embedding, std=0.1)
    return Restorer(UNet(sizes).eval(), Autoencoder(AUTOENCODER).eval(), context, header, tower)


@pytest.mark.parametrize(("width", "gamma_moves", "block_moves"), [(32, 2e-2, 1e-3), (256, 1e-2, 3e-5)])
def test_the_default_rates_teach_something(
    person: list[Tensor], width: int, gamma_moves: float, block_moves: float
) -> None:
    """AdamW moves every weight by about its rate a step: what three steps come to by the defaults."""
    restorer = small_restorer() if width < 256 else wide_restorer()
    settings = AdapterTraining(steps=3, batch=1, pool=4, preview_every=0, bf16=False)
    adapter = train_identity_adapter(restorer, person, settings)
    start = IdentityLoss(restorer, Photos.of(restorer, person), settings)
    gammas = torch.cat([block.gamma.abs() for block in adapter.blocks.values()])
    assert gammas.median() > gamma_moves
    first = {name: value for name, value in start.blocks.named_parameters() if name.endswith("to_v.weight")}
    moved = [
        (block.attn2.to_v.weight - first[f"{site.replace('.', '-')}.attn2.to_v.weight"]).abs().mean()
        for site, block in adapter.blocks.items()
    ]
    assert min(moved) > block_moves
    assert (adapter.token - start.token).detach().abs().median() > 0.5 * 3 * 5e-3


def test_the_rates_are_those_of_the_settings(restorer: Restorer, person: list[Tensor]) -> None:
    """In a first step AdamW moves each weight by its rate: γ and S* by theirs, the blocks not yet."""
    given = replace(PLAIN, lr=1e-2, gamma_lr=0.03, token_lr=0.007, weight_decay=0.0)
    adapter = train_identity_adapter(restorer, person, given)
    start = IdentityLoss(restorer, Photos.of(restorer, person), given)
    gammas = torch.cat([block.gamma.abs() for block in adapter.blocks.values()])
    assert gammas.median() == pytest.approx(0.03, rel=1e-2)
    assert (adapter.token - start.token).detach().abs().median() == pytest.approx(0.007, rel=1e-2)
    for name, value in start.blocks.named_parameters():
        site, _, rest = name.partition(".")
        now = adapter.blocks[site.replace("-", ".")].get_parameter(rest)
        assert rest == "gamma" or torch.equal(now, value)

    decayed = train_identity_adapter(restorer, person, replace(given, weight_decay=0.5))
    assert torch.equal(decayed.token, adapter.token)
    for site, block in decayed.blocks.items():
        assert torch.equal(block.gamma, adapter.blocks[site].gamma), "γ and S* do not decay"
        kept, before = block.attn2.to_v.weight, adapter.blocks[site].attn2.to_v.weight
        torch.testing.assert_close(kept, (1 - 1e-2 * 0.5) * before, rtol=1e-4, atol=1e-8)
    (weights, gammas, token) = start.groups(LoopSettings(steps=1, lr=1e-2, weight_decay=0.5))
    assert [g["weight_decay"] for g in (weights, gammas, token)] == [0.5, 0.0, 0.0]
    assert len(gammas["params"]) == len(adapter.blocks)
    assert {id(p) for p in gammas["params"]} == {id(block.gamma) for block in start.blocks.values()}


def test_s_star_starts_as_its_word(restorer: Restorer, photos: Photos) -> None:
    assert restorer.text is not None
    table = restorer.text.model.token_embedding.weight
    for word in ("person", "face"):
        assert torch.equal(objective_of(restorer, photos, init_word=word).token, table[word_id(word)])


def test_s_star_stands_for_a_word(restorer: Restorer) -> None:
    """A prompt with it is the prompt with the word whose vector it is."""
    tower = restorer.text
    assert tower is not None
    prompts = person_prompts(["a photo of *", "* in the rain"], tower.config.context_length)
    face = tower.model.token_embedding.weight[word_id("face")]
    with torch.no_grad():
        found = prompts.context(tower, face, torch.tensor([1, 0]))
        expected = tower(tokenize(["face in the rain", "a photo of face"], tower.config.context_length))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_everything_that_is_learned_is_in_the_run_key(restorer: Restorer, person: list[Tensor]) -> None:
    """Two trainings that differ have different names; what only says when to save or to show has none."""
    before = run_key("base", person, PLAIN)
    changes: dict[str, Any] = {
        "steps": 2, "batch": 3, "lr": 1e-4, "gamma_lr": 0.5, "token_lr": 0.1, "weight_decay": 0.1,
        "lambda_gen": 0.3, "lambda_pers": 0.1, "p_hq": 0.5, "null_lq": "gray", "sites": READS,
        "reference_timestep": "same", "gradients": "full", "gamma": False, "blocks": False,
        "init_word": "face", "degradation": "light", "pool": 9, "seed": 5, "bf16": True,
    }  # fmt: skip
    free = {"save_every": 7, "preview_every": 3}
    assert {*changes, *free} == {field.name for field in fields(AdapterTraining)}
    keys = {run_key("base", person, replace(PLAIN, **{name: value})) for name, value in changes.items()}
    assert len(keys | {before}) == len(changes) + 1
    assert {run_key("base", person, replace(PLAIN, **{name: value})) for name, value in free.items()} == {
        before
    }
    box = [(0, 0, 20, 20), None, None]
    assert len({before, run_key("other", person, PLAIN), run_key("base", person, PLAIN, box)}) == 3


def test_the_header_says_what_was_done(tmp_path: Path, restorer: Restorer, person: list[Tensor]) -> None:
    settings = replace(
        PLAIN, null_lq="gray", reference_timestep="noised", init_word="face", sites=READS, steps=2
    )
    adapter = train_identity_adapter(restorer, person, settings)
    adapter.save(tmp_path / "a.safetensors")
    header = pf.load_identity_adapter(tmp_path / "a.safetensors").header
    assert isinstance(header, PFStorerHeader)
    assert (header.null_lq, header.reference_timestep, header.init_word) == ("gray", "noised", "face")
    assert (header.base, header.prediction_type) == (restorer.fingerprint, "v")
    assert header.sites == list(READS)
    assert header.run_key == run_key(restorer.fingerprint, person, settings)
    assert (header.steps, len(header.losses)) == (2, 2)
    assert (header.training["null_lq"], header.training["steps"]) == ("gray", 2)
