"""One step of the trainings of CLR-Face's Identity Recovery Network and of its mask at published sizes:
SwinIR and ReF-LDM's networks at 512 pixels, an IResNet-50 that tells who it is."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import nn

from harness import ROOT
from pfstorer_core import Restorer
from pfstorer_core.models import Autoencoder, SwinIRConfig, UNet
from pfstorer_core.models.iresnet import IRESNET50, IResNet
from pfstorer_core.models.ops import Backend
from pfstorer_core.recognition import Recognizer
from pfstorer_core.restorers.clr_face.train import PRIORS
from pfstorer_core.restorers.clr_face.train_mask import MaskTraining, new_mask, train_mask
from pfstorer_core.restorers.clr_face.variants import VARIANTS
from pfstorer_core.restorers.diffbir.train_cleaner import (
    IRN_IDENTITY,
    CleanerTraining,
    new_swinir,
    train_cleaner,
)
from pfstorer_core.restorers.first_stage.variants import FIRST_STAGES
from pfstorer_core.training.state import STATE

from .test_base_loss import Pieces, images

SIDE = 512


def recognizer() -> Recognizer:
    torch.manual_seed(0)
    network = IResNet(IRESNET50).eval().requires_grad_(False)
    return Recognizer(network, name="iresnet50")


def irn(samples: Any, folder: Path) -> nn.Module:
    model = new_swinir(SwinIRConfig())
    settings = CleanerTraining.suited(model.config, SIDE)
    loop = replace(settings.loop, steps=1, batch=1, bf16=False)
    settings = replace(settings, identity=IRN_IDENTITY, edges=0.1, loop=loop)
    train_cleaner(model, samples, settings, folder, recognizer=recognizer())
    return model


def mask(samples: Any, folder: Path) -> nn.Module:
    """On ReF-LDM's networks, without a cleaner: what it sees twice is the bad picture."""
    stage = FIRST_STAGES["ref_ldm"].training.config
    sizes = replace(PRIORS["ref_ldm"], in_channels=2 * stage.embed_dim, out_channels=stage.embed_dim)
    torch.manual_seed(0)
    networks = UNet(sizes, Backend()).eval(), Autoencoder(stage).eval()
    restorer = Restorer(*networks, torch.zeros(1, 1, 0), VARIANTS["refldm"])
    model, settings = new_mask(restorer, "predicted", SIDE), MaskTraining()
    loop = replace(settings.loop, steps=1, batch=1, bf16=False)
    train_mask(model, restorer, recognizer(), samples, replace(settings, loop=loop), folder)
    return model


STEPS: dict[str, tuple[Callable[[Any, Path], nn.Module], int, float]] = {
    "cleaner": (irn, 15_792_587, 6),
    "mask": (mask, 16_200, 8),
}
"""By the stage's name: the training, how many parameters it has, and gigabytes that it takes at most, for one
picture in fp32: 4.3 (cleaner) and 6.3 (mask) as measured."""


def step(name: str, folder: Path) -> None:
    """Take it, in a process of its own, and print what was trained and the peak of memory."""
    torch.set_num_threads(1)
    model = STEPS[name][0](Pieces(images(1, SIDE)), folder)
    count = sum(p.numel() for p in model.parameters())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    sys.stdout.write(json.dumps({"parameters": count, "peak": peak}))


@pytest.mark.full
@pytest.mark.parametrize("name", STEPS)
def test_a_step_at_the_published_size(name: str, tmp_path: Path) -> None:
    command = f"from tests.unit.test_clr_face_full import *; step({name!r}, Path({str(tmp_path)!r}))"
    result = subprocess.run([sys.executable, "-c", command], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    found, (_, parameters, gigabytes) = json.loads(result.stdout), STEPS[name]
    assert found["parameters"] == parameters
    assert found["peak"] < gigabytes * 1e9
    with safe_open(tmp_path / f"{name}{STATE}", "pt") as file:
        moments = [key for key in file.keys() if key.endswith(".exp_avg")]  # noqa: SIM118 - no mapping
        assert sum(file.get_tensor(key).numel() for key in moments) == parameters
        assert sum(bool(file.get_tensor(key).any()) for key in moments) > len(moments) * 0.9
