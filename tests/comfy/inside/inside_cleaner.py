"""Cleaners and the host's own loader of upscale models: files of ours load there, and others here."""

import json
from math import prod
from pathlib import Path
from typing import Any

import comfy.ldm.modules.attention
import comfy.ops
import folder_paths
import pytest
import torch
from comfy_extras.nodes_upscale_model import ImageUpscaleWithModel, UpscaleModelLoader
from pfstorer.nodes.host.cleaning import build_cleaner, clean
from pfstorer.pfstorer_core.checkpoints.errors import CheckpointError
from pfstorer.pfstorer_core.imaging.tile_setting import TileSize
from pfstorer.pfstorer_core.models import Backend, SwinIR, SwinIRConfig
from pfstorer.pfstorer_core.restorers.diffbir.cleaner import load_cleaner
from safetensors.torch import save_file
from torch import Tensor

MANIFESTS = Path(__file__).parents[2] / "golden" / "data" / "manifests"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    found = ([str(tmp_path)], folder_paths.supported_pt_extensions)
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "upscale_models", found)
    return tmp_path


def stand_in(name: str) -> dict[str, Tensor]:
    """Random weights of the published keys and shapes."""
    generator = torch.Generator().manual_seed(0)
    listed = json.loads((MANIFESTS / f"{name}.json").read_text())
    return {
        key: torch.randn(shape, generator=generator) / max(1, prod(shape[1:])) ** 0.5
        for key, (shape, _) in listed.items()
    }


def native(name: str) -> Any:
    return UpscaleModelLoader.execute(name).args[0]


@pytest.mark.parametrize(("scale", "odd"), [(8, (70, 90)), (4, (96, 64))])
def test_a_swinir_is_the_same_there(folder: Path, scale: int, odd: tuple[int, int]) -> None:
    torch.manual_seed(0)
    sizes = SwinIRConfig(24, (2, 3), (2, 3), 8, 2, 16, scale)
    network = SwinIR(sizes).eval().requires_grad_(False)
    save_file(network.state_dict(), folder / "cleaner.safetensors", {"training": "{}"})
    found = native("cleaner.safetensors")
    assert (found.architecture.name, found.scale, found.purpose) == ("SwinIR", 1, "Restoration")
    for size in ((128, 128), (64, 128), odd):
        picture = torch.rand(1, 3, *size)
        torch.testing.assert_close(network(picture).clamp(0, 1), found(picture), rtol=0, atol=1e-5)
    image = torch.rand(1, 128, 64, 3)
    shown = ImageUpscaleWithModel.execute(found, image).args[0]
    cleaned = load_cleaner(folder / "cleaner.safetensors").clean(image.movedim(-1, 1)).clamp(0, 1)
    torch.testing.assert_close(shown.movedim(-1, 1), cleaned, rtol=0, atol=1e-5)


def test_host_and_core_clean_alike(folder: Path) -> None:
    """A SwinIR by any way into the host, also what lies outside of [0, 1], which DiffBIR does not cut off."""
    torch.manual_seed(0)
    network = SwinIR(SwinIRConfig(24, (2, 1), (2, 3), 8, 2, 16)).eval().requires_grad_(False)
    network.conv_last.bias += 1
    save_file(network.state_dict(), folder / "cleaner.safetensors")
    picture = torch.rand(2, 3, 70, 90)
    expected = load_cleaner(folder / "cleaner.safetensors").clean(picture, 64)
    assert expected.max() > 1.1
    with torch.inference_mode():
        for found in (native("cleaner.safetensors"), build_cleaner(network.state_dict())):
            torch.testing.assert_close(clean(found, picture, TileSize(64, -1)), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["basic", "split", "sub_quad", "pytorch"])
def test_the_host_s_layers_and_attention_serve(name: str) -> None:
    """Also in a precision that is not the picture's, which the host casts to."""
    torch.manual_seed(0)
    sizes = SwinIRConfig(24, (2, 2), (2, 3), 8, 2, 16)
    own = SwinIR(sizes).eval().requires_grad_(False)
    attend = getattr(comfy.ldm.modules.attention, f"attention_{name}")
    hosted = SwinIR(sizes, Backend(comfy.ops.manual_cast, attend)).eval().requires_grad_(False)
    hosted.load_state_dict(own.state_dict())
    pictures = torch.rand(2, 3, 64, 128)
    torch.testing.assert_close(hosted(pictures), own(pictures), rtol=0, atol=1e-5)
    hosted.bfloat16()
    torch.testing.assert_close(hosted(pictures), own(pictures), rtol=0, atol=0.01)


@pytest.mark.parametrize(
    ("manifest", "scale"), [("diffbir_cleaner_bsrnet", 4), ("diffbir_cleaner_scunet", 1)]
)
def test_other_cleaners_load_here(folder: Path, manifest: str, scale: int) -> None:
    path = folder / "cleaner.pth"
    torch.save(stand_in(manifest), path)
    picture = torch.rand(1, 3, 24, 44)
    expected = native(path.name)(picture)
    assert expected.shape[-2:] == (24 * scale, 44 * scale)
    cleaned = load_cleaner(path).clean(picture)
    small = torch.nn.functional.interpolate(expected, (24, 44), mode="bicubic", antialias=True)
    torch.testing.assert_close(cleaned, small.clone(), rtol=0, atol=1e-5)
    assert not cleaned.is_inference()


def test_what_spandrel_cannot_use_is_named(folder: Path) -> None:
    torch.save({"m_head.0.weight": torch.zeros(1)}, folder / "strange.pth")
    with pytest.raises(CheckpointError, match=r"^strange\.pth is of a kind that is not known .*no cleaner"):
        load_cleaner(folder / "strange.pth")
    weights = stand_in("diffbir_cleaner_scunet")
    del weights["m_tail.0.weight"]
    torch.save(weights, folder / "half.pth")
    with pytest.raises(CheckpointError, match=r"^half\.pth is (damaged|of a kind)"):
        load_cleaner(folder / "half.pth")
