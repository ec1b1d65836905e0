"""LoRA files on our MODEL: the host's loader and ours know the same names and make the same weights."""

# ruff: noqa: F811 - fixtures are imported

from collections.abc import Iterator
from typing import Any

import comfy.lora
import comfy.sd
import pytest
import torch
from inside_model import model, path, restorer  # noqa: F401 - fixtures
from pfstorer.pfstorer_core.personalization.lora.adapter import load
from pfstorer.pfstorer_core.personalization.lora.files import read_layers
from pfstorer.pfstorer_core.personalization.lora.layers import known_names
from pfstorer.pfstorer_core.personalization.weights import changeable
from pfstorer.pfstorer_core.restorers.base import Restorer
from torch import Tensor

PREFIX = "diffusion_model."
RANK = 2


def host_names(model: Any) -> Iterator[tuple[str, str]]:
    """What the host calls the layers that a LoRA can change, and our names of them."""
    known = changeable(model.model.diffusion_model)
    for name, key in comfy.lora.model_lora_keys_unet(model.model, {}).items():
        layer = key.removeprefix(PREFIX).removesuffix(".weight")
        if layer in known and not name.endswith((".bias", ".weight")):
            yield name, layer


def halves(name: str, weight: Tensor, suffixes: tuple[str, str]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(len(name))
    up = torch.randn(len(weight), RANK, *[1] * (weight.ndim - 2), generator=generator)
    down = torch.randn(RANK, *weight.shape[1:], generator=generator)
    return {name + suffixes[0]: up, name + suffixes[1]: down}


def test_each_name_of_the_host_is_known(model: Any) -> None:
    unet, asked = model.model.diffusion_model, 0
    names, weights = known_names(unet), changeable(unet)
    for name, layer in host_names(model):
        (found,) = read_layers(halves(name, weights[layer], (".lora_up.weight", ".lora_down.weight")), "x")[0]
        assert names[found] == layer, name
        asked += 1
    assert asked > 4 * len(weights)


@pytest.mark.parametrize(
    ("start", "suffixes"),
    [
        ("lora_unet_", (".lora_up.weight", ".lora_down.weight")),
        ("diffusion_model.", (".lora_up.weight", ".lora_down.weight")),
        ("unet.", ("_lora.up.weight", "_lora.down.weight")),
        ("unet.", (".lora_B.weight", ".lora_A.weight")),
        ("unet.", (".lora.up.weight", ".lora.down.weight")),
        ("", (".lora_linear_layer.up.weight", ".lora_linear_layer.down.weight")),
    ],
)
def test_it_makes_the_weights_that_the_host_s_loader_makes(
    model: Any,
    restorer: Restorer,
    start: str,
    suffixes: tuple[str, str],
) -> None:
    weights, tensors, layers = changeable(restorer.unet), dict[str, Tensor](), set[str]()
    for name, layer in host_names(model):
        plain = not name.startswith(("lora_", "lycoris_", "unet.", "diffusion_model."))
        if (name.startswith(start) if start else plain) and layer not in layers:
            layers.add(layer)
            tensors |= halves(name, weights[layer], suffixes)
            if start == "lora_unet_":
                tensors[f"{name}.alpha"] = torch.tensor(0.5)
    assert len(layers) > 40
    patched, _ = comfy.sd.load_lora_for_models(model, None, dict(tensors), 0.7, 0.0)
    adapter = load(tensors, {}, "x.safetensors")
    adapter.check_fit(model.model.diffusion_model, 64)
    changes = adapter.bind(restorer.unet, restorer.schedule, 0.7).prepare(0).weights
    assert {f"{PREFIX}{name}" for name in changes} == set(patched.patches)
    for name, (change,) in changes.items():
        weight = restorer.unet.get_parameter(name).detach()
        theirs = comfy.lora.calculate_weight(patched.patches[PREFIX + name], weight.clone(), PREFIX + name)
        torch.testing.assert_close(weight + change.delta(weight), theirs, rtol=1e-5, atol=1e-5)
