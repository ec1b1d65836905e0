"""One step of the published trainings of first stages, generator and discriminator, at their size."""

import json
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from harness import ROOT
from pfstorer_core.models.lpips import LPIPS
from pfstorer_core.restorers.first_stage.train import train_autoencoder
from pfstorer_core.restorers.first_stage.variants import FIRST_STAGES
from pfstorer_core.training.state import STATE

from .test_base_loss import Pieces, images

PARAMETERS = {"vq_f4": 55_322_782, "ref_ldm": 57_183_515}
DISCRIMINATOR = 2_765_633
GIGABYTES = 6
"""Of memory that a step takes at most, with both optimizers' moments, the averages and LPIPS, for one picture
of 256 pixels in fp32: 3.9 GB (vq_f4) and 3.1 GB (ref_ldm) as measured."""


def step(name: str, folder: Path) -> None:
    """Take it, in a process of its own, and print its peak memory."""
    stage = FIRST_STAGES[name]
    adversary = stage.training.adversary
    assert adversary is not None
    settings = replace(
        stage.training,
        adversary=replace(adversary, start=0),
        loop=replace(stage.training.loop, steps=1, batch=1),
    )
    samples: Any = Pieces(images(1, 256))
    model = train_autoencoder(samples, settings, folder, perceptual=LPIPS())
    count = sum(p.numel() for p in model.parameters())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    sys.stdout.write(json.dumps({"parameters": count, "peak": peak}))


@pytest.mark.full
@pytest.mark.parametrize("name", PARAMETERS)
def test_a_step_at_the_published_size(name: str, tmp_path: Path) -> None:
    command = f"from tests.unit.test_first_stage_full import *; step({name!r}, Path({str(tmp_path)!r}))"
    result = subprocess.run([sys.executable, "-c", command], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["parameters"] == PARAMETERS[name]
    assert found["peak"] < GIGABYTES * 1e9
    with safe_open(tmp_path / f"autoencoder{STATE}", "pt") as file:
        keys = file.keys()
        rival = [key for key in keys if key.startswith("trained.rival.")]
        assert sum(file.get_tensor(key).numel() for key in rival) == DISCRIMINATOR
        for whose in ("rival.discriminator.main.0.weight", "model.encoder.conv_in.weight"):
            assert file.get_tensor(f"optimizer.{whose}.exp_avg").any()
