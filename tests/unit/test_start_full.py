"""One step of a start for adapters at the published size: StableSR's U-Net, frozen in bf16."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from harness.stand_ins import formula
from pfstorer_core import AdapterTraining, Restorer, RestorerHeader
from pfstorer_core.models import Autoencoder, LQEncoderConfig, TextTower, TextTowerConfig, UNet, UNetConfig
from pfstorer_core.models.ops import Backend
from pfstorer_core.personalization.pfstorer.start import find_start, start_beside
from pfstorer_core.personalization.pfstorer.train_start import StartTraining, default_loop, train_start
from pfstorer_core.training.settings import LoopSettings

from .small import AUTOENCODER

SIDE = 32
"""Latent cells along a side: half of the published pictures', whose sizes change nothing but the time."""


class Prepared:
    """`Samples` of latents."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, k: int) -> dict[str, Any]:
        drawn = torch.randn(3, 8, SIDE, SIDE, generator=torch.Generator().manual_seed(k))
        return {
            "hq": drawn[0], "lq": drawn[1], "reference": drawn[2:], "seed": torch.tensor(k), "broken": [],
        }  # fmt: skip


@pytest.mark.full
def test_a_step_at_the_published_size(tmp_path: Path) -> None:
    unet = UNet(UNetConfig(lq_encoder=LQEncoderConfig()), Backend(device="meta"))
    weights = {
        name: formula(name, tuple(value.shape)).bfloat16() for name, value in unet.state_dict().items()
    }
    unet.load_state_dict(weights, assign=True)
    width = UNetConfig().context_dim
    tower = TextTower(TextTowerConfig(width=width, heads=16, layers=1)).bfloat16().eval()
    null = torch.zeros(1, 77, width, dtype=torch.bfloat16)
    restorer = Restorer(unet.eval(), Autoencoder(AUTOENCODER), null, RestorerHeader("v"), tower)
    suited = default_loop(unet.config.model_channels)
    assert (suited.lr, suited.batch) == (5e-5, 16)
    loop = LoopSettings(steps=2, lr=suited.lr, batch=1, warmup=0)
    start = train_start(restorer, Prepared(), StartTraining(loop=loop, checkpointing=True), tmp_path)
    assert sum(p.numel() for block in start.blocks.values() for p in block.parameters()) > 51e6
    assert all(block.gamma.abs().min() > 0 for block in start.blocks.values())
    start.save(start_beside(tmp_path / "stablesr.ckpt"))
    found = find_start([tmp_path / "stablesr.ckpt"], restorer.fingerprint, AdapterTraining())
    assert found.start is not None
    assert found.start.fingerprint == start.fingerprint
    assert 100e6 < start_beside(tmp_path / "stablesr.ckpt").stat().st_size < 110e6
