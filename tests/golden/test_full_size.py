"""The networks at the sizes of the published checkpoints, 1e-4 relative."""

import json
from pathlib import Path

import pytest
import torch

from pfstorer_core.models import Autoencoder, AutoencoderConfig, LQEncoder, LQEncoderConfig, UNet, UNetConfig
from pfstorer_core.models.ops import Backend

from . import golden
from .formula import PREFIXES, filled

NAME = "stablesr_full_size"
META = Backend(device="meta")
MANIFESTS = Path(__file__).resolve().parents[3] / "shared" / "manifests"

pytestmark = pytest.mark.parametrize("there", [True] if golden.has(NAME) else [])


def seed() -> int:
    return int(golden.metadata(NAME)["formula_seed"])


def test_restoring_networks(there: bool):
    given = golden.tensors(NAME)
    encoder = filled(LQEncoder(LQEncoderConfig(), META), PREFIXES["lq_encoder"], seed())
    features = encoder(given["structcond.lq_latent"], given["unet.t"])
    for ours, theirs in zip(features, golden.by_level(golden.group(NAME, "structcond.out")), strict=True):
        golden.assert_near(ours, theirs)
    del encoder
    unet = filled(UNet(UNetConfig(), META), PREFIXES["unet"], seed())
    golden.assert_near(
        unet(given["unet.x"], given["unet.t"], given["unet.context"], features), given["unet.out"]
    )


def test_autoencoder(there: bool):
    given = golden.group(NAME, "cfw")
    model = filled(Autoencoder(AutoencoderConfig(cfw=True), META), PREFIXES["autoencoder"], seed())
    assert isinstance(model, Autoencoder)
    golden.assert_near(torch.cat(model.moments(given["image"]), dim=1), given["moments"])
    for key in (key for key in given if key.startswith("dec.w")):
        golden.assert_near(
            model.decode(given["z"], given["image"], float(key.removeprefix("dec.w"))), given[key]
        )


@pytest.mark.parametrize(
    ("manifest", "part"),
    [("stablesr_full", "unet"), ("stablesr_full", "lq_encoder"), ("stablesr_cfw_full", "autoencoder")]
    if MANIFESTS.is_dir()
    else [],
)
def test_keys_are_the_published_ones(there: bool, manifest: str, part: str):
    networks = {
        "unet": UNet(UNetConfig(), META),
        "lq_encoder": LQEncoder(LQEncoderConfig(), META),
        "autoencoder": Autoencoder(AutoencoderConfig(cfw=True), META),
    }
    listed = json.loads((MANIFESTS / f"{manifest}.json").read_text(encoding="utf-8"))
    prefix = PREFIXES[part]
    expected = {
        key[len(prefix) :]: tuple(entry[0]) for key, entry in listed.items() if key.startswith(prefix)
    }
    assert {key: tuple(value.shape) for key, value in networks[part].state_dict().items()} == expected
