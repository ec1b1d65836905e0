"""Restorers where ComfyUI streams weights (DynamicVRAM, its default on NVIDIA), as far as a CPU goes."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import comfy.lora
import comfy.memory_management
import comfy.model_patcher
import comfy.sd
import pytest
import torch
from pfstorer.nodes.host.clip import build_clip
from pfstorer.nodes.host.model import build_model, load_model
from pfstorer.nodes.host.vae import build_vae, load_vae
from pfstorer.pfstorer_core.checkpoints.errors import CheckpointError
from pfstorer.pfstorer_core.models import TextTower, TextTowerConfig
from pfstorer.pfstorer_core.restorers.files import RestorerFile, open_restorer
from pfstorer.pfstorer_core.restorers.fingerprint import fingerprint

ROOT = Path(__file__).resolve().parents[3]
# Behind the host's modules, whose names go first.
sys.path += [str(folder) for folder in (ROOT / "tests" / "comfy", ROOT / "tests" / "unit", ROOT)]
import small  # noqa: E402

TENSORS = small.published(small.small_restorer())
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "fp8": torch.float8_e4m3fn}


@pytest.fixture
def dynamic(monkeypatch: pytest.MonkeyPatch) -> type:
    monkeypatch.setattr(comfy.memory_management, "aimdo_enabled", False)
    monkeypatch.setattr(comfy.model_patcher, "CoreModelPatcher", comfy.model_patcher.ModelPatcher)
    sys.modules.pop("dynamic_vram", None)
    import dynamic_vram

    return dynamic_vram.DynamicOnCPU


def stored(folder: Path, layout: str, dtype: torch.dtype = torch.float32) -> tuple[str, tuple[str, ...]]:
    """A restorer in one of the published layouts: its checkpoint, and what goes on top of it."""
    tensors = {key: value.to(dtype) for key, value in TENSORS.items()}
    suffix = ".ckpt" if "ckpt" in layout else ".safetensors"
    header = small.HEADER if layout == "whole" else None
    whole = small.write(folder / f"whole_v_{suffix}", tensors, header)
    if "add-ons" not in layout:
        return str(whole), ()
    base = small.write(folder / f"base{suffix}", small.select(tensors, small.base_keys), None)
    own = small.write(folder / f"own_v_{suffix}", small.select(tensors, small.own), None)
    cfw = small.write(
        folder / f"cfw{suffix}", small.bare(small.select(tensors, small.is_autoencoder)) | small.LOSS, None
    )
    return str(base), (str(own), str(cfw))


def predicted(file: RestorerFile, dtype: torch.dtype | None) -> torch.Tensor:
    """By the MODEL of a file, from fixed inputs, through the host's loading."""
    context = torch.linspace(-1, 1, 2 * 64).reshape(1, 2, 64)
    model = build_model(file, dtype, context)
    latent = torch.linspace(-2, 2, 4 * 64).reshape(1, 4, 8, 8)
    comfy.model_management.load_models_gpu([model])
    with torch.inference_mode():
        return model.model.apply_model(
            latent, torch.tensor([2.0]), c_crossattn=context, lq_latent=latent.flip(-1)
        )


def decoded(file: RestorerFile) -> torch.Tensor:
    vae = build_vae(file)
    picture = torch.linspace(0, 1, 3 * 32 * 32).reshape(1, 32, 32, 3)
    with torch.inference_mode():
        latent = vae.encode(picture)
        lq = (2 * picture - 1).movedim(-1, 1).to(vae.vae_dtype)
        return vae.decode(latent, vae_options={"lq": lq, "fidelity": 0.5})


@pytest.mark.parametrize("layout", ["whole", "ckpt", "add-ons", "add-ons ckpt"])
def test_every_layout_loads_and_gives_the_same(layout: str, tmp_path: Path, request: Any) -> None:
    path, addons = stored(tmp_path, layout)
    file = open_restorer(path, addons)
    outputs = [predicted(file, torch.float32), decoded(file)]
    kind = request.getfixturevalue("dynamic")
    assert build_model(file, None).__class__ is build_vae(file).patcher.__class__ is kind
    for static, streamed in zip(outputs, [predicted(file, torch.float32), decoded(file)], strict=True):
        torch.testing.assert_close(streamed, static, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("of_file", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("dtype", ["fp32", "bf16", None])
def test_every_number_format_loads_and_gives_the_same(
    of_file: str, dtype: str | None, tmp_path: Path, request: Any
) -> None:
    path, _ = stored(tmp_path, "whole", DTYPES[of_file])
    file = open_restorer(path)
    chosen = DTYPES[dtype] if dtype else None
    static = predicted(file, chosen)
    request.getfixturevalue("dynamic")
    streamed = predicted(file, chosen)
    tolerance = 1e-5 if dtype == "fp32" else 0.05
    torch.testing.assert_close(streamed, static, rtol=tolerance, atol=tolerance)


def test_the_file_s_own_tensors_are_kept(dynamic: type, tmp_path: Path) -> None:
    """Nothing is copied or converted before it is needed: what the host streams is the mapped file."""
    file = open_restorer(stored(tmp_path, "whole", torch.float16)[0])
    model = build_model(file, torch.bfloat16)
    ours = model.model.diffusion_model.state_dict()
    assert {ours[key].data_ptr() - value.data_ptr() for key, value in file.unet.items()} == {0}
    vae = build_vae(file)
    ours = vae.first_stage_model.state_dict()
    assert {ours[key].data_ptr() - value.data_ptr() for key, value in file.autoencoder.items()} == {0}


def test_what_does_not_fit_is_refused_in_words(dynamic: type, tmp_path: Path) -> None:
    file = open_restorer(stored(tmp_path, "whole")[0])
    linear = next(key for key in file.unet if key.endswith("attn2.to_k.weight"))
    cut = {key: value for key, value in file.unet.items() if key != linear}
    for strange, said in (
        (cut, f"1 missing: {linear}"),
        ({**file.unet, "more.weight": torch.zeros(1)}, "1 unexpected: more.weight"),
        ({**file.unet, linear: torch.zeros(3, 3)}, "1 of another shape"),
    ):
        with pytest.raises(CheckpointError, match=said):
            build_model(replace(file, unet=strange), None)


def test_it_is_loaded_again(dynamic: type, tmp_path: Path) -> None:
    """As the host does for a training (static, with weights of its own) and for another device."""
    path, _ = stored(tmp_path, "whole", torch.float16)
    context = torch.zeros(1, 2, 64)
    model = build_model(open_restorer(path), torch.bfloat16, context)
    model.cached_patcher_init = (load_model, (path, (), None, None, torch.bfloat16, context))
    deep = model.clone(force_deepcopy=True)
    static = model.clone(disable_dynamic=True)
    assert not static.is_dynamic()
    for copy in (deep, static):
        assert copy.model is not model.model
        weights = copy.model.diffusion_model.state_dict()
        assert {value.dtype for value in weights.values()} == {torch.bfloat16}
    vae = build_vae(open_restorer(path))
    vae.patcher.cached_patcher_init = (load_vae, (path, (), None, None))
    static = vae.patcher.clone(disable_dynamic=True)
    assert not static.is_dynamic()
    assert {value.dtype for value in static.model.state_dict().values()} == {vae.vae_dtype}


def test_lora_keys_fingerprints_and_saved_keys_are_the_same(dynamic: type, tmp_path: Path) -> None:
    file = open_restorer(stored(tmp_path, "whole", torch.float16)[0])
    model = build_model(file, None)
    key = "input_blocks.3.1.transformer_blocks.0.attn2.to_k"
    names = comfy.lora.model_lora_keys_unet(model.model, {})
    assert names[f"lora_unet_{key.replace('.', '_')}"] == f"diffusion_model.{key}.weight"
    assert model.model.fingerprint == fingerprint(model.model.diffusion_model.state_dict())
    saved = model.model.state_dict_for_saving(model.model.diffusion_model.state_dict())
    assert {key for key in TENSORS if key.startswith(("model.", "structcond"))} <= set(saved)


def test_the_host_s_text_tower(tmp_path: Path, request: Any) -> None:
    """SD 2.x's, at its full width, as in the published files."""
    tower = TextTower(TextTowerConfig()).half()
    for value in tower.state_dict().values():
        if value.ndim > 1:  # one random row for all is enough, and drawn at once
            value.copy_(0.02 * torch.randn(value.shape[-1]).expand_as(value))
    path, _ = stored(tmp_path, "whole")
    file = replace(open_restorer(path), text=dict(tower.state_dict()))
    del tower

    def context() -> torch.Tensor:
        clip = build_clip(file, "full")
        assert isinstance(clip, comfy.sd.CLIP)
        return clip.encode_from_tokens(clip.tokenize("a face"))

    static = context()
    request.getfixturevalue("dynamic")
    torch.testing.assert_close(context(), static, rtol=1e-3, atol=1e-3)
