"""The host's own nodes that take a MODEL, CLIP or VAE work on what LoadBaseRestorer gives."""

# ruff: noqa: F811 - fixtures are imported

from dataclasses import replace
from pathlib import Path
from typing import Any

import comfy.sd
import folder_paths
import pytest
import torch
from comfy_extras import nodes_model_merging as merging
from inside_model import HEADER, SIZES, path, restorer  # noqa: F401 - fixtures
from pfstorer.nodes import load as loading
from pfstorer.nodes.load import LoadBaseRestorer
from pfstorer.pfstorer_core.checkpoints.errors import CheckpointError
from pfstorer.pfstorer_core.models import TextTower, TextTowerConfig
from pfstorer.pfstorer_core.models.tokenizer import tokenize
from pfstorer.pfstorer_core.restorers.base import Restorer
from pfstorer.pfstorer_core.restorers.files import load_restorer, open_restorer, save_restorer
from safetensors.torch import load_file, save_file

import nodes as host

PROMPT = "a photo of a face"


def tower(layers: int = 2, width: int = 64) -> TextTower:
    torch.manual_seed(0)
    sizes = TextTowerConfig(width=width, heads=width // 64, layers=layers)
    made = TextTower(sizes).eval().requires_grad_(False)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, 0, 0.1)
    return made.half().float()  # the host keeps text towers in fp16


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where restorers lie, and what the host saves."""
    monkeypatch.setattr(loading, "restorer_path", lambda name: str(tmp_path / name))
    monkeypatch.setattr(
        loading, "addon_paths", lambda *names: tuple(str(tmp_path / n) for n in names if n != "none")
    )
    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: str(tmp_path))
    return tmp_path


@pytest.fixture(params=["small", "none"])
def text(request: pytest.FixtureRequest) -> TextTower | None:
    return tower(3) if request.param == "small" else None


@pytest.fixture
def loaded(restorer: Restorer, folder: Path, text: TextTower | None) -> Any:
    save_restorer(replace(restorer, text=text), folder / "base.safetensors", torch.float32)
    return LoadBaseRestorer.execute("base.safetensors").args


def saved(folder: Path, kind: str) -> list[Path]:
    return sorted(folder.rglob(f"{kind}*.safetensors"))


@pytest.mark.parametrize(("layers", "width"), [(2, 64), (3, 64), (5, 128)])
def test_a_small_text_tower_is_the_host_s_clip(
    restorer: Restorer, folder: Path, layers: int, width: int
) -> None:
    core = tower(layers, width)
    save_restorer(replace(restorer, text=core), folder / "base.safetensors", torch.float32)
    clip = LoadBaseRestorer.execute("base.safetensors").args[1]
    assert isinstance(clip, comfy.sd.CLIP)
    entry = host.CLIPTextEncode().encode(clip, PROMPT)[0][0]
    torch.testing.assert_close(entry[0], core(tokenize([PROMPT])), rtol=1e-4, atol=1e-4)
    assert torch.isfinite(entry[1]["pooled_output"]).all()
    last = host.CLIPSetLastLayer().set_last_layer(clip, -1)[0]
    torch.testing.assert_close(
        host.CLIPTextEncode().encode(last, PROMPT)[0][0][0],
        core(tokenize([PROMPT]), skip_last=0), rtol=1e-4, atol=1e-4,
    )  # fmt: skip
    weighted = host.CLIPTextEncode().encode(clip, "a photo of a (face:1.5)")[0][0][0]
    assert not torch.equal(weighted, entry[0])


def test_without_a_text_tower_prompts_are_refused_and_nothing_else(restorer: Restorer, folder: Path) -> None:
    save_restorer(restorer, folder / "base.safetensors", torch.float32)
    clip = LoadBaseRestorer.execute("base.safetensors").args[1]
    for one in (clip, clip.clone(), host.CLIPSetLastLayer().set_last_layer(clip, -2)[0]):
        with pytest.raises(ValueError, match=r"base\.safetensors has no text tower.*unconnected"):
            host.CLIPTextEncode().encode(one, PROMPT)
    assert not hasattr(clip.tokenizer, "is_dynamic")


def test_a_saved_checkpoint_loads_again(
    restorer: Restorer, folder: Path, loaded: Any, text: TextTower | None
) -> None:
    merging.CheckpointSave().save(*loaded, "checkpoint")
    (file,) = saved(folder, "checkpoint")
    again = load_restorer(file, text=text is not None)
    assert again.header == HEADER
    for ours, theirs in (
        (again.unet, restorer.unet), (again.autoencoder, restorer.autoencoder), (again.text, text)
    ):  # fmt: skip
        if ours is not None and theirs is not None:
            torch.testing.assert_close(dict(ours.state_dict()), dict(theirs.state_dict()), rtol=0, atol=0)
    model, clip, _ = LoadBaseRestorer.execute(file.name).args
    assert model.model.fingerprint == loaded[0].model.fingerprint
    if text is not None:
        twice = [host.CLIPTextEncode().encode(one, PROMPT)[0][0][0] for one in (clip, loaded[1])]
        assert torch.equal(*twice)


def test_a_saved_model_goes_on_top_of_its_restorer(restorer: Restorer, folder: Path, loaded: Any) -> None:
    changed = loaded[0].clone()
    key = "diffusion_model.input_blocks.0.0.weight"
    weight = torch.ones_like(changed.model.diffusion_model.input_blocks[0][0].weight)
    changed.add_patches({key: ("diff", (weight,))}, 0.25)
    merging.ModelSave().save(changed, "model")
    (file,) = saved(folder, "model")
    with pytest.raises(CheckpointError, match=r"model_0.* goes on top of .*was saved from"):
        open_restorer(file)
    model = LoadBaseRestorer.execute("base.safetensors", file.name).args[0]
    unet, base = model.model.diffusion_model.state_dict(), restorer.unet.state_dict()
    torch.testing.assert_close(unet[key[16:]], base[key[16:]] + 0.25)
    assert model.model.header == HEADER


def test_clip_and_vae_are_saved(
    folder: Path, loaded: Any, text: TextTower | None, caplog: pytest.LogCaptureFixture
) -> None:
    merging.CLIPSave().save(loaded[1], "clip")
    merging.VAESave().save(loaded[2], "vae")
    (vae,) = saved(folder, "vae")
    assert load_file(vae).keys() == loaded[2].first_stage_model.state_dict().keys()
    if text is None:
        assert not saved(folder, "clip")
        assert "there is nothing to save" in caplog.text
    else:
        (clip,) = saved(folder, "clip")
        assert "text_model.encoder.layers.2.mlp.fc1.weight" in load_file(clip)


def test_merging(folder: Path, loaded: Any, text: TextTower | None) -> None:
    model, clip, _ = loaded
    other = model.clone()
    assert merging.ModelMergeSimple().merge(model, other, 0.5)[0].model is model.model
    assert merging.ModelMergeBlocks().merge(model, other, input=0.1, middle=0.5, out=1.0)[0].patches
    assert merging.ModelAdd().merge(model, other)[0].patches
    assert merging.ModelSubtract().merge(model, other, 1.0)[0].patches
    for node in (merging.CLIPMergeSimple(), merging.CLIPAdd(), merging.CLIPSubtract()):
        rest = () if isinstance(node, merging.CLIPAdd) else (0.5,)
        (merged,) = node.merge(clip, clip.clone(), *rest)
        assert bool(merged.patcher.patches) == (text is not None)


def test_a_lora_of_model_and_clip(folder: Path, loaded: Any, text: TextTower | None) -> None:
    name = "input_blocks_1_1_transformer_blocks_0_attn2_to_k"
    channels, width = 2, SIZES.model_channels
    lora = {
        f"lora_unet_{name}.lora_up.weight": torch.ones(width, channels),
        f"lora_unet_{name}.lora_down.weight": torch.ones(channels, SIZES.context_dim),
        "lora_te_text_model_encoder_layers_0_mlp_fc1.lora_up.weight": torch.ones(256, channels),
        "lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": torch.ones(channels, 64),
    }
    save_file(lora, folder / "lora.safetensors")
    model, clip = comfy.sd.load_lora_for_models(loaded[0], loaded[1], lora, 1.0, 1.0)
    assert len(model.patches) == 1
    assert len(clip.patcher.patches) == (text is not None)
    if text is not None:
        prompts = [host.CLIPTextEncode().encode(one, PROMPT)[0][0][0] for one in (clip, loaded[1])]
        assert not torch.equal(*prompts)
