"""Restorers as files, and restoration without a host, with small random networks."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from harness.stand_in_adapter import stand_in_adapter
from pfstorer_core import CheckpointError, Identity, Restorer, load_restorer, restore, save_restorer
from pfstorer_core.diffusion.sampling import SamplerStep
from pfstorer_core.models import Autoencoder

from .small import AUTOENCODER, HEADER, SIZES, TEXT, small_restorer


@pytest.fixture(scope="module")
def restorer() -> Restorer:
    return small_restorer()


@pytest.fixture
def file(restorer: Restorer, tmp_path: Path) -> Path:
    save_restorer(restorer, tmp_path / "small.safetensors", torch.float32)
    return tmp_path / "small.safetensors"


def test_saved_and_loaded_it_is_the_same(restorer: Restorer, file: Path) -> None:
    loaded = load_restorer(file, text=True)
    assert loaded.text is not None
    assert (loaded.unet.config, loaded.autoencoder.config, loaded.text.config) == (SIZES, AUTOENCODER, TEXT)
    assert loaded.header == HEADER
    for name in ("unet", "autoencoder", "text"):
        ours, theirs = (getattr(model, name).state_dict() for model in (restorer, loaded))
        torch.testing.assert_close(dict(ours), dict(theirs), rtol=0, atol=0)
    assert torch.equal(loaded.context(), restorer.null_context)
    torch.testing.assert_close(loaded.context("a face"), restorer.context("a face"), rtol=0, atol=1e-6)
    assert [path.name for path in file.parent.iterdir()] == [file.name], "a temporary file was left"


def test_prediction_type_can_be_overridden(file: Path) -> None:
    assert load_restorer(file, prediction_type="eps").header == replace(HEADER, prediction_type="eps")


def test_restore(restorer: Restorer) -> None:
    lq = torch.rand(2, 3, 13, 9)
    steps: list[SamplerStep] = []
    image = restore(restorer, lq, upscale=3, steps=2, seed=1, fidelity=0.5, on_step=steps.append)
    assert image.shape == (2, 3, 39, 27)
    assert torch.isfinite(image).all()
    assert [step.number for step in steps] == [0, 1]
    assert torch.equal(image, restore(restorer, lq, upscale=3, steps=2, seed=1, fidelity=0.5))
    assert not torch.equal(image, restore(restorer, lq, upscale=3, steps=2, seed=2, fidelity=0.5))
    batched = restore(restorer, lq, upscale=3, steps=2, seed=1, fidelity=0.5, tile_batch=1)
    torch.testing.assert_close(batched, image, rtol=0, atol=1e-3)


def test_fidelity_without_cfw_is_refused(restorer: Restorer) -> None:
    plain = replace(restorer, autoencoder=Autoencoder(replace(AUTOENCODER, cfw=False)))
    with pytest.raises(ValueError, match=r"fidelity 0\.5 needs .* CFW"):
        restore(plain, torch.rand(1, 3, 8, 8), steps=1, fidelity=0.5, on_step=unexpected)


@pytest.mark.parametrize(
    ("setting", "value"),
    [("color_fix", "sepia"), ("fidelity", 2.0), ("upscale", 0.1), ("tile", 8), ("overlap", 64)],
)
def test_a_wrong_setting_is_named_before_any_step(restorer: Restorer, setting: str, value: object) -> None:
    with pytest.raises(ValueError, match=setting.replace("color_fix", "sepia")):
        restore(restorer, torch.rand(1, 3, 8, 8), steps=1, on_step=unexpected, **{setting: value})  # type: ignore[arg-type]


def unexpected(step: SamplerStep) -> None:
    raise AssertionError("work began")


def test_prompts_need_the_text_tower(restorer: Restorer, file: Path) -> None:
    with pytest.raises(ValueError, match="text=True"):
        load_restorer(file).context("a face")
    save_restorer(replace(restorer, text=None), file)
    with pytest.raises(CheckpointError, match=r"small\.safetensors has no text tower"):
        load_restorer(file, text=True)


@pytest.mark.parametrize(
    ("drop", "expected"),
    [
        ("model.diffusion_model.out.2.bias", r"U-Net .* 1 missing: out\.2\.bias"),
        ("structcond_stage_model.time_embed.0.bias", r"1 missing: lq_encoder\.time_embed\.0\.bias"),
        ("first_stage_model.quant_conv.bias", r"autoencoder .* 1 missing: quant_conv\.bias"),
        ("first_stage_model.decoder.fusion_layer_1.encode_enc_2", r"autoencoder .* 60 missing: decoder\.fus"),
        ("cond_stage_model.model.ln_final.bias", r"text tower .* 1 missing: model\.ln_final\.bias"),
    ],
)
def test_what_a_network_lacks_is_named(file: Path, drop: str, expected: str) -> None:
    kept = {key: value for key, value in load_file(file).items() if not key.startswith(drop)}
    save_file(kept, file, HEADER.to_metadata())
    with pytest.raises(CheckpointError, match=expected):
        load_restorer(file, text=True)


@pytest.mark.parametrize(
    ("key", "change", "expected"),
    [
        ("ln_final.bias", None, r"text tower .* 1 missing: model\.ln_final\.bias"),
        ("positional_embedding", None, r"no complete OpenCLIP text tower: .*positional_embedding is missing"),
        ("transformer.resblocks.1.attn.in_proj_weight", None, r"1 missing: .*attn\.in_proj_weight"),
        ("transformer.resblocks.1.ln_1.bias", torch.zeros(3), r"1 of another shape: .*ln_1\.bias \[3\]"),
        ("token_embedding.weight", torch.zeros(50, 64), "knows only 50 tokens"),
        ("ln_final.weight", torch.full((64,), torch.inf), "text tower holds NaN or infinity"),
    ],
)
def test_a_damaged_text_tower_is_named_where_it_makes_the_context(
    file: Path, key: str, change: torch.Tensor | None, expected: str
) -> None:
    tensors = load_file(file)
    del tensors["null_context"], tensors[f"cond_stage_model.model.{key}"]
    if change is not None:
        tensors[f"cond_stage_model.model.{key}"] = change
    save_file(tensors, file, HEADER.to_metadata())
    with pytest.raises(CheckpointError, match=expected):
        load_restorer(file)


@pytest.mark.parametrize("place", ["picture", "weights", "decoder"])
def test_nan_is_an_error_and_never_a_picture(restorer: Restorer, place: str) -> None:
    broken, lq = copy.deepcopy(restorer), torch.full((1, 3, 8, 8), 0.5)
    if place == "picture":
        lq[0, 0, 0, 0] = torch.nan
    else:
        network = broken.unet if place == "weights" else broken.autoencoder.decoder
        torch.nn.init.constant_(list(network.parameters())[-1], 3e38)
        torch.nn.init.constant_(list(network.parameters())[-2], 3e38)
    said = {"picture": "The picture", "weights": "prediction", "decoder": "decoded picture"}[place]
    with pytest.raises(ValueError, match=rf"{said}.* holds NaN or infinity"):
        restore(broken, lq, upscale=1, steps=1)


def test_an_adapter_of_other_sizes_is_refused_before_any_work(restorer: Restorer) -> None:
    lq, steps = torch.full((1, 3, 8, 8), 0.5), list[object]()
    for shape in ((1, 5, 4, 4), (1, 4, 99, 4)):
        identity = Identity(stand_in_adapter(restorer, torch.zeros(shape)))
        with pytest.raises(ValueError, match="does not fit: its references are"):
            restore(restorer, lq, upscale=1, steps=1, identities=[identity], on_step=steps.append)
    assert not steps


def first_evaluation(restorer: Restorer, lq: torch.Tensor, **given: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """What the U-Net is given first in a restoration: the noisy latent, and the time step."""
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    handle = restorer.unet.register_forward_pre_hook(lambda _, given: seen.append((given[0], given[1])))
    restore(restorer, lq, steps=2, **given)
    handle.remove()
    return seen[0]


def test_it_starts_at_the_noised_bad_picture(restorer: Restorer) -> None:
    """Of which 0.06826 is left at the last time step, and 0.99767 of the noise, the same for one seed."""
    pictures = [
        torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(seed)) ** power
        for seed, power in ((0, 0.2), (1, 3.0))
    ]
    with torch.no_grad():
        latents = [HEADER.scale_factor * restorer.autoencoder.encode(2 * picture - 1) for picture in pictures]
    found, times = zip(*(first_evaluation(restorer, p, upscale=1, seed=3) for p in pictures), strict=True)
    assert [t.tolist() for t in times] == [[999], [999]]
    apart = latents[0] - latents[1]
    assert apart.abs().mean() > 0.05
    torch.testing.assert_close(found[0] - found[1], 0.06826 * apart, rtol=0, atol=1e-4)
    noise = (found[0] - 0.06826 * latents[0]) / 0.99767
    assert noise.std() == pytest.approx(1, abs=0.2)
    other, _ = first_evaluation(restorer, pictures[0], upscale=1, seed=4)
    assert (other - found[0]).std() == pytest.approx(2**0.5, abs=0.3), "another seed is other noise"


def test_the_bad_picture_is_told_to_every_evaluation(restorer: Restorer) -> None:
    """The latent of the LQ picture, scaled as the U-Net sees it, at the time step of the evaluation."""
    lq, told = torch.rand(1, 3, 32, 32), list[tuple[torch.Tensor, torch.Tensor]]()
    assert restorer.unet.lq_encoder is not None
    handle = restorer.unet.lq_encoder.register_forward_pre_hook(
        lambda _, given: told.append((given[0], given[1]))
    )
    restore(restorer, lq, upscale=1, steps=3)
    handle.remove()
    with torch.no_grad():
        latent = HEADER.scale_factor * restorer.autoencoder.encode(2 * lq - 1)
    assert [t.tolist() for _, t in told] == [[999], [500], [0]]
    for given, _ in told:
        torch.testing.assert_close(given, latent, rtol=0, atol=1e-5)


def test_a_network_s_answer_is_decoded_as_its_type_says(restorer: Restorer) -> None:
    """Where the network says that nothing is to change, v and eps give other pictures of the same state;
    the answer is unscaled before it is decoded, and the result's colours are the bad picture's."""
    lq = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    decoded: list[torch.Tensor] = []
    decode = restorer.autoencoder.decoder.register_forward_pre_hook(lambda _, given: decoded.append(given[0]))
    silent = restorer.unet.register_forward_hook(lambda *given: 0 * given[-1])
    x, _ = first_evaluation(restorer, lq, upscale=1)
    decoded.clear()
    for kind in ("v", "eps"):
        typed = replace(restorer, header=replace(HEADER, prediction_type=kind))
        restore(typed, lq, upscale=1, steps=1, color_fix="none")
    silent.remove()
    decode.remove()
    for found, factor in zip(decoded, (0.06826, 1 / 0.06826), strict=True):
        with torch.no_grad():
            expected = restorer.autoencoder.post_quant_conv(factor * x / HEADER.scale_factor)
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("fix", ["none", "adain", "wavelet"])
def test_the_colour_fix_is_the_one_asked_for(restorer: Restorer, fix: str) -> None:
    lq = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    plain = restore(restorer, lq, upscale=1, steps=1, color_fix="none")
    found = restore(restorer, lq, upscale=1, steps=1, color_fix=fix)
    assert torch.equal(found, plain) == (fix == "none")
    near = (found.mean((-1, -2)) - lq.mean((-1, -2))).abs().max() < 0.05
    assert near == (fix != "none")


def evaluations(restorer: Restorer, **given: Any) -> list[tuple[torch.Tensor, ...]]:
    """Noisy latent, time step and context of all that the U-Net is asked in a restoration."""
    seen: list[tuple[torch.Tensor, ...]] = []
    handle = restorer.unet.register_forward_pre_hook(lambda _, given: seen.append(given[:3]))
    lq = torch.rand(1, 3, 40, 24, generator=torch.Generator().manual_seed(0))
    restore(restorer, lq, upscale=4, **given)
    handle.remove()
    return seen


@pytest.mark.parametrize(
    ("tile", "overlap", "cells", "count"), [(0, -1, 8, 45), (64, 0, 16, 6), (64, -1, 16, 8), (64, 48, 16, 21)]
)
def test_tiles_are_those_asked_for(
    restorer: Restorer, tile: int, overlap: int, cells: int, count: int
) -> None:
    """Of a latent of 40 x 24 cells; by default of the size that it was trained on, and they share half."""
    sizes = [
        each[0].shape for each in evaluations(restorer, steps=1, tile=tile, overlap=overlap, tile_batch=4)
    ]
    assert {shape[-2:] for shape in sizes} == {(cells, cells)}
    assert [shape[0] for shape in sizes] == [4] * (count // 4) + [count % 4] * (count % 4 > 0)


def test_the_context_is_the_prompt_s_or_the_person_s(restorer: Restorer) -> None:
    adapter = stand_in_adapter(restorer, torch.zeros(1, 4, 4, 4), gamma=0.1)
    name = torch.randn(1, 3, SIZES.context_dim)
    adapter = replace(adapter, context=name)
    ada, bounded = Identity(adapter), Identity(adapter, area=torch.ones(1, 1, 4, 4))
    null = restorer.null_context
    half = torch.lerp(null.repeat(1, 3, 1), name.repeat(1, 2, 1), 0.5)
    for prompt, identities, expected in (
        ("", [], null),
        ("a face", [], restorer.context("a face")),
        ("a face", [ada], restorer.context("a face")),
        ("", [ada], name),
        ("", [replace(ada, gamma=2.0)], name),
        ("", [replace(ada, gamma=0.5)], half),
        ("", [replace(ada, gamma=0.0)], null),
        ("", [bounded], null),
        ("", [ada, ada], null),
    ):
        *_, context = evaluations(restorer, steps=1, tile=160, prompt=prompt, identities=identities)[-1]
        torch.testing.assert_close(context, expected)


@pytest.mark.parametrize(
    ("kind", "read"), [("zero", [0]), ("same", [999, 500, 0]), ("noised", [999, 500, 0])]
)
def test_photos_are_read_once_or_in_every_step(restorer: Restorer, kind: str, read: list[int]) -> None:
    photos = torch.randn(2, 4, 6, 6)
    adapter = stand_in_adapter(restorer, photos, reference_timestep=kind, gamma=0.1)
    seen = evaluations(restorer, steps=3, tile=160, identities=[Identity(adapter)])
    of_photos = [(x, int(t[0])) for x, t, _ in seen if x.shape[-1] == 6]
    assert [t for _, t in of_photos] == read
    for x, t in of_photos:
        assert len(x) == (2 if kind == "zero" else 1), "those that are read in every step one at a time"
        assert torch.equal(x, photos[: len(x)]) == (kind != "noised")
        if kind == "noised" and t == 999:
            assert x.std() == pytest.approx(1, abs=0.25)
    assert [int(t[0]) for x, t, _ in seen if x.shape[-1] != 6] == [999, 500, 0]


def test_fidelity_fuses_the_bad_picture(restorer: Restorer) -> None:
    """The decoder is told CFW's w, and features of the bad picture as the encoder sees it, of -1…1."""
    lq = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    seen: list[torch.Tensor] = []
    handle = restorer.autoencoder.encoder.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    pictures = [
        restore(restorer, lq, upscale=1, steps=1, fidelity=w, color_fix="none") for w in (0.0, 0.5, 1.0)
    ]
    handle.remove()
    assert len(seen) == 1 + 2 + 2, "for the latent, and for the features"
    for given in seen:
        torch.testing.assert_close(given, 2 * lq - 1)
    assert not torch.equal(pictures[0], pictures[1])
    assert not torch.equal(pictures[1], pictures[2])


@torch.no_grad()
def test_a_latent_s_distribution(restorer: Restorer) -> None:
    """Also in tiles; an autoencoder that tells none has the latent alone."""
    pictures = torch.rand(2, 3, 32, 48)
    mean, std = restorer.posterior(pictures)
    own, logvar = restorer.autoencoder.moments(2 * pictures - 1)
    assert torch.equal(mean, restorer.encode(pictures))
    torch.testing.assert_close(mean, HEADER.scale_factor * own)
    torch.testing.assert_close(std, HEADER.scale_factor * (logvar / 2).exp())
    tiled, spread = restorer.posterior(pictures, tile=8, overlap=2)
    torch.testing.assert_close(tiled, restorer.encode(pictures, tile=8, overlap=2))
    assert spread.shape == std.shape
    assert 0 < (spread - std).abs().max() < std.max()
    config = replace(AUTOENCODER, double_z=False, cfw=False)
    single = replace(restorer, autoencoder=Autoencoder(config).eval())
    latent, none = single.posterior(pictures)
    assert torch.equal(latent, single.encode(pictures))
    assert none.shape == latent.shape
    assert not none.any()
