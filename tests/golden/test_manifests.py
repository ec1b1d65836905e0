"""Keys and shapes of the networks against those of the published checkpoints."""

import pytest
from torch import nn

from harness import stand_ins
from pfstorer_core.checkpoints.sizes import autoencoder_config, lq_encoder_config, unet_config
from pfstorer_core.models import Autoencoder, AutoencoderConfig, LQEncoder, LQEncoderConfig, UNet, UNetConfig
from pfstorer_core.models.ops import Backend

from .formula import PREFIXES

META = Backend(device="meta")
NETWORKS = {
    "unet": ("stablesr_full", lambda: UNet(UNetConfig(), META), unet_config),
    "lq_encoder": ("stablesr_full", lambda: LQEncoder(LQEncoderConfig(), META), lq_encoder_config),
    "autoencoder": (
        "stablesr_cfw_full",
        lambda: Autoencoder(AutoencoderConfig(cfw=True), META),
        autoencoder_config,
    ),
}


@pytest.fixture(params=NETWORKS)
def part(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def network(part: str) -> nn.Module:
    return NETWORKS[part][1]()


def test_keys_and_shapes_are_the_published_ones(part: str, network: nn.Module):
    manifest, prefix = NETWORKS[part][0], PREFIXES[part]
    listed = stand_ins.manifest(manifest)
    expected = {key[len(prefix) :]: shape for key, shape in listed.items() if key.startswith(prefix)}
    assert {key: tuple(value.shape) for key, value in network.state_dict().items()} == expected


def test_sizes_are_told_from_the_tensors(part: str, network: nn.Module):
    assert NETWORKS[part][2](network.state_dict()) == network.config
