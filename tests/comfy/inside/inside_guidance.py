"""Restoration guidance in the host's samplers: the core's numbers, in both spaces, wherever it is called."""

# ruff: noqa: F811 - fixtures are imported

from collections.abc import Callable
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import comfy.model_management as mm
import comfy.sample
import comfy.samplers
import comfy.sd
import pytest
import torch
from inside_dynamic import dynamic, small  # noqa: F401 - a fixture, and small restorers
from inside_model import path, restorer  # noqa: F401 - fixtures
from pfstorer.nodes.guidance import RestorationGuidance as Node
from pfstorer.nodes.host.conditioning import prompts_for, with_lq
from pfstorer.nodes.host.guidance import KEY, GradientDecoder, Guide, schedule_of, with_guidance
from pfstorer.nodes.host.model import build_model, load_model
from pfstorer.nodes.host.vae import build_vae, load_vae
from pfstorer.nodes.tiles import RestorationTiling
from pfstorer.pfstorer_core.diffusion.restoration_guidance import GuidanceSettings, RestorationGuidance
from pfstorer.pfstorer_core.diffusion.schedule import Schedule
from pfstorer.pfstorer_core.restorers.base import Restorer
from pfstorer.pfstorer_core.restorers.files import load_restorer, open_restorer
from torch import Tensor

STRONG = {"latent": 0.01, "rgb": 1.0}


def loaded(path: Path) -> tuple[Any, Any]:
    """MODEL and VAE as LoadBaseRestorer makes them, in the host's inference mode."""
    with torch.inference_mode():
        file = open_restorer(path)
        model, vae = build_model(file, torch.float32), build_vae(file)
    model.cached_patcher_init = (load_model, (str(path), (), None, None, torch.float32, None))
    vae.patcher.cached_patcher_init = (load_vae, (str(path), (), None, None))
    return model, vae


@pytest.fixture(scope="module")
def stablesr(path: Path, restorer: Restorer) -> tuple[Restorer, Any, Any]:
    return restorer, *loaded(path)


@pytest.fixture(scope="module")
def diffbir(tmp_path_factory: pytest.TempPathFactory) -> tuple[Restorer, Any, Any]:
    from pfstorer_core.restorers.files import save_restorer  # of the package that small takes

    path = tmp_path_factory.mktemp("diffbir") / "v1_face.safetensors"
    save_restorer(small.small_diffbir(), path, torch.float32)
    return load_restorer(path), *loaded(path)


@pytest.fixture
def model(stablesr: tuple[Restorer, Any, Any]) -> Any:
    return stablesr[1]


@pytest.fixture
def vae(stablesr: tuple[Restorer, Any, Any]) -> Any:
    vae = copy(stablesr[2])
    vae.patcher = copy(vae.patcher)
    return vae


def picture(rows: int = 1, size: tuple[int, int] = (12, 8), seed: int = 5) -> Tensor:
    return torch.randn(rows, 4, *size, generator=torch.Generator().manual_seed(seed))


def sampled(
    model: Any, lq: Tensor, sampler: str = "euler", steps: int = 2, seed: int = 0, conds: Any = None,
) -> Tensor:  # fmt: skip
    """In inference mode, as in a queued prompt."""
    with torch.inference_mode():
        positive, negative = conds or with_lq(prompts_for(model.model, None, None), lq)
        noise = comfy.sample.prepare_noise(lq, seed)
        return comfy.sample.sample(
            model, noise, steps, 1.0, sampler, "normal", positive, negative, lq, seed=seed, disable_pbar=True
        )


def guided(model: Any, scale: float = 1.0, space: str = "latent", **given: Any) -> Any:
    with torch.inference_mode():
        return Node.execute(model, scale, space, **given).args[0]


def watched(model: Any, found: list[tuple[float, Tensor]]) -> Any:
    """A clone that notes noise level and x0 of each evaluation."""
    model = model.clone()

    def note(args: dict[str, Any]) -> Tensor:
        found.append((float(args["sigma"][0]), args["denoised"].clone()))
        return args["denoised"]

    model.set_model_sampler_post_cfg_function(note)
    return model


@pytest.mark.parametrize(
    ("kind", "sampler", "space", "settings"),
    [
        ("stablesr", "euler", "latent", {}),
        ("stablesr", "heun", "latent", {}),
        ("stablesr", "ddpm", "latent", {"rule": "v1", "repeats": 2}),
        ("stablesr", "ddpm", "rgb", {}),
        ("stablesr", "euler", "rgb", {"loss": "w_mse", "repeats": 2}),
        ("stablesr", "dpm_2", "rgb", {"rule": "v1"}),
        ("diffbir", "ddpm", "latent", {}),
        ("diffbir", "heun", "rgb", {"loss": "w_mse"}),
    ],
)
def test_it_is_the_core_s_rule(
    request: Any, kind: str, space: str, settings: dict[str, Any], sampler: str
) -> None:
    restorer, model, vae = request.getfixturevalue(kind)
    lq, before, after = picture(2), list[tuple[float, Tensor]](), list[tuple[float, Tensor]]()
    scale = STRONG[space] * (300 if settings.get("rule") == "v1" else 1)
    patched = watched(guided(watched(model, before), scale, space, vae=vae, **settings), after)
    sampled(patched, lq, sampler)
    levels = comfy.samplers.KSampler(model, 2, torch.device("cpu"), sampler, "normal").sigmas[:-1].flip(0)
    times = model.model.model_sampling.timestep(levels)
    schedule = Schedule(1 / (1 + levels.double() ** 2), times)
    factor = restorer.header.scale_factor
    with torch.no_grad():
        target = factor * lq if space == "latent" else restorer.autoencoder.decode(lq)
    rule = RestorationGuidance(
        GuidanceSettings(scale, space, **{"loss": "mse", **settings}), schedule, lambda *_: target,
        lambda latents: restorer.autoencoder.decode(latents / factor),
    )  # fmt: skip
    assert len(before) == len(after) == (3 if sampler in ("heun", "dpm_2") else 2)
    for (sigma, x0), (_, found) in zip(before, after, strict=True):
        timestep = float(model.model.model_sampling.timestep(torch.tensor([sigma])))
        expected = rule(x0, timestep)
        assert (expected - x0).abs().max() > 0.01, "it changes nothing: the test is blind"
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("space", ["latent", "rgb"])
def test_scale_0_is_the_model_bit_for_bit(model: Any, vae: Any, space: str) -> None:
    base = sampled(model, picture())
    nothing = guided(model, 0.0, space, vae=vae)
    assert nothing is not model
    assert nothing.model_options.get("sampler_post_cfg_function", []) == []
    assert torch.equal(sampled(nothing, picture()), base)
    assert not torch.equal(sampled(guided(model, STRONG[space], space, vae=vae), picture()), base)
    assert torch.equal(sampled(model, picture()), base), "something stayed behind"


def test_a_window_of_the_sampling(model: Any) -> None:
    def acting(**given: float) -> list[bool]:
        before, after = list[tuple[float, Tensor]](), list[tuple[float, Tensor]]()
        patched = watched(guided(watched(model, before), STRONG["latent"], **given), after)
        sampled(patched, picture(), steps=4)
        return [not torch.equal(x0, x1) for (_, x0), (_, x1) in zip(before, after, strict=True)]

    assert acting() == [True] * 4
    assert acting(end_percent=0.5) == [True, True, False, False]
    assert acting(start_percent=0.5) == [False, False, True, True]
    assert acting(start_percent=0.2, end_percent=0.5) == [False, True, False, False]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"space": "rgb"}, "needs the VAE that decodes them: connect"),
        ({"loss": "w_mse"}, "cannot compare latents"),
        ({"start_percent": 0.5, "end_percent": 0.5}, "end_percent 0.5 has to be above start_percent 0.5"),
    ],
)
def test_what_cannot_be_is_refused_in_words(model: Any, given: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        guided(model, **given)


def test_other_models_vaes_and_conditions_are_refused(model: Any, vae: Any) -> None:
    stranger = model.clone()
    stranger.model = torch.nn.Linear(1, 1)
    with pytest.raises(ValueError, match="is a Linear, which cannot restore"):
        guided(stranger)
    vae.downscale_ratio = 8
    with pytest.raises(ValueError, match="does not belong to the MODEL"):
        guided(model, space="rgb", vae=vae)
    vae.downscale_ratio, vae.patcher.cached_patcher_init = 4, None
    with pytest.raises(ValueError, match="how this RestorerVAE was loaded is not known"):
        guided(model, space="rgb", vae=vae)
    prompts = prompts_for(model.model, None, None)
    with pytest.raises(ValueError, match="there is none: connect positive and negative"):
        sampled(guided(model), picture(), conds=prompts)


def test_each_area_is_pulled_to_its_own_picture(model: Any) -> None:
    """Two conditions side by side, and one that has ended: as the host blends their predictions."""
    left, right, past = (picture(seed=seed) for seed in (1, 2, 3))
    found: list[tuple[float, Tensor]] = []
    settings = {"rule": "v1", "repeats": 1}
    noise: list[tuple[float, Tensor]] = []
    scale = 4 * 12 * 8 / 2  # the whole way in v1's step, which moves by half of it over the coefficient
    patched = watched(guided(watched(model, noise), scale, **settings), found)
    conds = []
    for lq, extra in (
        (left, {"area": (12, 4, 0, 0)}),
        (right, {"area": (12, 4, 0, 4), "strength": 0.5}),
        (past, {"end_percent": 0.0, "start_percent": 0.0}),
    ):
        (prompt,) = with_lq(prompts_for(model.model, None), lq)
        conds += [[prompt[0][0], {**prompt[0][1], **extra}]]
    lq = torch.zeros_like(left)
    sampled(patched, lq, steps=2, conds=(conds, conds))
    whole = model.model.latent_format.process_in(torch.cat([left[..., :4], right[..., 4:]], -1))
    for (sigma, x0), (_, moved) in zip(noise, found, strict=True):
        share = (moved - x0) / (whole - x0)
        assert share.std() < 1e-3, "somewhere it is pulled to another picture"
        assert share.mean() > 0.4, sigma


@pytest.mark.parametrize("space", ["latent", "rgb"])
def test_with_tiles_it_sees_the_whole(model: Any, vae: Any, space: str) -> None:
    """Before and after RestorationTiling it is the same, and the decoder's pieces give nearly the same."""
    lq = picture(size=(20, 12))

    def run(*order: Callable[[Any], Any]) -> Tensor:
        patched = model
        for step in order:
            patched = step(patched)
        return sampled(patched, lq)

    def tiles(model: Any) -> Any:
        return RestorationTiling.execute(model, 64, 16).args[0]

    def guide(model: Any) -> Any:
        return guided(model, STRONG[space], space, vae=vae)

    both = run(tiles, guide)
    assert torch.equal(both, run(guide, tiles))
    assert (both - run(tiles)).abs().max() > 0.01


def test_pieces_of_a_large_picture_have_the_gradient_of_the_whole(vae: Any) -> None:
    """Of the blend of the pieces: checked against differences. Several rows are decoded one by one."""
    with torch.inference_mode():
        decoder = GradientDecoder(vae)
        decoder.tile = 8
        latents = picture(2, (8, 20))
    with torch.inference_mode(False):
        decoder.patcher.model.double()
        x = latents.clone().requires_grad_()
        decoder.dtype = torch.float64
        weights = picture(2, (32, 80))[:, :3]
        (gradient,) = torch.autograd.grad((decoder(x) * weights).sum(), x)
        direction = picture(2, (8, 20), 9)
        step = 1e-2
        with torch.no_grad():
            ends = [(decoder(x + sign * step * direction) * weights).sum() for sign in (1, -1)]
            one = decoder(x[:1])
            assert torch.equal(decoder(x)[:1], one)
        difference = (ends[0] - ends[1]) / (2 * step)
        torch.testing.assert_close((gradient * direction).sum(), difference, rtol=1e-2, atol=1e-2)


def test_half_precision_keeps_small_gradients(vae: Any) -> None:
    """Of a mean over a picture, each is smaller than half precision can hold."""
    latents = picture(1, (24, 24))
    found = []
    for dtype in (torch.float32, torch.float16):
        decoder = GradientDecoder(vae)
        decoder.dtype = dtype
        decoder.patcher.model.to(dtype)
        x = latents.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(decoder(x).square().mean() * 1e-3, x)
        found.append(gradient)
    assert (found[1] - found[0]).norm() < 0.05 * found[0].norm()


def test_memory_that_is_short(model: Any, vae: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Smaller pieces, and one sentence where there are none; the next run starts with large ones again, and
    nothing is kept."""
    monkeypatch.setattr("pfstorer.nodes.host.guidance.TILE", 16)
    monkeypatch.setattr("pfstorer.nodes.host.guidance.LEAST_TILE", 8)
    patched = guided(model, STRONG["rgb"], "rgb", vae=vae)
    (guide,) = patched.model_options["sampler_post_cfg_function"]
    limit, seen, piece = 8, [], GradientDecoder._piece

    def small(self: Any, latent: Tensor) -> Tensor:
        seen.append(max(latent.shape[-2:]))
        if seen[-1] > limit:
            raise mm.OOM_EXCEPTION("no room")
        return piece(self, latent)

    monkeypatch.setattr(GradientDecoder, "_piece", small)
    sampled(patched, picture(size=(16, 8)))
    assert seen[:2] == [16, 8]
    assert seen.count(16) == 1
    assert guide.decoder.tile == 16
    assert guide._shown is None
    limit = 4
    with pytest.raises(mm.OOM_EXCEPTION, match="even on 8 x 8 latent cells: take the space latent"):
        sampled(patched, picture(size=(16, 8)))
    assert guide.decoder.tile == 16
    assert guide._shown is None


def test_the_vae_in_the_graph_stays_as_it_is(model: Any, vae: Any) -> None:
    patched = guided(model, STRONG["rgb"], "rgb", vae=vae)
    (decoder,) = patched.get_additional_models_with_key(KEY)
    assert decoder.model is not vae.first_stage_model
    with torch.inference_mode():
        before = vae.decode(picture())
        twice = guided(patched, STRONG["rgb"], "rgb", vae=vae)
        assert len(twice.get_additional_models_with_key(KEY)) == 2
    sampled(patched, picture())
    with torch.inference_mode():
        assert torch.equal(vae.decode(picture()), before)


def test_weights_that_the_host_moved_are_copied(vae: Any) -> None:
    """On a GPU the host moves them in inference mode, as here by hand."""
    decoder = GradientDecoder(vae)
    with torch.inference_mode():
        for part in decoder.patcher.model.modules():
            for name, value in part.named_parameters(recurse=False):
                setattr(part, name, torch.nn.Parameter(value.clone(), requires_grad=False))
        assert next(decoder.patcher.model.parameters()).is_inference()
        guide = Guide(replace(GuidanceSettings(), loss="mse"), decoder)
        assert guide.decoder is not None
        with torch.inference_mode(False):
            x = picture().clone().requires_grad_()
            assert torch.autograd.grad(decoder(x).sum(), x)[0].abs().max() > 0


@pytest.mark.parametrize("kind", ["stablesr", "diffbir"])
def test_streamed_weights(kind: str, request: Any) -> None:
    """DynamicVRAM, with lazy layers: MODEL and VAE of the graph are streamed, the decoder is not."""
    _, model, vae = request.getfixturevalue(kind)
    expected = sampled(guided(model, STRONG["rgb"], "rgb", vae=vae), picture())
    path = Path(vae.patcher.cached_patcher_init[1][0])
    streaming = request.getfixturevalue("dynamic")
    model, vae = loaded(path)
    assert isinstance(model, streaming)
    assert isinstance(vae.patcher, streaming)
    patched = guided(model, STRONG["rgb"], "rgb", vae=vae)
    (decoder,) = patched.get_additional_models_with_key(KEY)
    assert not decoder.is_dynamic()
    # So strong a guidance makes much of rounding, which differs from CPU to CPU.
    torch.testing.assert_close(sampled(patched, picture()), expected, rtol=1e-3, atol=1e-3)
    assert (sampled(model, picture()) - expected).abs().max() > 0.02


def test_schedules_of_all_sorts_of_levels(model: Any) -> None:
    """Without a 0, rising, and closer together than time steps are."""
    levels = model.model.model_sampling
    sigmas = levels.sigma(torch.tensor([999.0, 500.0, 500.2, 20.0]))
    for given in (sigmas, sigmas.flip(0), torch.cat([sigmas, torch.zeros(1)])):
        schedule = schedule_of(given, levels)
        assert schedule.timesteps.tolist() == [20, 500, 999]
        torch.testing.assert_close(schedule.alphas_cumprod[-1].item(), 1 / (1 + sigmas[0].item() ** 2))


def test_guidances_add_up_and_survive_clones(model: Any) -> None:
    once = guided(model, STRONG["latent"])
    twice = with_guidance(once, Guide(GuidanceSettings(STRONG["latent"], "latent", "mse")))
    results = [sampled(each, picture()) for each in (model, once, once.clone(), twice)]
    assert torch.equal(results[1], results[2])
    assert (results[1] - results[0]).abs().max() > 1e-3
    assert (results[3] - results[1]).abs().max() > 1e-3
