"""Photos that a restorer looks at without training: shared attention, its strength, its cache."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import pfstorer_core as pf
from pfstorer_core import Identity, Restorer
from pfstorer_core.models import BlockHooks, UNet
from pfstorer_core.models.attention import AttentionBlock
from pfstorer_core.personalization.reference_attention import references as module
from pfstorer_core.personalization.reference_attention.references import References, ReferenceSettings
from pfstorer_core.restorers.changes import Changes, attention_of, evaluated, together
from pfstorer_core.restorers.reading import read_photos
from pfstorer_core.restorers.registry import prompt_guidance
from pfstorer_core.restorers.shared_attention import Moments, SharedTokens, joined

from .small import SIZES, small_diffbir, small_prior, small_restorer

KINDS: dict[str, Callable[[], Restorer]] = {
    "stablesr": small_restorer,
    "diffbir": small_diffbir,
    "clr_face": small_prior,
}
LQ = torch.rand(1, 3, 8, 12, generator=torch.Generator().manual_seed(2))
PHOTOS = list(torch.rand(3, 3, 40, 48, generator=torch.Generator().manual_seed(3)))


@pytest.fixture(params=KINDS, scope="module")
def restorer(request: pytest.FixtureRequest) -> Restorer:
    return KINDS[request.param]()


def restored(restorer: Restorer, references: References | None = None, **settings: Any) -> Tensor:
    gamma = settings.pop("gamma", 1.0)
    people = [] if references is None else [Identity(references, gamma)]
    return pf.restore(restorer, LQ, steps=2, identities=people, quantize=False, **settings)


def test_strength_0_is_the_base_bit_for_bit_and_more_comes_nearer_to_1(restorer: Restorer) -> None:
    references, base = References.of(restorer, PHOTOS), restored(restorer)
    assert torch.equal(restored(restorer, references, gamma=0.0), base)
    change = [float((restored(restorer, references, gamma=g) - base).abs().mean()) for g in (0.02, 0.3, 1.0)]
    assert 0 < change[0] < change[1] < change[2]
    assert change[0] < 0.2 * change[2]
    assert torch.equal(restored(restorer), base), "something stayed behind"


def test_their_order_says_nothing(restorer: Restorer) -> None:
    references = References.of(restorer, PHOTOS)
    other = replace(references, latents=references.latents.flip(0))
    assert not torch.equal(other.latents, references.latents)
    torch.testing.assert_close(restored(restorer, other), restored(restorer, references), rtol=0, atol=1e-4)


def test_strength_2_is_every_photo_twice(restorer: Restorer) -> None:
    references = References.of(restorer, PHOTOS)
    twice = replace(references, latents=references.latents.repeat(2, 1, 1, 1))
    found, expected = restored(restorer, references, gamma=2.0), restored(restorer, twice)
    assert (expected - restored(restorer, references)).abs().max() > 1e-3, "the test is blind"
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("timestep", "times"), [("zero", 1), ("same", 3), ("noised", 3)])
@pytest.mark.parametrize("cfg", [1.0, 1.5])
def test_photos_are_read_once_a_time_step_for_all_tiles(
    monkeypatch: pytest.MonkeyPatch, timestep: str, times: int, cfg: float
) -> None:
    restorer, calls = small_restorer(), list[tuple[Any, ...]]()
    monkeypatch.setattr(module, "read_photos", lambda *a: calls.append(a) or read_photos(*a))
    references = References.of(restorer, PHOTOS, settings=ReferenceSettings(timestep=timestep, cfg=cfg))
    pf.restore(restorer, LQ, upscale=8, steps=3, identities=[Identity(references)])  # 15 tiles
    assert len(calls) == times * (2 if cfg > 1 else 1)
    visited = restorer.visited(3)
    seen = [0] if timestep == "zero" else [t for t in reversed(visited)]
    assert [call[2] for call in calls][:: 2 if cfg > 1 else 1] == seen
    noised = calls[-1][1][:, 0]
    assert (timestep == "noised") != bool(
        torch.equal(noised, references.latents) or torch.equal(noised, 0 * noised)
    )


def test_it_leads_away_from_zeroed_photos(restorer: Restorer) -> None:
    """And each of two people from their own."""
    x, t = torch.randn(1, 4, 8, 8), torch.tensor([300])
    leading = ReferenceSettings(cfg=2.5, zeros=True)
    first, second = (References.of(restorer, [p], settings=leading) for p in PHOTOS[:2])
    condition = restorer.condition(torch.randn(1, 4, 8, 8))
    changes = [each.bind(restorer.unet, restorer.schedule).prepare(300) for each in (first, second)]
    nulls = [
        replace(each, latents=0 * each.latents, settings=replace(each.settings, cfg=1.0))
        .bind(restorer.unet, restorer.schedule)
        .prepare(300)
        for each in (first, second)
    ]

    def predict(*changes: Changes) -> Tensor:
        return restorer.denoise(x, t, condition, changes=together(*changes))

    with torch.no_grad():
        one = evaluated(predict, changes[:1])
        whole, null = predict(changes[0]), predict(nulls[0])
        torch.testing.assert_close(one, null + 2.5 * (whole - null), rtol=0, atol=1e-5)
        assert (one - whole).abs().max() > 1e-4, "the test is blind"
        both = evaluated(predict, changes)
        whole, nothing = predict(*changes), [predict(nulls[0], changes[1]), predict(changes[0], nulls[1])]
        expected = whole + sum(1.5 * (whole - one) for one in nothing)
        torch.testing.assert_close(both, expected, rtol=0, atol=1e-5)


def test_a_factor_of_0_leaves_out_the_layers_of_that_size(restorer: Restorer) -> None:
    bound = References.of(restorer, PHOTOS).bind(restorer.unet, restorer.schedule, 0.5, {2: 0.0, 4: 0.5})
    layers = bound.prepare(0).attention
    assert {each[0].weight for each in layers.values()} == {0.25}
    everywhere = References.of(restorer, PHOTOS).bind(restorer.unet, restorer.schedule).prepare(0).attention
    attentions = {
        name
        for name, part in restorer.unet.named_modules()
        if isinstance(part, AttentionBlock) or name.endswith("attn1")
    }
    assert everywhere.keys() == {n for n in attentions if not n.startswith(("control_model", "lq_encoder"))}
    assert layers.keys() < everywhere.keys()


def test_no_gradient_flows_into_what_is_read_but_in_training() -> None:
    restorer = small_restorer()
    assert any(weight.requires_grad for weight in restorer.unet.parameters())
    references = References.of(restorer, PHOTOS)
    bound = references.bind(restorer.unet, restorer.schedule).prepare(0).attention
    assert not any(layer[0].key.requires_grad or layer[0].value.requires_grad for layer in bound.values())
    found = read_photos(restorer.unet, references.latents[:, None], 0, restorer.null_context)
    assert all(part.requires_grad for layer in found.values() for part in layer)


def test_a_photo_is_read_as_its_own_bad_picture_or_without_one(restorer: Restorer) -> None:
    """By SFT and control networks, which restore it as itself; ReF-LDM's channels are zeros."""
    latents, t = References.of(restorer, PHOTOS[:1]).latents, torch.tensor([7])
    beside = restorer.unet.config.in_channels - restorer.unet.config.out_channels
    condition = torch.zeros_like(latents) if beside else latents
    seen: dict[str, Tensor] = {}

    def note(name: str, q: Tensor, k: Tensor, v: Tensor, attend: Callable[..., Tensor]) -> Tensor:
        seen[name] = torch.stack([q, k, v])
        return attend(q, k, v)

    with torch.no_grad():
        hooks = BlockHooks(self_attention=note)
        restorer.denoise(latents, t, replace(restorer.condition(latents), spatial=condition), hooks=hooks)
        for name, read in read_photos(restorer.unet, latents[None], 7, restorer.null_context).items():
            torch.testing.assert_close(torch.stack([*read]), seen[name])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_it_works_in_half_precision(dtype: torch.dtype) -> None:
    whole = small_restorer()
    half = replace(
        whole, unet=whole.unet.to(dtype), autoencoder=whole.autoencoder.to(dtype),
        null_context=whole.null_context.to(dtype),
    )  # fmt: skip
    references = References.of(half, PHOTOS, settings=ReferenceSettings(cfg=1.5))
    assert not torch.equal(restored(half, references, gamma=0.5), restored(half))


def test_each_row_of_a_batch_may_have_photos_of_its_own(restorer: Restorer) -> None:
    """As in a training with references."""
    latents, x, t = torch.randn(2, 3, 4, 8, 8), torch.randn(3, 4, 8, 8), torch.tensor([5, 300, 900])
    condition = restorer.condition(torch.randn(3, 4, 8, 8))

    @torch.no_grad()
    def predict(photos: Tensor, rows: slice) -> Tensor:
        read = read_photos(restorer.unet, photos, 0, restorer.null_context)
        changes = Changes(
            attention={name: [module.shared_tokens(one, 1, True)] for name, one in read.items()}
        )
        assert condition.spatial is not None
        seen = replace(condition, spatial=condition.spatial[rows])
        return restorer.denoise(x[rows], t[rows], seen, changes=changes)

    alone = [predict(latents[:, [row]], slice(row, row + 1)) for row in range(3)]
    torch.testing.assert_close(predict(latents, slice(3)), torch.cat(alone), rtol=0, atol=1e-4)
    assert (predict(latents[:, :1], slice(3))[1:] - torch.cat(alone)[1:]).abs().max() > 1e-3


def test_plain_attention_does_what_the_transformer_s_does() -> None:
    """Own and further keys, by hand; the photo's condition are zeros beside it."""
    torch.manual_seed(0)
    sizes = replace(SIZES, in_channels=6, out_channels=4, context_dim=0, sft_channels=0, lq_encoder=None)
    unet = UNet(sizes).eval().requires_grad_(False)
    latents = torch.randn(2, 4, 8, 8)
    found = read_photos(unet, latents[:, None], 7, None)
    alone = [read_photos(unet, latent[None, None], 7, None) for latent in latents]
    for name, layer in found.items():
        torch.testing.assert_close(layer.keys, torch.cat([one[name].keys for one in alone], 1))
    references = References(latents, None, "", ReferenceSettings().suited(0))
    assert references.settings == ReferenceSettings(side_by_side=True, adain=False, zeros=True)
    changes = references.bind(unet, small_restorer().schedule).prepare(500)
    seen: list[Tensor] = []

    def spy(name: str, q: Tensor, k: Tensor, v: Tensor, attend: Callable[..., Tensor]) -> Tensor:
        def looked(q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            torch.testing.assert_close(keys[:, : k.shape[1]], k)
            torch.testing.assert_close(
                values[:, v.shape[1] :], changes.attention[name][0].value.expand(3, -1, -1)
            )
            seen.append(keys)
            return attend(q, keys, values)

        around = attention_of(changes)
        assert around
        return around(name, q, k, v, looked)

    x, picture = torch.randn(3, 4, 8, 12), torch.randn(3, 2, 8, 12)
    unet(x, torch.tensor([500] * 3), condition=picture, hooks=BlockHooks(self_attention=spy))
    assert len(seen) == len(found) > 3


def test_adain_gives_queries_and_keys_the_photos_moments() -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 20, 8)
    photos_q, photos_k = 3 + 2 * torch.randn(1, 30, 8), 5 * torch.randn(1, 30, 8) - 1
    shown = SharedTokens(photos_k, photos_k, match=(Moments.of(photos_q), Moments.of(photos_k)))
    found: list[tuple[Tensor, Tensor]] = []

    def attend(q: Tensor, k: Tensor, v: Tensor, **_: Any) -> Tensor:
        found.append((q, k[:, :20]))
        return v[:, :20]

    for weight in (1.0, 2.0, 0.25):
        joined({"here": [replace(shown, weight=weight)]})("here", q, k, v, attend)
    for tokens, photos in zip(found[0], (photos_q, photos_k), strict=True):
        mean, std = photos.mean(1, keepdim=True), photos.std(1, keepdim=True, correction=0)
        torch.testing.assert_close(tokens.mean(1, keepdim=True), mean.expand(2, -1, -1))
        torch.testing.assert_close(
            tokens.std(1, keepdim=True, correction=0), std.expand(2, -1, -1), rtol=1e-4, atol=0
        )
    assert torch.equal(found[1][0], found[0][0])
    torch.testing.assert_close(found[2][0], q + 0.25 * (found[0][0] - q))
    twice = joined({"here": [shown, replace(shown, match=(Moments.of(q[:1]), Moments.of(k[:1])))]})
    twice("here", q[:1], k[:1], v[:1], attend)
    torch.testing.assert_close(found[3][0], (found[0][0][:1] + q[:1]) / 2, rtol=1e-3, atol=1e-4)
    joined({"elsewhere": [shown]})("here", q, k, v, attend)
    assert found[4][0] is q


def test_a_prompt_of_the_restorer_s_own_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """A person without a name is no reason to say nothing."""
    restorer, said = small_diffbir("v2.1"), set[str]()
    context = Restorer.context
    monkeypatch.setattr(
        Restorer, "context", lambda self, prompt="": said.add(prompt) or context(self, prompt)
    )
    restored(restorer, References.of(restorer, PHOTOS))
    own = prompt_guidance(restorer.header).prompt
    assert own
    assert own in said


def test_what_does_not_fit_is_refused() -> None:
    restorer = small_restorer()
    references = References.of(restorer, PHOTOS)
    with pytest.raises(ValueError, match="encoded by another restorer"):
        restored(small_diffbir(), references)
    with pytest.raises(ValueError, match="have 3 channels"):
        restored(restorer, replace(references, latents=references.latents[:, :3]))
    for cfg in (0.5, float("nan"), 11.0):
        with pytest.raises(ValueError, match="cfg of references must be from 1 to 10"):
            ReferenceSettings(cfg=cfg)
    with pytest.raises(ValueError, match="No reference time step 'never'"):
        ReferenceSettings(timestep="never")
    with pytest.raises(ValueError, match="Give 1 to 10 photos"):
        References.of(restorer, [])
