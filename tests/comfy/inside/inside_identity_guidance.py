"""Identity guidance in the host's samplers: the core's numbers, whom pictures show, its report."""

# ruff: noqa: F811 - fixtures are imported

from pathlib import Path
from typing import Any

import comfy.model_management as mm
import folder_paths
import pytest
import torch
from comfy.model_patcher import ModelPatcher
from inside_dynamic import small
from inside_guidance import diffbir, loaded, picture, sampled, stablesr, watched  # noqa: F401 - fixtures
from inside_model import path, restorer  # noqa: F401 - fixtures
from pfstorer.nodes.host.folders import mask_names
from pfstorer.nodes.host.guidance import schedule_of
from pfstorer.nodes.host.identity_guidance import KEY, FaceGuide, record_of
from pfstorer.nodes.host.recognition import HostedRecognizer
from pfstorer.nodes.identity import FaceIdentityGuidance, IdentityGuidanceReport
from pfstorer.nodes.tiles import RestorationTiling
from pfstorer.pfstorer_core.diffusion.identity_guidance import IdentityGuidance, IdentitySettings
from pfstorer.pfstorer_core.models.identity_mask import IdentityMaskConfig, build_mask
from pfstorer.pfstorer_core.models.iresnet import IResNet, IResNetConfig
from pfstorer.pfstorer_core.recognition import Recognizer
from pfstorer.pfstorer_core.recognition.subject import find_subject
from pfstorer.pfstorer_core.restorers.clr_face.mask import save_mask
from pfstorer.pfstorer_core.restorers.files import load_restorer
from torch import Tensor

SQUARE = (8, 8)
NEVER = {"start_percent": 0.9, "end_percent": 0.95}
"""No step of those samplings."""


@pytest.fixture(scope="module")
def recognizer() -> HostedRecognizer:
    torch.manual_seed(0)
    network = IResNet(IResNetConfig(4, (4, 6, 8, 8), (1, 1, 1, 1), 10)).eval().requires_grad_(False)
    cpu = torch.device("cpu")
    return HostedRecognizer(Recognizer(network, name="small"), ModelPatcher(network, cpu, cpu))


@pytest.fixture(scope="module")
def clr_face(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, Any]:
    from pfstorer_core.restorers.files import save_restorer  # of the package that small takes

    path = tmp_path_factory.mktemp("clr_face") / "prior.safetensors"
    save_restorer(small.small_prior(), path, torch.float32)
    core, (model, vae) = load_restorer(path), loaded(path)
    model.model.null_context = core.null_context
    return core, model, vae


@pytest.fixture
def model(stablesr: Any) -> Any:
    return stablesr[1]


@pytest.fixture
def vae(stablesr: Any) -> Any:
    return stablesr[2]


def photo(seed: int = 7) -> Tensor:
    return torch.rand(1, 40, 40, 3, generator=torch.Generator().manual_seed(seed))


def guided(model: Any, vae: Any, recognizer: HostedRecognizer, strength: float = 0.2, **given: Any) -> Any:
    with torch.inference_mode():
        return FaceIdentityGuidance.execute(model, vae, recognizer, strength, **given).args[0]


def guide_of(model: Any) -> FaceGuide:
    (guide,) = (one for one in model.model_options["sampler_post_cfg_function"] if isinstance(one, FaceGuide))
    return guide


@pytest.mark.parametrize(
    ("kind", "sampler", "photos", "window"),
    [
        ("stablesr", "euler", True, {}),
        ("stablesr", "heun", False, {"start_percent": 0.0}),
        ("stablesr", "ddpm", True, {"start_percent": 0.0, "every": 2}),
        ("diffbir", "euler", False, {"start_percent": 0.0, "end_percent": 0.6}),
        ("clr_face", "ddim", True, {"start_percent": 0.0}),
    ],
)
def test_it_is_the_core_s_rule(
    request: Any, recognizer: HostedRecognizer, kind: str, sampler: str, photos: bool, window: dict[str, Any]
) -> None:
    core, model, vae = request.getfixturevalue(kind)
    before, after = list[tuple[float, Tensor]](), list[tuple[float, Tensor]]()
    given = {"photo_0": photo(), "photo_1": photo(8)} if photos else None
    patched = watched(guided(watched(model, before), vae, recognizer, photos=given, **window), after)
    lq = picture(2, SQUARE)
    samples = sampled(patched, lq, sampler, steps=5)
    guide, scale = guide_of(patched), core.header.scale_factor

    def decode(latents: Tensor) -> Tensor:
        return core.autoencoder.decode(latents / scale, quantize=False)

    levels = [sigma for sigma, _ in before]
    inside = model.model.model_sampling
    schedule = schedule_of(torch.tensor(sorted({*levels}, reverse=True)), inside)
    with torch.no_grad():
        shown = decode(lq * scale)
    subject = find_subject(recognizer, shown, core.downscale, guide.person)
    likeness = lambda x0, number: subject.likeness(decode, x0, number)  # noqa: E731
    expected = IdentityGuidance(guide.settings, schedule, likeness, (lq * scale).std((1, 2, 3)))
    acted = 0
    for (sigma, x0), (_, moved) in zip(before, after, strict=True):
        timestep = float(inside.timestep(torch.tensor([sigma])))
        acts = expected.acts(timestep)
        acted += acts
        assert torch.equal(moved, x0) != acts
        torch.testing.assert_close(moved, expected(x0, timestep), rtol=1e-3, atol=1e-3)
    record, name = record_of(patched, samples)
    assert name == "small"
    assert 0 < len(record.before) <= acted
    assert len(record.curve) == len(record.before) + 1
    loads = {patcher.model for patcher in patched.get_additional_models_with_key(KEY)}
    assert loads == {guide.decoder.patcher.model, recognizer.patcher.model}


def test_it_comes_nearer(model: Any, vae: Any, recognizer: HostedRecognizer) -> None:
    """In every step, and in the end; what it reports is that."""
    patched = guided(model, vae, recognizer, photos={"photo_0": photo()}, start_percent=0.0)
    samples = sampled(patched, picture(1, SQUARE), steps=4)
    output = IdentityGuidanceReport.execute(patched, {"samples": samples}).args
    losses, said = output[0]["loss"], output[1]
    assert len(losses) == 5
    assert losses[-1] < losses[-2]
    assert said.startswith(
        f"Likeness by small: {1 - losses[0]:.3f} before the first of 4 guided steps (of 4)"
    )
    with torch.no_grad():
        shown = vae.decode(samples).movedim(-1, 1)
    guide = guide_of(patched)
    found = recognizer.embed(2 * shown - 1)
    assert torch.cosine_similarity(found, guide.person[None]) > 1 - losses[0]


def test_nothing_to_do_is_the_model_itself(model: Any, vae: Any, recognizer: HostedRecognizer) -> None:
    base = sampled(model, picture(1, SQUARE))
    empty = torch.zeros(1, 4, 4)
    for same in (
        guided(model, vae, recognizer, 0.0),
        guided(model, vae, recognizer, mask=empty, start_percent=0.0),
        guided(model, vae, recognizer, **NEVER),
    ):
        assert torch.equal(sampled(same, picture(1, SQUARE)), base)


def test_a_mask_lies_on_the_picture(model: Any, vae: Any, recognizer: HostedRecognizer) -> None:
    """One of each picture, also behind tiles and beside another guidance with a mask."""
    left = torch.zeros(2, 16, 16)
    left[0, :, :8] = 1
    lq, found = picture(2, SQUARE), list[tuple[float, Tensor]]()
    noted = list[tuple[float, Tensor]]()
    nothing = guided(watched(model, noted), vae, recognizer, mask=torch.ones(1, 4, 4), **NEVER)
    patched = guided(nothing, vae, recognizer, mask=left, start_percent=0.0)
    with torch.inference_mode():
        patched = RestorationTiling.execute(patched, 64, 16).args[0]
    sampled(watched(patched, found), lq, steps=1)
    moved = (found[0][1] - noted[0][1]).abs().amax(1)
    assert moved[0, :, :4].min() > 0
    assert moved[0, :, 4:].max() == 0
    assert moved[1].max() == 0


def test_what_it_says(model: Any, vae: Any, recognizer: HostedRecognizer) -> None:
    """That it never acted, too; and of whose sampling it speaks."""
    patched = guided(model, vae, recognizer, **NEVER)
    said = list[str]()
    guide_of(patched).say = said.append
    lq = picture(1, SQUARE)
    samples = sampled(patched, lq)
    assert said == [
        "Identity guidance did not act: none of the 2 steps lies in its window. Lower start_percent or raise "
        "end_percent."
    ]
    with pytest.raises(ValueError, match="none of the 2 steps lies in its window"):
        IdentityGuidanceReport.execute(patched, {"samples": samples})
    with pytest.raises(ValueError, match="was not sampled with this MODEL"):
        IdentityGuidanceReport.execute(patched, {"samples": samples + 1})
    with pytest.raises(ValueError, match="has no identity guidance"):
        IdentityGuidanceReport.execute(model, {"samples": samples})
    with pytest.raises(ValueError, match=r"end_percent 0\.3 has to be above start_percent 0\.4"):
        guided(model, vae, recognizer, end_percent=0.3)
    with pytest.raises(ValueError, match="No face is found in a picture of 96 x 32 pixels"):
        sampled(patched, picture(1, (8, 24)))
    assert guide_of(patched)._seen is None


def test_a_sampling_that_failed_leaves_nothing(
    model: Any, vae: Any, recognizer: HostedRecognizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    patched = guided(model, vae, recognizer, start_percent=0.0)
    expected = sampled(patched, picture(1, SQUARE))
    guide, run = guide_of(patched), FaceGuide._guided

    def cancelled(self: Any, *args: Any) -> Tensor:
        run(self, *args)
        raise mm.InterruptProcessingException

    monkeypatch.setattr(FaceGuide, "_guided", cancelled)
    with pytest.raises(mm.InterruptProcessingException):
        sampled(patched, picture(1, SQUARE, 9))
    assert guide._seen is None
    monkeypatch.undo()
    assert torch.equal(sampled(patched, picture(1, SQUARE)), expected)
    assert guide.settings == IdentitySettings(0.2, t_start=1000)


def test_a_mask_of_the_latent(
    model: Any, vae: Any, recognizer: HostedRecognizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Learned ones are files of a folder; those of other latents are refused. Without a face landmarks mean
    all of it."""
    whole = guided(model, vae, recognizer, start_percent=0.0)
    lq = picture(1, SQUARE)
    expected = sampled(whole, lq)
    features = guided(model, vae, recognizer, latent_mask="landmarks", start_percent=0.0)
    assert torch.equal(sampled(features, lq), expected)
    for channels in (3, 4):
        mask = build_mask(IdentityMaskConfig(channels, SQUARE))
        with torch.no_grad():
            mask.get_parameter("logits").fill_(-1e4)
        save_mask(mask, tmp_path / f"{channels}.safetensors", {})
    found = ([str(tmp_path)], {".safetensors"})
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "identity_masks", found)
    assert mask_names() == ["none", "landmarks", "3.safetensors", "4.safetensors"]
    shut = guided(model, vae, recognizer, latent_mask="4.safetensors", start_percent=0.0)
    assert torch.equal(sampled(shut, lq), sampled(model, lq))
    with pytest.raises(ValueError, match="mask is of latents of 3 channels"):
        guided(model, vae, recognizer, latent_mask="3.safetensors")
