"""Photos that a MODEL looks at: the core's numbers, the base's bits at strength 0, no trace behind."""

from functools import partial
from pathlib import Path
from typing import Any

import comfy.ldm.modules.attention
import comfy.model_management as mm
import comfy.ops
import pytest
import torch
from inside_identity import applied, sampled, stand_in
from inside_model import HEADER, inputs, model, path, restorer  # noqa: F401 - fixtures
from pfstorer.nodes import references as node
from pfstorer.nodes.host.tiles import Tiles, with_tiles
from pfstorer.nodes.host.unet import HostUNet
from pfstorer.nodes.host.vae import build_vae
from pfstorer.nodes.references import ReferenceAttention
from pfstorer.pfstorer_core.models import BlockHooks, UNet, UNetConfig
from pfstorer.pfstorer_core.models.ops import attention
from pfstorer.pfstorer_core.personalization.reference_attention import references as core
from pfstorer.pfstorer_core.personalization.reference_attention.references import (
    References,
    ReferenceSettings,
)
from pfstorer.pfstorer_core.restorers.base import Restorer
from pfstorer.pfstorer_core.restorers.changes import attention_of, evaluated
from pfstorer.pfstorer_core.restorers.files import open_restorer
from pfstorer.pfstorer_core.restorers.shared_attention import SharedTokens, joined
from torch import Tensor

PHOTOS = torch.rand(2, 80, 60, 3, generator=torch.Generator().manual_seed(4))
CFG = 1.5


@pytest.fixture(scope="module")
def vae(path: Path) -> Any:  # noqa: F811
    return build_vae(open_restorer(path))


@pytest.fixture(autouse=True)
def notes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """There is no server to show them."""
    said: list[str] = []
    monkeypatch.setattr(node, "show_notes", lambda _, texts: said.extend(texts) or {})
    monkeypatch.setattr(ReferenceAttention, "hidden", type("Hidden", (), {"unique_id": "1"}), raising=False)
    return said


def looking(model: Any, vae: Any, strength: float = 1.0, **settings: Any) -> Any:  # noqa: F811
    given = {name: [value] for name, value in settings.items()}
    photos = {"photo_0": [PHOTOS[:1]], "photo_1": [PHOTOS[1:]]}
    return ReferenceAttention.execute(photos, model=[model], vae=[vae], strength=[strength], **given).args[0]


@torch.no_grad()
@pytest.mark.parametrize("settings", [{}, {"cfg": CFG, "reference_timestep": "noised", "adain": "off"}])
def test_it_is_the_core_s_attention(
    restorer: Restorer,  # noqa: F811
    model: Any,  # noqa: F811
    vae: Any,
    settings: dict[str, Any],
) -> None:
    x, _, context, lq = inputs((16, 12))
    t = torch.tensor([500.0, 500.0])
    sigma = model.model.model_sampling.sigma(t)
    seen = looking(model, vae, 0.7, **settings)
    given = {"c_crossattn": context, "lq_latent": lq}
    options = seen.model_options["transformer_options"]
    out = seen.model.apply_model(x, sigma, transformer_options=options, **given)

    chosen = ReferenceSettings(
        adain=False if "adain" in settings else None, timestep=settings.get("reference_timestep", "zero"),
        cfg=settings.get("cfg", 1.0),
    )  # fmt: skip
    photos = [photo.movedim(-1, 0) for photo in PHOTOS]
    references = References.of(restorer, photos, settings=chosen)
    changes = references.bind(restorer.unet, restorer.schedule, 0.7).prepare(500)
    scaled = model.model.model_sampling.calculate_input(sigma, x)
    v = evaluated(
        lambda now: restorer.unet(scaled, t, context, lq, hooks=BlockHooks(self_attention=attention_of(now))),
        [changes],
    )
    expected = model.model.model_sampling.calculate_denoised(sigma, v, x)
    torch.testing.assert_close(out, expected, rtol=0, atol=2e-3)
    base = model.model.apply_model(x, sigma, transformer_options={}, **given)
    assert (out - base).abs().max() > 0.02, "it changes nothing: the test is blind"


def test_strength_0_and_bypass_are_the_base_bit_for_bit(model: Any, vae: Any) -> None:  # noqa: F811
    base = sampled(model)
    assert torch.equal(sampled(looking(model, vae, 0.0)), base)
    changes = [(sampled(looking(model, vae, s)) - base).abs().mean() for s in (0.05, 0.5, 1.0)]
    assert 0 < changes[0] < changes[1] < changes[2]
    assert torch.equal(sampled(model), base), "something stayed behind"
    late = looking(model, vae, start_percent=1.0)
    assert torch.equal(sampled(late), base)


@pytest.mark.parametrize(("kind", "times"), [("zero", 1), ("noised", 3)])
def test_photos_are_read_once(
    model: Any,  # noqa: F811
    vae: Any,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    times: int,
) -> None:
    """Once for all steps, or once a step: tiles and both branches of guidance share them."""
    calls, read = [], core.read_photos
    monkeypatch.setattr(core, "read_photos", lambda *a: calls.append(a) or read(*a))
    tiled = with_tiles(looking(model, vae, reference_timestep=kind), Tiles(8, 4, 2))
    sampled(tiled, steps=3, cfg=2.0)
    assert len(calls) == times
    sampled(tiled, steps=3, cfg=2.0)
    assert len(calls) == 2 * times, "what was read outlived the sampling"


@pytest.mark.parametrize("cfg", [1.0, CFG])
@pytest.mark.parametrize("tiled", [False, True])
def test_the_host_leaves_room_for_keys_and_values(
    model: Any,  # noqa: F811
    vae: Any,
    monkeypatch: pytest.MonkeyPatch,
    cfg: float,
    tiled: bool,
) -> None:
    asked, kept = list[tuple[float, float]](), list[Tensor]()
    read, load = core.read_photos, mm.load_models_gpu

    def reading(*given: Any) -> Any:
        found = read(*given)
        kept.extend(part for tokens in found.values() for part in (tokens.keys, tokens.values))
        return found

    def loading(models: Any, memory_required: float = 0, **given: Any) -> None:
        asked.append((memory_required, given.get("minimum_memory_required", 0)))
        load(models, memory_required, **given)

    monkeypatch.setattr(core, "read_photos", reading)
    monkeypatch.setattr(mm, "load_models_gpu", loading)
    seen = looking(model, vae, cfg=cfg)
    for each in (model, seen):
        asked.clear()
        sampled(with_tiles(each, Tiles(8, 4, 2)) if tiled else each)
        if each is model:
            base = asked[0]
    size = sum(part.numel() * part.element_size() for part in kept)
    assert size
    for needed, before in zip(asked[0], base, strict=True):
        assert needed - before == size


def test_a_mask_keeps_it_in_its_place(model: Any, vae: Any) -> None:  # noqa: F811
    mask = torch.zeros(1, 64, 64)
    mask[..., :24] = 1
    change = (sampled(looking(model, vae, mask=mask), 1) - sampled(model, 1)).abs().mean((0, 1, 2))
    assert change[:6].min() > 0
    assert not change[6:].any()
    with pytest.raises(ValueError, match="mask is empty"):
        looking(model, vae, mask=torch.zeros(1, 8, 8))


def test_it_goes_with_a_learned_person(restorer: Restorer, model: Any, vae: Any) -> None:  # noqa: F811
    adapter = stand_in(restorer)
    one = sampled(looking(applied(model, adapter), vae))
    other = sampled(applied(looking(model, vae), adapter))
    torch.testing.assert_close(one, other, rtol=0, atol=1e-5)
    assert not torch.equal(one, sampled(applied(model, adapter)))


def test_what_another_node_does_to_an_attention_stays(model: Any, vae: Any) -> None:  # noqa: F811
    """PAG's identity attention, SAG's look at it: they know nothing of further keys."""
    shapes: list[int] = []

    def theirs(q: Tensor, k: Tensor, v: Tensor, _: dict[str, Any]) -> Tensor:
        shapes.append(v.shape[1] - q.shape[1])
        return v

    replaced = model.clone()
    replaced.set_model_attn1_replace(theirs, "middle", 0)
    both, only = sampled(looking(replaced, vae)), sampled(replaced)
    assert set(shapes) == {0}
    assert not torch.equal(both, only), "the other attentions look at no photo"
    patched = model.clone()
    patched.set_model_attn1_patch(lambda q, k, v, extra: (q, 2 * k, v))
    assert not torch.equal(sampled(looking(patched, vae)), sampled(looking(model, vae)))


@torch.no_grad()
def test_plain_attention_of_the_host_is_the_core_s() -> None:
    torch.manual_seed(0)
    few: dict[str, Any] = {"model_channels": 32, "channel_mult": (1, 2), "num_res_blocks": 1}
    sizes = UNetConfig(
        **few, in_channels=8, context_dim=0, sft_channels=0, num_head_channels=16, attention_resolutions=(2,)
    )
    host = HostUNet(
        sizes=sizes, attn_precision=None, dtype=torch.float32, device=torch.device("cpu"),
        operations=comfy.ops.disable_weight_init,
    )  # fmt: skip
    own = UNet(sizes).eval()
    host.load_state_dict(own.state_dict())
    references = References(torch.randn(2, 4, 8, 8), None, "", ReferenceSettings().suited(0))
    schedule = HEADER.schedule
    x, t, lq = torch.randn(2, 4, 8, 8), torch.tensor([500, 20]), torch.randn(2, 4, 8, 8)
    found, expected = (references.bind(unet, schedule).prepare(0) for unet in (host, own))
    out = host(x, t, lq_latent=lq, self_attention=attention_of(found))
    hooks = BlockHooks(self_attention=attention_of(expected))
    torch.testing.assert_close(out, own(x, t, condition=lq, hooks=hooks), rtol=0, atol=1e-4)
    assert (out - own(x, t, condition=lq)).abs().max() > 1e-3


@pytest.mark.parametrize("kind", ["basic", "split", "sub_quad", "pytorch"])
def test_every_attention_of_the_host_counts_photos_alike(kind: str) -> None:
    """By a mask of one row, which is all queries'."""
    q, k, v = torch.randn(3, 2, 12, 32, generator=torch.Generator().manual_seed(0))
    photo = SharedTokens(*torch.randn(2, 1, 20, 32), weight=0.3)
    hook = joined({"here": [photo]})
    theirs = partial(getattr(comfy.ldm.modules.attention, f"attention_{kind}"), heads=4)
    expected = hook("here", q, k, v, partial(attention, heads=4))
    torch.testing.assert_close(hook("here", q, k, v, theirs), expected, rtol=0, atol=1e-5)
    assert (expected - attention(q, k, v, 4)).abs().max() > 0.05


def test_what_was_read_is_said(model: Any, vae: Any, notes: list[str]) -> None:  # noqa: F811
    looking(model, vae)
    assert notes[0] == "Looks at 2 photos, encoded one by one, with AdaIN."
    assert notes[1].startswith("Photo 1: no face was found, so the square in its middle is taken")
    notes.clear()
    looking(model, vae, encoding="side by side", adain="off")
    assert notes[0] == "Looks at 2 photos, encoded side by side, without AdaIN."
