"""The autoencoder with CFW against the reference."""

from functools import cache

import pytest
import torch
from torch import Tensor

from pfstorer_core.models import Autoencoder

from . import golden
from .networks import autoencoder_config

NAME = "stablesr_cfw"
CASES = golden.cases(NAME, "image")
DECODINGS = [
    (case, float(key.removeprefix("dec.w")))
    for case in CASES
    for key in golden.group(NAME, case)
    if key.startswith("dec.w")
]


@cache
def autoencoder() -> Autoencoder:
    model = Autoencoder(autoencoder_config(golden.metadata(NAME)["config"], cfw=True))
    model.load_state_dict(golden.state_dict(NAME))
    return model.eval().requires_grad_(False)


@pytest.mark.parametrize("case", CASES)
def test_encode(case: str):
    given = golden.group(NAME, case)
    golden.assert_near(torch.cat(autoencoder().moments(given["image"]), dim=1), given["moments"])
    golden.assert_near(autoencoder().encode(given["image"]), given["mode"])


@pytest.mark.parametrize("case", CASES)
def test_encoder_features(case: str):
    given = golden.group(NAME, case)
    _, features = autoencoder().encoder(given["image"])
    expected = golden.group(NAME, f"{case}.enc_fea")
    assert len(expected) == len(features)
    for index, level in enumerate(sorted(features)):
        golden.assert_near(features[level], expected[str(index)])


@pytest.mark.parametrize(("case", "w"), DECODINGS)
def test_decode(case: str, w: float):
    given = golden.group(NAME, case)
    fused: dict[str, Tensor] = {}
    layers = autoencoder().decoder.fusion_layers()
    hooks = [
        layer.register_forward_hook(lambda _m, _i, out, name=name: fused.update({name: out}))
        for name, layer in layers.items()
    ]
    out = autoencoder().decode(given["z"], given["image"], fidelity=w)
    for hook in hooks:
        hook.remove()
    golden.assert_near(out, given[f"dec.w{w}"])
    assert bool(fused) == (w > 0), "w = 0 is the plain decoder, fusion layers and all left out"
    for name, feature in fused.items():
        if f"{name}.w{w}" in given:
            golden.assert_near(feature, given[f"{name}.w{w}"])
