"""The scoreboard: cases, judges, rows, resuming, sheet and plot."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from harness import ROOT
from lab.cli import app
from lab.evaluation.cases import CaseSettings, draw_case
from lab.evaluation.faces import draw_faces
from lab.evaluation.figures import notes, tables, write_plot, write_sheet
from lab.evaluation.identity import FaceNetwork, equal_error_rate
from lab.evaluation.judge_training import FaceObjective, JudgeTraining, LandmarkObjective, train_judges
from lab.evaluation.judges import Judges, load_judges, save_judges
from lab.evaluation.landmarks import REPORTED, LandmarkNetwork, landmark_error
from lab.evaluation.methods import standard_methods
from lab.evaluation.metrics import HIGHER_IS_BETTER
from lab.evaluation.scoreboard import EvaluationSettings, Scoreboard, evaluate
from lab.evaluation.traits import trait_names
from lab.people import LANDMARKS
from pfstorer_core import load_restorer, restore
from pfstorer_core.imaging.canvas import resize
from pfstorer_core.restorers.files import save_restorer
from pfstorer_core.training.loop import LoopSettings

from ..unit.small import small_restorer

TINY = ROOT / "assets" / "pfstorer_tiny.safetensors"
CASES = CaseSettings(photos=2, size=64, damage_at=64)


@pytest.fixture(scope="module")
def judges() -> Judges:
    torch.manual_seed(0)
    traits = len(trait_names())
    figures = {"verification": 51.0, "verification_gray": 50.0, "lmse": 900.0, "people": 2, "photos": 2}
    face, detector = FaceNetwork(traits).eval(), LandmarkNetwork(len(LANDMARKS)).eval()
    return Judges(face, detector, torch.zeros(traits), torch.ones(traits), torch.ones(traits), figures, {})


class Worse(torch.nn.Module):
    """A method that counts its cases."""

    calls = 0

    def forward(self, case):
        Worse.calls += 1
        return 1 - case.lq


def test_small_pictures_are_damaged_at_a_size_that_suits_the_preset() -> None:
    heavy, light = (draw_case(CaseSettings(photos=1), 3, preset) for preset in ("heavy", "light"))
    assert torch.equal(heavy.hq, light.hq)
    assert torch.equal(heavy.landmarks, light.landmarks)
    lost = [float((case.hq - case.lq).square().mean()) for case in (heavy, light)]
    assert lost[0] > 2 * lost[1] > 2e-4, "light can be seen, and heavy is worse"


def test_cases_are_seeded_and_share_their_photos_over_presets() -> None:
    heavy, again, clean = (draw_case(CASES, 3, preset) for preset in ("heavy", "heavy", "clean"))
    assert torch.equal(heavy.lq, again.lq)
    assert torch.equal(heavy.hq, clean.hq)
    assert torch.equal(clean.lq, clean.hq)
    assert (heavy.lq - heavy.hq).abs().mean() > 0.02
    other = draw_case(replace(CASES, seed=1), 3, "clean")
    assert not torch.equal(other.traits, clean.traits)
    assert heavy.hq.shape == (2, 3, 64, 64)
    with pytest.raises(ValueError, match="clean, stablesr"):
        draw_case(CASES, 0, "none")


def test_a_photo_that_is_drawn_often_is_restored_from_other_noise_each_time() -> None:
    once, often = (draw_case(replace(CASES, draws=draws, references=1), 3, "heavy") for draws in (1, 3))
    for name in ("hq", "lq", "plain", "landmarks", "visible"):
        assert torch.equal(getattr(often, name), torch.cat([getattr(once, name)] * 3)), name
    assert torch.equal(often.references, once.references)
    base = standard_methods(load_restorer(TINY), steps=2)["base"](often)
    first, second, third = base.split(CASES.photos)
    assert min((first - second).abs().mean(), (second - third).abs().mean()) > 1e-3
    with pytest.raises(ValueError, match="draws must be 1 or more, got 0"):
        draw_case(replace(CASES, draws=0), 3, "heavy")


def test_a_cases_landmarks_are_in_its_pictures_pixels_and_references_are_other_photos() -> None:
    settings = replace(CASES, size=128, references=3)
    small, large = draw_case(CASES, 0, "clean"), draw_case(settings, 0, "clean")
    side = settings.drawn_at
    torch.testing.assert_close(2 * small.landmarks, large.landmarks)
    assert large.references.shape == (3, 3, side, side)
    assert small.references.shape[:2] == (0, 3)
    assert all(
        (resize(photo[None], (side, side))[0] - reference).abs().mean() > 0.02
        for photo in large.hq
        for reference in large.references
    )


def test_landmark_error_is_in_pixels_of_the_papers_size() -> None:
    class Known(LandmarkNetwork):
        def forward(self, images):
            return torch.full((len(images), 2, 2), 0.5)

    true = torch.tensor([[[32.0, 32.0], [33.0, 32.0]], [[32.0, 34.0], [0.0, 0.0]]])
    visible = torch.tensor([[True, True], [True, False]])
    found = landmark_error(Known(2), torch.rand(2, 3, 64, 64), true, visible)
    pixel = REPORTED / 64
    assert found.tolist() == pytest.approx([pixel**2 / 2, (2 * pixel) ** 2])


def test_gains_compare_each_person_with_themselves() -> None:
    """What people differ in is not in the interval; whom the base was not measured on does not count."""
    base, better = {0: 10.0, 1: 50.0, 2: 90.0}, {0: 12.0, 1: 53.0, 2: 94.0, 3: 0.0}
    results = [
        {"method": method, "preset": "heavy", "person": person, "id": value}
        for method, values in (("base", base), ("better", better))
        for person, value in values.items()
    ]
    board = Scoreboard({}, results, {}, {})
    (gain,) = board.gains()
    assert (gain["method"], gain["people"], gain["id"], gain["psnr"]) == ("better", 3, 3.0, None)
    assert gain["id_ci"] == pytest.approx([3 - 2.484, 3 + 2.484], abs=1e-3)  # Student's t, 2 degrees
    assert next(row for row in board.rows if row["method"] == "base")["id_ci"][0] < -40
    ((_, head, lines),) = tables(board.gains())
    assert (head, lines) == (["", "better"], [["ID↑", "3.00 ± 2.48"]])


def test_scoreboard_rows_and_json(judges: Judges, tmp_path: Path) -> None:
    path = tmp_path / "scores.json"
    methods = {"input": lambda case: case.lq, "truth": lambda case: case.hq}
    board = evaluate(methods, judges, EvaluationSettings(3, ("light",), CASES), path=path)
    found = json.loads(path.read_text())
    assert {"rows", "people", "seed", "results"} <= set(found)
    assert (found["people"], found["seed"]) == (3, 0)
    assert [(row["method"], row["preset"]) for row in found["rows"]] == [
        ("input", "light"),
        ("truth", "light"),
    ]
    for row in found["rows"]:
        assert set(row) >= {*HIGHER_IS_BETTER, *(f"{name}_ci" for name in HIGHER_IS_BETTER)}
        low, high = row["psnr_ci"]
        assert low <= row["psnr"] <= high
    by_person = [result["psnr"] for result in found["results"] if result["method"] == "input"]
    assert found["rows"][0]["psnr"] == pytest.approx(np.mean(by_person))
    truth = found["rows"][1]
    assert (truth["psnr"], truth["id"], truth["id_gray"]) == pytest.approx((100, 100, 100))
    assert set(board.needs) <= {"lpips", "musiq"}
    for name in ("lpips", "musiq"):
        assert (truth[name] is None) == (name in board.needs)
        assert name not in board.needs or any(line.startswith(name.upper()) for line in notes(board))


def test_an_interrupted_scoreboard_goes_on(judges: Judges, tmp_path: Path) -> None:
    path, settings = tmp_path / "scores.json", EvaluationSettings(3, ("light",), CASES)
    whole = evaluate({"worse": Worse()}, judges, settings)

    class Cut(Exception):
        pass

    def stop(progress) -> None:
        if progress.step == 2:
            raise Cut

    Worse.calls = 0
    with pytest.raises(Cut):
        evaluate({"worse": Worse()}, judges, settings, path=path, on_progress=stop)
    assert len(json.loads(path.read_text())["results"]) == Worse.calls == 2
    board = evaluate({"worse": Worse(), "input": lambda case: case.lq}, judges, settings, path=path)
    assert Worse.calls == 3
    resumed = next(row for row in board.rows if row["method"] == "worse")
    assert resumed == whole.rows[0]
    assert {row["people"] for row in board.rows} == {3}


def test_results_of_other_settings_are_not_mixed(judges: Judges, tmp_path: Path) -> None:
    path, methods = tmp_path / "scores.json", {"input": lambda case: case.lq}
    evaluate(methods, judges, EvaluationSettings(1, ("light",), CASES), path=path)
    other = EvaluationSettings(1, ("light",), replace(CASES, seed=5))
    with pytest.raises(ValueError, match="other settings"):
        evaluate(methods, judges, other, path=path)
    path.write_text("{}")
    with pytest.raises(ValueError, match="not a scoreboard"):
        evaluate(methods, judges, other, path=path)
    with pytest.raises(ValueError, match="'half'"):
        evaluate({"half": lambda case: case.lq[..., ::2, ::2]}, judges, other)


def test_clean_pictures_have_to_stay(judges: Judges) -> None:
    def noisy(sigma: float):
        return lambda case: (
            case.hq + sigma * torch.randn(case.hq.shape, generator=torch.Generator().manual_seed(0))
        )

    settings = EvaluationSettings(1, ("clean",), CASES)
    for sigma, kept in ((0.021, True), (0.03, False)):
        board = evaluate({"autoencoder": noisy(0.02), "base": noisy(sigma)}, judges, settings)
        assert board.keeps_clean() is kept
    assert evaluate({"base": noisy(0.02)}, judges, settings).keeps_clean() is None


def test_table_sheet_and_plot(judges: Judges, tmp_path: Path) -> None:
    methods = {"input": lambda case: case.lq, "truth": lambda case: case.hq}
    board = evaluate(methods, judges, EvaluationSettings(2, ("light",), CASES))
    ((preset, head, rows),) = tables(board.rows)
    assert (preset, head) == ("light", ["", "input", "truth"])
    assert {"PSNR↑", "LMSE↓", "ID grey↑"} <= {row[0] for row in rows}
    assert next(row for row in rows if row[0] == "PSNR↑")[2] == "100.00 ± 0.00"
    write_sheet(tmp_path / "sheet.png", methods, [draw_case(CASES, k, "light") for k in range(2)], cell=64)
    with Image.open(tmp_path / "sheet.png") as sheet:
        width, height = sheet.size
        truth = np.asarray(sheet.crop((6 + 2 * 70, 20, 6 + 2 * 70 + 64, 84)).convert("RGB"), np.float32) / 255
    assert width > 3 * 64
    assert height > 2 * 64
    true = draw_case(CASES, 0, "light").hq[0].permute(1, 2, 0).numpy()
    assert np.abs(truth - true).max() < 0.01
    write_plot(tmp_path / "plot.png", board.rows)
    with Image.open(tmp_path / "plot.png") as plot:
        assert len(plot.convert("RGB").getcolors(1 << 24) or []) > 50


def test_judges_keep_their_readings_in_the_file(judges: Judges, tmp_path: Path) -> None:
    save_judges(judges, tmp_path / "judges.safetensors")
    assert (tmp_path / "judges.safetensors").stat().st_size < 5e6
    loaded = load_judges(tmp_path / "judges.safetensors")
    case = draw_case(CASES, 0, "light")
    before, after = judges.judge(case.lq, case), loaded.judge(case.lq, case)
    for name, values in before.items():
        torch.testing.assert_close(after[name], values, rtol=0.02, atol=0.5, equal_nan=True)
    assert loaded.figures == judges.figures
    with pytest.raises(ValueError, match="holds no judges"):
        load_judges(TINY)


def test_judges_learn_and_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few steps on a few people: nothing to rely on, but the whole way from drawing to figures."""
    monkeypatch.setattr("lab.evaluation.faces.SHARD", 3)
    loop = LoopSettings(steps=2, lr=1e-3, batch=4, bf16=False, save_every=1)
    settings = JudgeTraining(people=4, photos=2, unseen=2, face_loop=loop, landmark_loop=loop)
    trained = train_judges(settings, tmp_path)
    assert set(trained.figures["readable"]) == {"colour", "geometry", "marks"}
    assert 0 <= trained.figures["verification"] <= 100
    stages = []
    again = train_judges(settings, tmp_path, lambda progress: stages.append(progress.stage))
    assert stages == []
    assert again.figures == trained.figures
    assert again.training["people"] == 4


def test_a_trained_embedder_tells_people_apart_by_unseen_photos() -> None:
    """On stand-ins for faces, a pattern each, under noise that is new in every photo."""
    torch.manual_seed(0)
    patterns = torch.nn.functional.interpolate(torch.rand(3, 3, 8, 8), 128, mode="bicubic").clamp(0, 1)
    who = torch.arange(3).repeat_interleave(2)

    def photos() -> torch.Tensor:
        return (255 * (patterns[who] + 0.1 * torch.randn(6, 3, 128, 128)).clamp(0, 1)).byte()

    objective = FaceObjective(3, JudgeTraining())
    optimizer = torch.optim.AdamW(objective.parameters(), lr=2e-3)
    traits = torch.zeros(6, len(trait_names()))
    for step in range(12):
        loss = objective({"image": photos(), "who": who, "traits": traits, "seed": [step]})
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        embedding = objective.face(photos()[..., 8:-8, 8:-8].float() / 255)[0]
    cosines = torch.nn.functional.normalize(embedding, dim=1)
    cosines = cosines @ cosines.T
    own = (who[:, None] == who[None]) & ~torch.eye(6, dtype=torch.bool)
    assert cosines[own].min() > cosines[who[:, None] != who[None]].max()
    assert equal_error_rate(torch.nn.functional.normalize(embedding, dim=1), who) == 0


def test_a_trained_detector_comes_nearer() -> None:
    torch.manual_seed(0)
    drawn = {name: torch.from_numpy(value) for name, value in draw_faces(0, 4, 0).items()}
    objective = LandmarkObjective()
    optimizer = torch.optim.AdamW(objective.parameters(), lr=2e-3)
    batch = {"image": drawn["pictures"], "landmarks": drawn["landmarks"], "visible": drawn["visible"]}

    def error() -> float:
        places = 128 * batch["landmarks"]
        images = batch["image"].float() / 255
        return landmark_error(objective.detector, images, places, batch["visible"]).mean().item()

    before = error()
    for step in range(15):
        loss = objective({**batch, "seed": [step]})
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert error() < 0.5 * before


def test_evaluate_as_a_command(judges: Judges, tmp_path: Path) -> None:
    own, scores, sheet = (tmp_path / name for name in ("judges.safetensors", "scores.json", "sheet.png"))
    save_judges(judges, own)
    words = f"evaluate --people 1 --photos 1 --preset heavy --preset clean --damage-at 128 --judges {own}"
    files = ["--json", str(scores), "--sheet", str(sheet)]
    result = CliRunner().invoke(app, [*words.split(), "--steps", "1", *files], catch_exceptions=False)
    assert result.exit_code == 0
    assert "PSNR" in result.stdout
    assert "verification 51.00 %" in result.stdout
    assert "Clean pictures are" in result.stdout
    assert sheet.is_file()
    rows = {(row["preset"], row["method"]): row for row in json.loads(scores.read_text())["rows"]}
    assert set(rows) == {(p, m) for p in ("heavy", "clean") for m in ("input", "autoencoder", "base")}
    assert rows["heavy", "autoencoder"]["psnr"] > rows["heavy", "input"]["psnr"]
    assert rows["clean", "input"]["psnr"] == 100
    small = tmp_path / "small.safetensors"
    save_restorer(small_restorer(), small)  # the embedded one has no CFW
    faithful = ["--restorer", str(small), "--size", "64", "--json", str(tmp_path / "faithful.json")]
    given = [*words.split(), "--steps", "1", *faithful]
    assert CliRunner().invoke(app, given, catch_exceptions=False).exit_code == 0
    for other in ([*words.split(), "--steps", "2", *files], [*given, "--fidelity", "1"]):
        with pytest.raises(ValueError, match="other settings"):
            CliRunner().invoke(app, other, catch_exceptions=False)


def test_the_base_is_judged_at_a_fidelity() -> None:
    restorer, case = small_restorer(), draw_case(CASES, 0, "light")
    plain, faithful = (standard_methods(restorer, 1, w)["base"](case) for w in (0.0, 1.0))
    assert not torch.equal(plain, faithful)
    expected = restore(restorer, case.lq, upscale=1, steps=1, fidelity=1.0, seed=case.seed)
    torch.testing.assert_close(faithful, expected, rtol=0, atol=0)
