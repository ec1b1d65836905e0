"""The benchmark on photographs: which photos it takes, and what it says of those that it cannot take."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lab.benchmarks import photographs
from lab.benchmarks.photographs import Photographs, rows_of
from lab.evaluation import CaseSettings, draw_case, recognizer
from pfstorer_core.imaging.pictures import write_picture

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


def test_rows_compare_with_the_own_and_the_next_person(people: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def colour(faces: Tensor, places: Tensor | None = None) -> Tensor:
        return faces.mean((2, 3))

    monkeypatch.setattr(photographs, "descriptors", colour)
    monkeypatch.setattr(recognizer, "descriptors", colour)
    cases = FEW.cases(people)
    rows = rows_of({"truth": lambda case: case.hq, "input": lambda case: case.lq}, cases)
    assert [(row["method"], row["person"]) for row in rows] == [
        ("truth", 0), ("truth", 1), ("input", 0), ("input", 1),
    ]  # fmt: skip
    means = [colour(case.references).mean(0) for case in cases]
    expected = (cases[1].lq.mean((2, 3)) - means[1]).norm(dim=1).mean()
    assert rows[3]["own"] == pytest.approx(float(expected), abs=1e-6)
    expected = (cases[1].lq.mean((2, 3)) - means[0]).norm(dim=1).mean()
    assert rows[3]["other"] == pytest.approx(float(expected), abs=1e-6)
    assert rows[0]["psnr"] > 90 > rows[2]["psnr"] > 10


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dlib", None)
    recognizer._networks.cache_clear()
    with pytest.raises(ImportError, match="pip install dlib-bin"):
        recognizer.descriptors(torch.zeros(1, 3, 64, 64))
