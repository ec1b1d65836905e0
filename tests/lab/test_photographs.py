"""The benchmark on photographs: which photos it takes, and what it says of those that it cannot take."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from lab.benchmarks import likeness, photographs
from lab.benchmarks.frontier import curves
from lab.benchmarks.likeness import compared_with, measured, tables
from lab.benchmarks.photographs import Photographs, adapter_files
from lab.evaluation import CaseSettings, draw_case, recognizer
from lab.evaluation.scoreboard import Scoreboard
from pfstorer_core.imaging.pictures import write_picture
from pfstorer_core.personalization.pfstorer.settings import AdapterTraining
from pfstorer_core.personalization.training import train_identity_adapter
from pfstorer_core.restorers.files import save_restorer

from ..unit.small import small_restorer

FEW = Photographs(references=1, tests=2, size=64)


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two, with three photos each, and a picture without a face before them."""
    folder = tmp_path_factory.mktemp("people")
    for number in range(2):
        (folder / f"person {number}").mkdir()
        faces = draw_case(CaseSettings(photos=3, size=256, damage_at=256, seed=100), number, "clean").hq
        for k, face in enumerate([torch.full_like(faces[0], 0.5), *faces]):
            write_picture(face[None], folder / f"person {number}" / f"{k}.png")
    return folder


def test_the_first_photos_are_learned_from_and_the_next_restored(people: Path) -> None:
    cases = FEW.cases(people)
    assert [case.person for case in cases] == [0, 1]
    for case in cases:
        assert (case.references.shape[0], case.hq.shape) == (1, (2, 3, 64, 64))
        pictures = torch.cat([case.references, case.hq])
        assert pictures.std((1, 2, 3)).min() > 0.05, "the grey one is left out"
        assert len({round(float(one.mean()), 5) for one in pictures}) == 3
        assert (case.lq - case.hq).abs().mean() > 0.02
    again = FEW.cases(people)
    assert all(torch.equal(a.lq, b.lq) for a, b in zip(cases, again, strict=True))
    assert not torch.equal(cases[0].lq, Photographs(1, 2, 64, seed=1).cases(people)[0].lq)


def test_too_few_are_told(people: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="two folders or more"):
        FEW.cases(tmp_path)
    with pytest.raises(ValueError, match="person 0 has 3 photos with a face, and 9 are needed"):
        Photographs(references=1, tests=8, size=64).cases(people)


@pytest.fixture
def colours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who it is, by the mean colour."""

    def colour(faces: Tensor, places: Tensor | None = None) -> Tensor:
        return faces.mean((2, 3))

    monkeypatch.setattr(likeness, "descriptors", colour)
    monkeypatch.setattr(recognizer, "descriptors", colour)


@pytest.mark.usefixtures("colours")
def test_rows_compare_with_the_own_and_the_next_person(people: Path) -> None:
    cases = FEW.cases(people)
    rows = [*measured({"truth": lambda case: case.hq, "input": lambda case: case.lq}, cases, [])]
    assert [(row["method"], row["person"]) for row in rows] == [
        ("truth", 0), ("truth", 1), ("input", 0), ("input", 1),
    ]  # fmt: skip
    means = [case.references.mean((2, 3)).mean(0) for case in cases]
    expected = (cases[1].lq.mean((2, 3)) - means[1]).norm(dim=1).mean()
    assert rows[3]["own"] == pytest.approx(float(expected), abs=1e-6)
    expected = (cases[1].lq.mean((2, 3)) - means[0]).norm(dim=1).mean()
    assert rows[3]["other"] == pytest.approx(float(expected), abs=1e-6)
    assert rows[0]["psnr"] > 90 > rows[2]["psnr"] > 10
    again = [*measured({"truth": lambda case: case.hq}, cases, rows[1:])]
    assert again == rows[:1], "what is known is not measured again"


@pytest.mark.usefixtures("colours")
def test_adapters_in_folders_under_several_degrees_of_damage(
    people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    restorer = small_restorer()
    save_restorer(restorer, tmp_path / "restorer.safetensors")
    settings = AdapterTraining(steps=2, batch=1, gamma_lr=1.0, bf16=False, preview_every=0)
    (tmp_path / "mine").mkdir()
    for number, case in enumerate(FEW.cases(people)):
        adapter = train_identity_adapter(restorer, list(case.references), settings)
        adapter.save(tmp_path / "mine" / f"person {number}.safetensors")
    report, sheet, plot = (tmp_path / name for name in ("report.json", "sheet.jpg", "plot.png"))
    argv = ["photographs", people, "--json", report, "--restorer", tmp_path / "restorer.safetensors"]
    argv += ["--references", 1, "--tests", 1, "--size", 64, "--sampling-steps", 1]
    argv += ["--adapters", f"mine={tmp_path / 'mine'}", "--preset", "light", "heavy"]
    rows = "base,mine@0,mine,other:mine"

    def run(*more: object) -> list[dict[str, Any]]:
        monkeypatch.setattr(sys, "argv", [str(one) for one in (*argv, *more)])
        photographs.main()
        return json.loads(report.read_text())["results"]

    results = run("--methods", rows, "--sheet", sheet, "--person", "person 1", "--frontier", plot)
    assert len(results) == 2 * 2 * 4
    found = {(one["method"], one["preset"], one["person"]): one for one in results}
    for preset in ("light", "heavy"):
        for person in range(2):
            base, nothing, own, other = (found[name, preset, person]["psnr"] for name in rows.split(","))
            assert nothing == base
            assert len({base, own, other}) == 3
    assert found["base", "light", 0]["psnr"] != found["base", "heavy", 0]["psnr"]
    assert "| mine@0 |" in capsys.readouterr().out
    with Image.open(sheet) as picture:
        assert (picture.format, picture.size) == ("JPEG", (5 * 198 + 6, 2 * 198 + 26))
    with Image.open(plot) as picture:
        assert picture.format == "PNG"
    first = results[:1]
    kept = json.loads(report.read_text())
    kept["results"] = first
    report.write_text(json.dumps(kept))
    assert run("--methods", "base")[:1] == first
    with pytest.raises(SystemExit, match="person 0, person 1"):
        run("--sheet", sheet, "--person", "nobody")
    with pytest.raises(ValueError, match=r"there is no .*person 2"):
        adapter_files([str(tmp_path / "mine")], ["person 0", "person 2"])


def test_a_method_is_compared_at_its_strength_and_drawn_over_them() -> None:
    own = {"base": 0.6, "lora": 0.4, "lora@0.5": 0.5, "vico": 0.3, "vico@0.5": 0.6, "other:vico": 0.7}
    assert compared_with([*own], "lora")["vico@0.5"] == "lora@0.5"
    assert compared_with([*own], "base")["vico@0.5"] == "base"
    results = [
        {"method": name, "preset": "heavy", "person": n, "psnr": 20.0 + n, "own": value + n, "other": 1.0}
        for name, value in own.items()
        for n in range(2)
    ]
    board = Scoreboard({}, results, {}, {}, likeness.METRICS)
    lines = tables(board, "lora").splitlines()
    [line] = [line for line in lines if line.startswith("| vico@0.5 ")]
    assert line == "| vico@0.5 | 20.50 | 1.100 | 1.000 | +0.00 ± 0.00 | +0.100 ± 0.000 | +0.100, +0.100 |"
    drawn = curves(board.rows, "", 1.0, "own")
    assert list(drawn) == ["lora", "vico"]
    assert [strength for strength, _, _ in drawn["vico"]] == [0.5, 1.0]
    assert list(curves(board.rows, "other:", 1.0, "own")) == ["vico"]


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dlib", None)
    recognizer._networks.cache_clear()
    with pytest.raises(ImportError, match="pip install dlib-bin"):
        recognizer.descriptors(torch.zeros(1, 3, 64, 64))
