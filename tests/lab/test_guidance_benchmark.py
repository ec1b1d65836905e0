"""The benchmark of identity guidance: who guides, who judges, and what is counted."""

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lab.benchmarks import guidance
from pfstorer_core.models.iresnet import IResNet, IResNetConfig
from pfstorer_core.restorers.files import save_restorer

from ..unit.small import small_restorer
from .test_photographs import people  # noqa: F401 - a fixture


def recogniser(path: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    save_file(IResNet(IResNetConfig(4, (4, 4, 8, 8), (1, 1, 1, 1), 10)).state_dict(), path)
    return path


def test_the_guide_finds_everybody_nearer(
    people: Path,  # noqa: F811 - the fixture
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    save_restorer(small_restorer(), tmp_path / "restorer.safetensors", torch.float32)
    guide, judge = (recogniser(tmp_path / f"{n}.safetensors", k) for k, n in enumerate(("guide", "judge")))
    report = tmp_path / "report.json"
    argv = ["guidance", str(people), "--json", str(report), "--guide", str(guide), "--judge", str(judge)]
    argv += ["--restorer", str(tmp_path / "restorer.safetensors"), "--strengths", "0.3", "--tests", "1"]
    argv += ["--targets", "own,next", "--sampling-steps", "4", "--references", "2"]
    monkeypatch.setattr(sys, "argv", argv)
    guidance.main()
    unguided, own, other = json.loads(report.read_text())["rows"]
    assert (unguided["guide own rose"], unguided["cost"], unguided["pictures"]) == (0, 1, 2)
    assert own["guide own"] > unguided["guide own"]
    assert own["guide own rose"] == 2
    assert other["guide next"] > unguided["guide next"]
    assert other["guide next"] - other["guide own"] > own["guide next"] - own["guide own"]
    assert {"judge own", "judge own rose", "judge next"} <= own.keys()
