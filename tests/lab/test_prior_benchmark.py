"""The benchmark of a CLR-Face prior: which ways it restores in, whom it asks, and what it counts."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lab.benchmarks import prior, prior_rows
from lab.benchmarks.photographs import Photographs, face_of
from lab.benchmarks.prior_people import DRAWN, People, drawn_faces
from lab.benchmarks.prior_rows import Row, Studied, matching, with_compared
from lab.evaluation.gallery import Gallery, faces_of, landmark_distances, without
from lab.evaluation.scoreboard import Scoreboard
from pfstorer_core.imaging.alignment import FFHQ
from pfstorer_core.imaging.faces import find_faces
from pfstorer_core.recognition import Recognizer
from pfstorer_core.restorers.clr_face.mask import save_mask
from pfstorer_core.restorers.clr_face.train_mask import new_mask
from pfstorer_core.restorers.diffbir.cleaner import Cleaner
from pfstorer_core.restorers.files import save_restorer

from ..unit.small import small_prior, small_restorer
from .test_guidance_benchmark import recogniser
from .test_photographs import people  # noqa: F401 - a fixture


class Colour(nn.Module):
    def forward(self, views: Tensor) -> Tensor:
        return views.mean((2, 3))


SEER = Recognizer(Colour(), name="colour")
RED, GREEN, BLUE = (0.9, 0.2, 0.2), (0.2, 0.9, 0.2), (0.2, 0.2, 0.9)


def of_colour(colour: tuple[float, float, float], count: int = 1) -> Tensor:
    return torch.tensor(colour)[None, :, None, None].expand(count, 3, 64, 64)


@pytest.fixture(scope="module")
def face() -> Tensor:
    """[1, 3, 256, 256] of a drawn person."""
    return drawn_faces(0, 1, 256, seed=0)


def test_the_nearest_of_the_gallery_is_right_or_not() -> None:
    known = {0: of_colour(RED, 2), 1: of_colour(GREEN, 2)}
    gallery = Gallery.of(SEER, known, [of_colour(BLUE)])
    assert len(gallery) == 3
    images = torch.cat([of_colour(RED), of_colour(GREEN), of_colour(BLUE), of_colour((0.9, 0.4, 0.2))])
    truth = of_colour(RED, 4)
    found = gallery.measured(images, truth, [None] * 4, person=0)
    assert found["colour right"].tolist() == [100, 0, 0, 100]
    expected = torch.cosine_similarity(2 * images[:, :, 0, 0] - 1, torch.tensor([[0.8, -0.6, -0.6]]))
    torch.testing.assert_close(found["colour person"], expected)
    torch.testing.assert_close(found["colour true"], expected)
    other = gallery.measured(images, of_colour(BLUE, 4), [None] * 4, person=1)
    assert other["colour right"].tolist() == [0, 100, 0, 0]
    assert other["colour true"][2] == pytest.approx(1)


def test_strangers_are_nobody_of_the_people() -> None:
    alike = torch.cat([of_colour(RED), of_colour((0.9, 0.3, 0.2)), of_colour((0.9, 0.2, 0.3))])
    faces = torch.cat([of_colour(BLUE), of_colour((0.9, 0.24, 0.24)), of_colour((0.9, 0.3, 0.3))])
    left = without(SEER, faces, [alike, of_colour(GREEN, 2)])
    assert left[:, :, 0, 0].tolist() == faces[[0, 2]][:, :, 0, 0].tolist(), "the nearest one alone"


def test_landmarks_are_apart_by_as_much_as_the_face_is_moved(face: Tensor) -> None:
    true = faces_of(face)
    assert true[0] is not None
    eyes = float((true[0].landmarks[0] - true[0].landmarks[1]).norm())
    moved = torch.cat([face, face.roll(12, dims=3), torch.full_like(face, 0.5)])
    same, aside, nothing = landmark_distances(moved, true * 3).tolist()
    assert same == pytest.approx(0, abs=2)
    assert aside == pytest.approx(100 * 12 / eyes, rel=0.3)
    assert nothing != nothing


def test_aligned_faces_lie_as_in_ffhq(face: Tensor) -> None:
    found = find_faces(face[0])[0].landmarks[list(FFHQ.used)]
    assert (found - torch.tensor(FFHQ.points) * 256 / FFHQ.side).abs().max() < 10
    assert face_of(torch.full((1, 3, 256, 256), 0.5), 64, aligned=True) == []


def test_people_are_restored_one_by_one_and_know_their_neighbours() -> None:
    torch.manual_seed(0)
    faces = {name: torch.rand(3, 3, 32, 32) for name in "ab"}
    two = People("drawn", DRAWN, faces, Photographs(references=1, tests=2, size=32, seed=3))
    assert two.next == {DRAWN: DRAWN + 1, DRAWN + 1: DRAWN}
    assert torch.equal(two.references[DRAWN + 1], faces["b"][:1])
    found = [*two.pictures("heavy")]
    assert [(one.group, one.name) for one in found] == [
        ("drawn, heavy", f"{name} {k}") for name in "ab" for k in range(2)
    ]
    assert len({one.case.seed for one in found}) == 4
    assert [one.case.person for one in found] == [DRAWN, DRAWN, DRAWN + 1, DRAWN + 1]
    assert not torch.equal(found[0].case.lq, next(two.pictures("light")).case.lq)


@pytest.fixture
def study() -> Studied:
    model = replace(
        small_prior(),
        cleaner=Cleaner(lambda pictures: pictures.flip(-1), 1, torch.device("cpu"), torch.float32),
    )
    photos = {n: torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(n)) for n in range(2)}
    gallery = Gallery.of(SEER, photos, [of_colour(BLUE)])
    masks: dict[str, Any] = {"none": "none", "landmarks": "landmarks"}
    others = {"rival": (small_restorer(), 2)}
    return Studied(model, others, {"colour": gallery}, masks, photos, {0: 1, 1: 0}, steps=6, guided_steps=3)


def test_each_row_restores_in_the_way_that_its_name_says(
    study: Studied, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Any, dict[str, Any]]] = []

    def restore(restorer: Any, lq: Tensor, **options: Any) -> Tensor:
        asked.append((restorer, options))
        return lq

    monkeypatch.setattr(prior_rows, "restore", restore)
    photographs = Photographs(references=2, tests=1, size=32)
    case = photographs.case(0, torch.cat([study.photos[0], study.photos[1][:1]]))
    rows = study.rows()

    def by(name: str) -> tuple[Any, dict[str, Any]]:
        rows[name].method(case)
        restorer, options = asked.pop()
        assert not asked
        assert (options["upscale"], options["seed"]) == (1, case.seed)
        return restorer, options

    assert by("prior")[0] is study.prior
    assert by("prior")[1].keys() == {"upscale", "seed", "steps"}
    assert [by(name)[1]["steps"] for name in ("prior", "1 step", "4 steps", "50 steps")] == [6, 1, 4, 50]
    starts = [by(name)[0].header for name in ("prior", "start: noise", "start: lq")]
    assert [(h.start, h.start_at, h.cleans) for h in starts] == [
        ("cleaned", 0.5, True), ("noise", 1, False), ("lq", 0.5, False),
    ]  # fmt: skip
    assert by("cfg 1.5")[1]["cfg"] == 1.5
    assert (by("rival")[0], by("rival")[1]["steps"]) == (study.others["rival"][0], 2)
    own, itself = by("colour photos landmarks")[1], by("colour irn none")[1]
    assert (own["steps"], own["face"].mask, itself["face"].mask) == (3, "landmarks", "none")
    assert own["face"].recognizer is SEER
    assert torch.equal(own["face"].person, study.galleries["colour"].people[0])
    assert itself["face"].person is None
    for person, whose in enumerate(("", "other: ")):
        for cfg, name in ((1, "references"), (1.5, "references cfg 1.5")):
            seen = by(whose + name)[1]["identities"][0].adapter
            expected = [study.prior.encode(photo[None]) for photo in study.photos[person]]
            torch.testing.assert_close(seen.latents, torch.cat(expected))
            assert seen.settings.cfg == cfg
    assert torch.equal(rows["irn"].method(case), study.prior.clean(case.lq))
    assert torch.equal(rows["input"].method(case), case.lq)


def test_what_rows_are_compared_with(study: Studied) -> None:
    rows = study.rows()
    assert {row.over for row in rows.values()} - {""} <= rows.keys()
    over = {name: row.over for name, row in rows.items()}
    assert over["colour irn landmarks"] == "colour irn none"
    assert over["colour irn none"] == "3 steps"
    assert replace(study, guided_steps=6).rows()["colour irn none"].over == "prior"
    assert (over["references"], over["start: noise"]) == ("other: references", "prior")
    assert over["references cfg 1.5"] == "other: references cfg 1.5"
    assert rows["colour photos none"].guide == "colour"
    assert [*matching(rows, ["start:*", "irn"])] == ["irn", "start: noise", "start: lq"]
    with pytest.raises(ValueError, match="No row named 'stert'; choose from input, irn"):
        matching(rows, ["stert"])
    assert [*with_compared(rows, ["colour irn landmarks"])] == [
        "input", "irn", "prior", "3 steps", "colour irn none", "colour irn landmarks",
    ]  # fmt: skip


def test_differences_are_those_of_the_same_picture_and_what_guides_stands_in_brackets() -> None:
    def result(method: str, picture: str, value: float | None) -> dict[str, Any]:
        return {"method": method, "preset": "all", "person": picture, "colour true": value, "psnr": 1.0}

    values = {"a": (0.1, 0.3), "b": (0.2, 0.5)}
    results = [result(name, str(n), v) for name, pair in values.items() for n, v in enumerate(pair)]
    board = Scoreboard({}, [*results, result("b", "2", None)], {}, {}, ["psnr", "colour true"])
    rows = {"a": Row(lambda case: case.lq, "", ""), "b": Row(lambda case: case.lq, "a", "colour")}
    [found] = prior.compared(board, rows)
    assert (found["method"], found["over"], found["people"]) == ("b", "a", 2)
    assert found["colour true"] == pytest.approx(0.15)
    assert (found["colour true_ci"][1] - found["colour true_ci"][0]) / 2 == pytest.approx(
        12.706 * 0.05, rel=1e-3
    )
    lines = prior.report(board, rows).splitlines()
    assert "| a | 1.00 ± 0.00 | 0.200 ± 1.271 |" in lines
    assert "| b | 1.00 ± 0.00 | (0.350 ± 1.906) |" in lines
    assert "| b | 0.00 ± 0.00 | (0.150 ± 0.635) |" in lines


def test_a_run_is_written_and_goes_on(
    people: Path,  # noqa: F811 - the fixture
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    save_restorer(small_prior(), tmp_path / "prior.safetensors", torch.float32)
    save_restorer(small_restorer(), tmp_path / "other.safetensors", torch.float32)
    mask = tmp_path / "prior_mine.safetensors"
    save_mask(new_mask(small_prior(), "predicted", 32), mask, {})
    seers = [recogniser(tmp_path / f"{name}.safetensors", n) for n, name in enumerate(("one", "two"))]
    report = tmp_path / "out.json"

    def run(rows: str, *more: str) -> dict[str, Any]:
        argv = ["prior", people, "--json", report, "--restorer", tmp_path / "prior.safetensors"]
        argv += ["--recognizers", ",".join(map(str, seers)), "--others", f"{tmp_path}/other.safetensors:1"]
        argv += [
            "--masks",
            f"none,{mask}",
            "--presets",
            "light",
            "--tests",
            1,
            "--references",
            2,
            "--drawn",
            0,
        ]
        argv += ["--strangers", 1, "--steps", 4, "--guided-steps", 4, "--strength", 0.3]
        monkeypatch.setattr(sys, "argv", [str(one) for one in (*argv, "--rows", rows, *more)])
        prior.main()
        return json.loads(report.read_text())

    def untimed(found: dict[str, Any]) -> list[dict[str, Any]]:
        return [{k: v for k, v in one.items() if k != "seconds"} for one in found["results"]]

    first = run("prior")
    assert [row["method"] for row in first["rows"]] == ["input", "irn", "prior"]
    restored, count = list[str](), prior.measured
    monkeypatch.setattr(
        prior, "measured", lambda images, case, **k: restored.append("") or count(images, case, **k)
    )
    both = run(
        "one photos mine,input", "--sheet", str(tmp_path / "sheet.png"), "--sheet-rows", "input,1 step"
    )
    assert len(restored) == 4, "two rows more, of two pictures"
    assert untimed(both)[: len(first["results"])] == untimed(first)
    assert len(both["commands"]) == 2
    assert both["commands"][1].startswith("python -m lab benchmark prior ")
    assert (both["about"]["people"], both["about"]["seed"]) == (["person 0", "person 1"], 0)
    columns = {"psnr", "ssim", "one true", "one person", "two right", "landmarks", "found", "seconds"}
    assert all(columns <= row.keys() and row["people"] == 2 for row in both["rows"])
    masked, guided = (
        {one["method"]: one for one in both["differences"]}[f"one photos {m}"] for m in ("mine", "none")
    )
    assert (masked["over"], guided["over"]) == ("one photos none", "prior")
    assert guided["one person"] != 0 != masked["one person"]
    assert (tmp_path / "sheet.png").is_file()
    with pytest.raises(ValueError, match="other settings"):
        run("prior", "--seed", "1")
    monkeypatch.setattr(
        sys,
        "argv",
        ["prior", "none", "--json", str(report), "--restorer", str(tmp_path / "other.safetensors")],
    )
    with pytest.raises(SystemExit, match="stablesr restorer: name a prior"):
        prior.main()
