"""The rows of the benchmark of personalization, those of Dual-Pivot Tuning above all."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lab.benchmarks.learned import Learned, method_named, methods_of
from lab.evaluation import CaseSettings, draw_case
from pfstorer_core.personalization.dual_pivot.settings import DualPivotTraining
from pfstorer_core.personalization.pfstorer.settings import AdapterTraining
from pfstorer_core.personalization.pfstorer.train_start import StartLoss, StartTraining
from pfstorer_core.personalization.registry import load_identity_adapter

from ..unit.small import small_diffbir, small_restorer

CASES = CaseSettings(photos=1, references=2, size=32, damage_at=32)
PIVOTS = DualPivotTraining(steps=3, class_pictures=1, rank=1, preview_every=0)


def test_dual_pivot_is_learned_on_the_restorer_under_its_control_network(tmp_path: Path) -> None:
    diffbir = small_diffbir()
    learned = Learned(small_restorer(), CASES, AdapterTraining(steps=1), tmp_path, 1, diffbir, PIVOTS)
    case = draw_case(CASES, 0, "heavy")
    none, own = (method_named(learned, name, 1.0)(case) for name in ("diffbir", "dual_pivot"))
    assert own.shape == case.hq.shape
    assert not torch.equal(own, none)
    assert torch.equal(method_named(learned, "dual_pivot@0", 1.0)(case), none)
    [file] = tmp_path.glob("*.safetensors")
    load_identity_adapter(file).check_base(diffbir.fingerprint)


def test_each_pivot_alone_takes_its_share_of_the_steps(tmp_path: Path) -> None:
    learned = Learned(small_restorer(), CASES, AdapterTraining(steps=1), tmp_path, 1, small_diffbir(), PIVOTS)
    rows = methods_of(learned, 1.0)
    case = draw_case(CASES, 0, "heavy")
    for name, steps in (("text_pivot", 2), ("model_pivot", 1)):
        rows[name](case)
        training = load_identity_adapter(tmp_path / f"{name}-0.safetensors").header.training
        assert (training["pivots"], training["steps"]) == (name.removesuffix("_pivot"), steps)


def test_without_a_control_network_there_are_no_such_rows(tmp_path: Path) -> None:
    learned = Learned(small_restorer(), CASES, AdapterTraining(), tmp_path, 1)
    with pytest.raises(ValueError, match="no method 'dual_pivot'"):
        method_named(learned, "dual_pivot", 1.0)
    with pytest.raises(ValueError, match="--control"):
        learned.base_of("dual_pivot")


def test_rows_that_begin_with_a_start(tmp_path: Path) -> None:
    restorer = small_restorer()
    start = StartLoss(restorer, StartTraining()).start(1, 2)
    for block in start.blocks.values():
        block.gamma.fill_(0.3)
    learned = Learned(restorer, CASES, AdapterTraining(steps=1, preview_every=0), tmp_path, 1, start=start)
    case = draw_case(CASES, 0, "heavy")
    own = ("start", "start_wrong_refs", "start_no_refs", "pfstorer_start", "other:pfstorer_start", "base")
    rows = {name: methods_of(learned, 1.0)[name](case) for name in own}
    assert len({float(rows[name].double().sum()) for name in own}) == len(own)
    begun = {path.name: load_identity_adapter(path).header for path in tmp_path.glob("*.safetensors")}
    assert [begun[f"{name}-0.safetensors"].steps for name in ("start", "pfstorer_start")] == [0, 1]
    assert all(header.details()[-1].endswith(start.fingerprint) for header in begun.values())
    plain = Learned(restorer, CASES, AdapterTraining(steps=1), tmp_path, 1)
    with pytest.raises(ValueError, match="no method 'start'"):
        method_named(plain, "start", 1.0)
