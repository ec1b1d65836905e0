"""Dual-Pivot inside the host: learned in its inference mode, lazy layers or not, and applied to its MODEL."""

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import comfy.model_management as mm
import comfy.sample
import comfy.sd
import folder_paths
import pytest
import torch
from comfy_api.latest import io
from inside_dynamic import dynamic  # noqa: F401 - a fixture
from pfstorer.nodes.apply import ApplyPersonalization
from pfstorer.nodes.host import notes
from pfstorer.nodes.host.adapters import NAMED
from pfstorer.nodes.host.cleaning import build_cleaner
from pfstorer.nodes.host.conditioning import prompts_for, with_lq
from pfstorer.nodes.host.dual_pivot import dual_pivot_settings
from pfstorer.nodes.host.folders import register_model_folders
from pfstorer.nodes.host.model import CONTROL_CONTEXT
from pfstorer.nodes.host.tiles import Tiles, with_tiles
from pfstorer.nodes.load import LoadBaseRestorer
from pfstorer.nodes.train_dual_pivot import TrainDualPivot
from pfstorer.pfstorer_core.models import SwinIR, SwinIRConfig
from pfstorer.pfstorer_core.personalization.base import Adapter
from pfstorer.pfstorer_core.personalization.dual_pivot.adapter import DualPivotAdapter, load
from pfstorer.pfstorer_core.personalization.dual_pivot.settings import DualPivotTraining
from pfstorer.pfstorer_core.personalization.identity import of_one_length
from pfstorer.pfstorer_core.personalization.registry import load_identity_adapter
from pfstorer.pfstorer_core.personalization.training import train_identity_adapter
from pfstorer.pfstorer_core.personalization.weights import LowRank
from pfstorer.pfstorer_core.restorers.base import Restorer
from pfstorer.pfstorer_core.restorers.condition import Condition
from pfstorer.pfstorer_core.restorers.files import load_restorer, save_restorer
from torch import Tensor

ROOT = Path(__file__).resolve().parents[3]
# Behind the host's modules, whose names go first.
sys.path += [str(folder) for folder in (ROOT / "tests" / "unit", ROOT)]
import small  # noqa: E402

NAME = "small_diffbir.safetensors"
SMALL = {"pool": 2, "degradation": "light", "bf16": False, "class_pictures": 1, "rank": 4}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    (folder / "restorers").mkdir()
    save_restorer(small.small_diffbir(), folder / "restorers" / NAME, torch.float32)
    return folder


@pytest.fixture(autouse=True)
def folders(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """models/ with a small DiffBIR; the server is not there to be told of progress."""
    monkeypatch.setattr(folder_paths, "models_dir", str(models))
    monkeypatch.setattr(folder_paths, "input_directory", str(tmp_path))
    known: dict[str, Any] = {name: ([], set()) for name in ("checkpoints", "vae", "embeddings")}
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", known)
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    register_model_folders()
    said = SimpleNamespace(instance=SimpleNamespace(send_progress_text=lambda text, node: None))
    monkeypatch.setattr(notes, "PromptServer", said)
    return models / "identity_adapters"


@pytest.fixture(scope="module")
def restorer(models: Path) -> Restorer:
    return load_restorer(models / "restorers" / NAME, text=True)


@pytest.fixture(scope="module")
def adapter(restorer: Restorer) -> DualPivotAdapter:
    """Of all that a pivot changes, strong enough to be seen."""
    photos = [torch.rand(3, 40, 40, generator=torch.Generator().manual_seed(1))]
    settings = DualPivotTraining(steps=2, steps_text=1, prior_weight=0.0, preview_every=0, **SMALL)
    learned = train_identity_adapter(restorer, photos, settings)
    generator = torch.Generator().manual_seed(3)
    tensors = {
        key: value + 0.15 * torch.randn(value.shape, generator=generator)
        for key, value in learned.tensors().items()
    }
    return load(tensors, learned.header.to_metadata(), "perturbed")


@pytest.fixture
def loaded() -> Any:
    """MODEL, CLIP and VAE, loaded as in a queued prompt."""
    with torch.inference_mode():
        return LoadBaseRestorer.execute(NAME, dtype="fp32").args


@pytest.fixture
def model(loaded: Any) -> Any:
    return loaded[0]


def applied(model: Any, adapter: Adapter, gamma: float = 1.0, **settings: Any) -> Any:
    return ApplyPersonalization.execute(model, adapter, gamma, **settings).args[0]


def sampled(model: Any, steps: int = 2, size: int = 8, **conditions: Any) -> Tensor:
    lq = torch.randn(1, 4, size, size, generator=torch.Generator().manual_seed(5))
    prompts = [conditions.get(name) for name in ("positive", "negative")]
    noise = comfy.sample.prepare_noise(lq, 0)
    with torch.inference_mode():
        positive, negative = with_lq(prompts_for(model.model, *prompts), lq)
        return comfy.sample.sample(
            model, noise, steps, conditions.get("cfg", 1.0), "euler", "normal", positive, negative,
            torch.zeros_like(lq), seed=0, disable_pbar=True,
        )  # fmt: skip


def learned(loaded: Any, name: str, **settings: Any) -> Any:
    """By the node, which gets its inputs as the host gives them."""
    cls = TrainDualPivot.PREPARE_CLASS_CLONE({"hidden_inputs": {io.Hidden.unique_id: "1"}})
    given = {
        "model": loaded[0], "clip": loaded[1], "vae": loaded[2], "name": name, "class_word": "man",
        "text_steps": 1, "model_steps": 1, "seed": 0, "class_pictures": 1, "preview_every": 100_000,
        "lr_model": 0.01, **settings,
    }  # fmt: skip
    photo = torch.rand(1, 40, 40, 3, generator=torch.Generator().manual_seed(0))
    face = torch.zeros(1, 40, 40)
    face[:, 5:30, 5:30] = 1
    with torch.inference_mode():
        return cls.execute(
            {"photo_0": [photo]}, {"face_0": [face]}, **{key: [value] for key, value in given.items()}
        )


def conditions(model: Any, x: Tensor, hint: Tensor, context: Tensor) -> dict[str, Any]:
    conds = model.model.extra_conds(
        noise=x, device="cpu", cross_attn=context, lq_latent=hint / model.model.header.scale_factor
    )
    return {name: cond.process_cond(batch_size=len(x), area=None).cond for name, cond in conds.items()}


@pytest.mark.parametrize("own_prompt", [True, False])
def test_an_evaluation_is_the_core_s(
    restorer: Restorer, model: Any, adapter: DualPivotAdapter, own_prompt: bool
) -> None:
    """Of both networks' changes, and of the prompt, at a gamma that scales them."""
    generator = torch.Generator().manual_seed(1)
    x, hint = (torch.randn(n, 4, 8, 8, generator=generator) for n in (2, 1))
    null, t = restorer.null_context, torch.tensor([700.0, 30.0])
    typed = torch.randn(1, 2, null.shape[-1], generator=generator)
    changes = adapter.bind(restorer.unet, restorer.schedule, 0.7).prepare(0)
    with torch.inference_mode():
        own = typed if own_prompt else person_context(restorer, adapter, 0.7)
        theirs = restorer.denoise(x, t.long(), Condition(hint), own, changes)
        personal = applied(model, adapter, 0.7)
        mm.load_models_gpu([personal])
        given = conditions(personal, x, hint, (typed if own_prompt else null).expand(2, -1, -1))
        if not own_prompt:
            given[NAMED] = torch.ones(2, 1)
        assert given[CONTROL_CONTEXT].shape == (2, *null.shape[1:]), "the control network reads the empty one"
        sigma = model.model.model_sampling.sigma(t)
        scaled = x * (sigma[:, None, None, None] ** 2 + 1).sqrt()
        options = personal.model_options["transformer_options"]
        denoised = personal.model.apply_model(scaled, sigma, transformer_options=options, **given)
    eps = (scaled - denoised) / sigma[:, None, None, None]
    torch.testing.assert_close(eps, theirs, rtol=0, atol=2e-3)
    with torch.no_grad():
        base = restorer.denoise(x, t.long(), Condition(hint), own)
    assert (theirs - base).abs().max() > 0.05, "it changes nothing: the test is blind"


def person_context(restorer: Restorer, adapter: DualPivotAdapter, gamma: float) -> Tensor:
    null, own = of_one_length(restorer.null_context, adapter.context)
    return torch.lerp(null, own, gamma)


def test_gamma_0_and_bypass_are_the_base_bit_for_bit(model: Any, adapter: DualPivotAdapter) -> None:
    base = sampled(model)
    assert torch.equal(sampled(applied(model, adapter, 0.0)), base)
    assert not torch.equal(sampled(applied(model, adapter)), base)
    assert torch.equal(sampled(model), base), "something stayed behind"


def test_its_weights_are_in_the_model_once(
    model: Any, adapter: DualPivotAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the host's patches: what names the person needs them on no device."""
    expected = sampled(applied(model, adapter))
    monkeypatch.setattr(DualPivotAdapter, "to", lambda *_: pytest.fail("the adapter is moved"))
    assert torch.equal(sampled(applied(model, adapter)), expected)


def test_each_part_acts(model: Any, adapter: DualPivotAdapter) -> None:
    whole = sampled(applied(model, adapter))
    null = replace(adapter, context=model.model.null_context)
    for part in (replace(adapter, text={}), replace(adapter, model={}), null):
        assert (sampled(applied(model, part)) - whole).abs().max() > 1e-3


def test_every_input_acts_or_is_refused(model: Any, adapter: DualPivotAdapter) -> None:
    whole, base = sampled(applied(model, adapter)), sampled(model)
    for inputs in ({"start_percent": 0.5}, {"end_percent": 0.5}, {"fine": 0.0}, {"coarse": 0.0}):
        found = sampled(applied(model, adapter, **inputs))
        assert not torch.equal(found, whole), inputs
        assert not torch.equal(found, base), inputs
    assert torch.equal(sampled(applied(model, adapter, coarse=0.0, middle=0.0, fine=0.0)), base)
    with pytest.raises(ValueError, match=r"leave the mask.*RestorationCropFace.*RestorationPasteFace"):
        applied(model, adapter, mask=torch.ones(1, 8, 8))
    other = replace(adapter, header=replace(adapter.header, base="0" * 16))
    with pytest.raises(ValueError, match="another base"):
        applied(model, other)


def test_it_works_beside_others(model: Any, adapter: DualPivotAdapter) -> None:
    """Another person, who leaves the prompt to nobody, the host's LoRA loaders, and tiles."""
    null = replace(adapter, context=model.model.null_context)
    twice = applied(applied(model, adapter, 0.3), adapter, 0.3)
    torch.testing.assert_close(sampled(twice), sampled(applied(model, null, 0.6)), rtol=0, atol=1e-3)
    key = "input_blocks_3_1_transformer_blocks_0_attn1_to_q"
    lora = {
        f"lora_unet_{key}.lora_up.weight": torch.randn(64, 2), f"lora_unet_{key}.alpha": torch.tensor(2.0),
        f"lora_unet_{key}.lora_down.weight": torch.randn(2, 64),
    }  # fmt: skip
    orders = []
    for order in ((0, 1), (1, 0)):
        patched = model
        for step in order:
            if step:
                patched = applied(patched, adapter)
            else:
                patched = comfy.sd.load_lora_for_models(patched, None, lora, 1.0, 0.0)[0]
        orders.append(sampled(patched))
    torch.testing.assert_close(*orders, rtol=0, atol=1e-3)
    assert (orders[0] - sampled(applied(model, adapter))).abs().max() > 1e-3
    assert torch.isfinite(sampled(with_tiles(applied(model, adapter), Tiles(8, 4, 2)), size=16)).all()


def test_a_typed_prompt_may_name_the_person(loaded: Any, adapter: DualPivotAdapter) -> None:
    """The token means them in a prompt of one's own, too; words behind it edit the picture."""
    model, clip, _ = loaded
    prompt = adapter.header.prompt

    def typed(text: str) -> Any:
        with torch.inference_mode():
            return [[clip.encode_from_tokens(clip.tokenize(text)), {}]]

    context = typed(prompt)[0][0]
    named = replace(adapter, context=context.clone())
    called = sampled(applied(model, named), positive=typed(prompt))
    torch.testing.assert_close(called, sampled(applied(model, named)), rtol=1e-5, atol=1e-4)
    edited = sampled(applied(model, named), positive=typed(f"{prompt}, smiling"))
    assert (edited - called).abs().max() > 10 * 1e-4
    torch.testing.assert_close(context, restorer_context(adapter, model), rtol=0, atol=5e-3)


def restorer_context(adapter: DualPivotAdapter, model: Any) -> Tensor:
    """What the training took the prompt for."""
    return load_restorer(model.model.source.path, text=True).context(adapter.header.prompt)


def test_it_is_learned_in_the_host_s_inference_mode(
    loaded: Any, folders: Path, restorer: Restorer, request: pytest.FixtureRequest
) -> None:
    """And streamed (DynamicVRAM, lazy layers) it learns the same."""
    output = learned(loaded, "eve")
    found, losses = output.args[:2]
    assert isinstance(found, DualPivotAdapter)
    assert (found.header.prompt, found.header.pivots) == ("a photo of a sks man", "both")
    assert losses == {
        "loss": found.header.losses, "text_pivot": found.header.losses[:1],
        "model_pivot": found.header.losses[1:],
    }  # fmt: skip
    assert all(change.up.any() for change in found.text.values() if isinstance(change, LowRank))
    assert "no eyes and mouth were found" in output.ui.as_dict()["text"][0], "it is not aligned"
    kind = request.getfixturevalue("dynamic")
    with torch.inference_mode():
        streamed = LoadBaseRestorer.execute(NAME, dtype="fp32").args
    assert isinstance(streamed[0], kind)
    other = learned(streamed, "eve", resume="restart").args[0]
    assert other.header.losses == found.header.losses
    for key, value in found.tensors().items():
        torch.testing.assert_close(other.tensors()[key], value)


def test_a_cleaner_is_learned_with(loaded: Any, folders: Path) -> None:
    """The one that is connected, of which the training is another one."""
    torch.manual_seed(4)
    network = SwinIR(SwinIRConfig(24, (2, 1), (2, 3), 8, 2, 16))
    with torch.inference_mode():
        cleaner = build_cleaner(network.state_dict())
    plain = learned(loaded, "clean", pivots="model")
    cleaned = learned(loaded, "clean", pivots="model", cleaner=cleaner)
    assert cleaned.ui.as_dict()["text"][0].startswith("Saved as clean_2.safetensors")
    assert plain.args[0].header.losses != cleaned.args[0].header.losses
    again = learned(loaded, "clean", pivots="model", cleaner=cleaner)
    assert again.ui.as_dict()["text"][0].startswith("Learned before: found as clean_2.safetensors")
    assert load_identity_adapter(folders / "clean_2.safetensors").header == cleaned.args[0].header


def test_its_inputs_are_the_method_s_settings(loaded: Any, tmp_path: Path) -> None:
    given = {
        "text_steps": 7,
        "model_steps": 5,
        "lr": 0.0,
        "lr_model": 0.5,
        "token": "xyz",
        "preview_every": 0,
    }

    def settings(**changed: Any) -> DualPivotTraining:
        return dual_pivot_settings({**given, **changed}, loaded[0].model)

    both = settings(pivots="auto")
    assert (both.pivots, both.steps, both.steps_text) == ("both", 12, 7)
    assert (both.lr, both.lr_model, both.preview_every, both.token) == (None, 0.5, None, "xyz")
    assert [settings(pivots=name).steps for name in ("text", "model")] == [7, 5]
    assert settings(pivots="text", text_steps=9) == replace(settings(pivots="text"), steps=9)
    assert settings(pictures="faces").pictures == str(tmp_path / "faces")
    assert settings(pictures="class pictures").pictures == ""
    with pytest.raises(FileNotFoundError, match=r"No pictures at .*faces"):
        learned(loaded, "nobody", data="mixed", pictures="faces")
