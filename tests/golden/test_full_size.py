"""The networks at the sizes of the published checkpoints, 1e-4 relative."""

import torch

from pfstorer_core.checkpoints.parts import TEXT
from pfstorer_core.models import (
    Autoencoder,
    AutoencoderConfig,
    Conditioning,
    LQEncoder,
    LQEncoderConfig,
    TextTower,
    TextTowerConfig,
    UNet,
    UNetConfig,
)
from pfstorer_core.models.ops import Backend

from . import golden
from .formula import PREFIXES, filled

NAME = "stablesr_full_size"
META = Backend(device="meta")


def seed() -> int:
    return int(golden.metadata(NAME)["formula_seed"])


def test_restoring_networks():
    given = golden.tensors(NAME)
    encoder = filled(LQEncoder(LQEncoderConfig(), META), PREFIXES["lq_encoder"], seed())
    features = encoder(given["structcond.lq_latent"], given["unet.t"])
    for ours, theirs in zip(features, golden.by_level(golden.group(NAME, "structcond.out")), strict=True):
        golden.assert_near(ours, theirs)
    del encoder
    unet = filled(UNet(UNetConfig(), META), PREFIXES["unet"], seed())
    golden.assert_near(
        unet(given["unet.x"], given["unet.t"], given["unet.context"], Conditioning(features)),
        given["unet.out"],
    )


def test_autoencoder():
    given = golden.group(NAME, "cfw")
    model = filled(Autoencoder(AutoencoderConfig(cfw=True), META), PREFIXES["autoencoder"], seed())
    assert isinstance(model, Autoencoder)
    golden.assert_near(torch.cat(model.moments(given["image"]), dim=1), given["moments"])
    for key in (key for key in given if key.startswith("dec.w")):
        golden.assert_near(
            model.decode(given["z"], given["image"], float(key.removeprefix("dec.w"))), given[key]
        )


def test_text_tower():
    given = golden.group(NAME, "text")
    tower = filled(TextTower(TextTowerConfig(), META), TEXT.prefix, seed())
    golden.assert_near(tower(given["tokens"]), given["out"])
