"""A LoRA as a person, through the nodes: learned, applied, and told from what is no adapter."""

from pathlib import Path
from typing import Any

import comfy.sd
import comfy.utils
import folder_paths
import pytest
import torch
from inside_identity import sampled
from inside_model import host_unet, model, path, restorer  # noqa: F401 - fixtures
from pfstorer.nodes.apply import ApplyPersonalization
from pfstorer.nodes.host import listing
from pfstorer.nodes.host.training import settings, trained_methods
from pfstorer.pfstorer_core.personalization.lora.layers import flat
from pfstorer.pfstorer_core.personalization.lora.train import LoRATraining
from pfstorer.pfstorer_core.personalization.registry import load_identity_adapter
from pfstorer.pfstorer_core.personalization.weights import LowRank, changeable
from safetensors.torch import save_file


@pytest.fixture(scope="module")
def lora(restorer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    """In kohya's layout, as other programs write it."""
    generator, tensors = torch.Generator().manual_seed(0), {}
    for layer, weight in changeable(restorer.unet).items():
        if ".attn" in layer:
            name = f"lora_unet_{flat(layer)}" if not flat(layer).startswith("lora_unet") else flat(layer)
            tensors[f"{name}.lora_up.weight"] = 0.3 * torch.randn(len(weight), 2, generator=generator)
            tensors[f"{name}.lora_down.weight"] = torch.randn(2, weight.shape[1], generator=generator)
            tensors[f"{name}.alpha"] = torch.tensor(2.0)
    file = tmp_path_factory.mktemp("lora") / "elsewhere.safetensors"
    save_file(tensors, file)
    return file


def applied(model: Any, file: Path, **inputs: Any) -> Any:  # noqa: F811
    adapter = load_identity_adapter(file)
    return ApplyPersonalization.execute(model, adapter, **{"gamma": 1.0, **inputs}).result[0]


def test_it_is_the_host_s_own_lora(model: Any, lora: Path) -> None:  # noqa: F811
    tensors = comfy.utils.load_torch_file(str(lora))
    expected = sampled(comfy.sd.load_lora_for_models(model, None, tensors, 0.7, 0.0)[0])
    assert torch.equal(sampled(applied(model, lora, gamma=0.7)), expected)
    base = sampled(model)
    assert (expected - base).abs().max() > 1e-3, "it changes nothing: the test is blind"
    assert torch.equal(sampled(applied(model, lora, gamma=0.0)), base)


def test_every_input_acts_or_is_refused(model: Any, lora: Path) -> None:  # noqa: F811
    whole, base = sampled(applied(model, lora)), sampled(model)
    for inputs in ({"start_percent": 0.5}, {"end_percent": 0.5}, {"fine": 0.0}, {"middle": 0.0}):
        found = sampled(applied(model, lora, **inputs))
        assert not torch.equal(found, whole), inputs
        assert not torch.equal(found, base), inputs
    none = applied(model, lora, coarse=0.0, middle=0.0, fine=0.0)
    assert torch.equal(sampled(none), base)
    with pytest.raises(ValueError, match="leave the mask unconnected"):
        applied(model, lora, mask=torch.ones(1, 8, 8))


def test_dropdowns_offer_loras(lora: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (lora.parent / "weights.safetensors").write_bytes(lora.read_bytes()[:40])
    save_file({"a.weight": torch.zeros(1)}, lora.parent / "other.safetensors")
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "people", ([str(lora.parent)], {".safetensors"}))
    assert listing.adapters("people") == ["elsewhere.safetensors"]


def test_the_node_s_settings_are_the_method_s() -> None:
    assert trained_methods() == ["pfstorer", "lora"], "Dual-Pivot has a node of its own"
    given = {"method": "lora", "rank": 3, "lr": 0.0, "steps": 7, "sites": "", "null_lq": "drop"}
    found = settings(given)
    assert isinstance(found, LoRATraining)
    assert (found.rank, found.lr, found.steps) == (3, None, 7)


def test_low_ranks_are_the_core_s() -> None:
    low = LowRank(torch.ones(2, 1), torch.ones(1, 3), 0.5)
    assert torch.equal(low.delta(torch.zeros(2, 3)), torch.full((2, 3), 0.5))
