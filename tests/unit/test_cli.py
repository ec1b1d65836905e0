"""The command line, as a user meets it."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from skimage import data

from harness import ROOT
from pfstorer_core import Identity, load_identity_adapter, load_restorer, restore
from pfstorer_core.checkpoints.tensors import read_checkpoint
from pfstorer_core.cli.restorer_options import needs_text
from pfstorer_core.diffusion.restoration_guidance import GuidanceSettings
from pfstorer_core.imaging.faces import find_faces
from pfstorer_core.imaging.pictures import read_picture, write_picture
from pfstorer_core.imaging.resizing import resize
from pfstorer_core.personalization.reference_attention.references import References, ReferenceSettings
from pfstorer_core.restorers.diffbir.variants import VARIANTS
from pfstorer_core.restorers.files import save_restorer

from .small import small_diffbir, small_restorer

TINY = ROOT / "assets" / "pfstorer_tiny.safetensors"
PICTURE = ROOT / "assets" / "examples" / "P007_bad.png"
NO_GRAPHS = "Without a CUDA graph: they need an NVIDIA device, and this is cpu."


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pfstorer_core", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_restore(tmp_path: Path) -> None:
    write_picture(torch.rand(1, 3, 20, 30), tmp_path / "bad.png")
    result = run(
        "restore", TINY, tmp_path / "bad.png", tmp_path / "good.png", "--steps", "1", "--upscale", "2",
        "--tile", "64", "--overlap", "16", "--tile-batch", "1", "--color-fix", "adain",
        "--dtype", "bf16", "--device", "cpu", "--graphs",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert NO_GRAPHS in result.stderr
    assert read_picture(tmp_path / "good.png").shape == (1, 3, 40, 60)


def test_restore_guided_by_words_and_towards_the_picture(tmp_path: Path) -> None:
    """As the core does it, which reads words by the text tower."""
    save_restorer(small_diffbir("v2"), tmp_path / "v2.safetensors")
    write_picture(torch.rand(1, 3, 32, 32), tmp_path / "bad.png")
    result = run(
        "restore", tmp_path / "v2.safetensors", tmp_path / "bad.png", tmp_path / "good.png", "--steps", "2",
        "--upscale", "1", "--cfg", "3", "--prompt", "a cat", "--negative-prompt", "dog",
        "--guidance", "0.05",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    model, bad = load_restorer(tmp_path / "v2.safetensors", text=True), read_picture(tmp_path / "bad.png")
    settings = {"prompt": "a cat", "negative_prompt": "dog", "cfg": 3.0}
    towards = GuidanceSettings(0.05, "latent", "mse")
    expected = restore(model, bad, upscale=1.0, steps=2, guidance=towards, **settings)
    found = read_picture(tmp_path / "good.png")
    assert (found - expected).abs().max() < 1 / 255
    for other in ({"cfg": 1.0}, {"prompt": ""}, {"negative_prompt": ""}):
        assert not torch.equal(restore(model, bad, upscale=1.0, steps=2, **{**settings, **other}), expected)
    without = restore(model, bad, upscale=1.0, steps=2, **settings)
    assert (without - expected).abs().max() > 1 / 255


def test_restore_looking_at_a_folder_of_photos(tmp_path: Path) -> None:
    restorer = small_restorer()
    save_restorer(restorer, tmp_path / "small.safetensors", torch.float32)
    bad, folder = tmp_path / "bad.png", tmp_path / "ada"
    write_picture(torch.rand(1, 3, 16, 16), bad)
    folder.mkdir()
    words = ["restore", tmp_path / "small.safetensors", bad, tmp_path / "good.png", "--steps", "2"]
    words += ["--upscale", "2", "--color-fix", "none", "--references", folder]
    empty = run(*words)
    assert empty.returncode == 1
    assert "Give 1 to 10 photos of the person (3 to 5 are best), got 0" in empty.stderr
    for number in range(2):
        write_picture(torch.rand(1, 3, 40, 48), folder / f"{number}.png")
    (folder / "notes.txt").write_text("Ada")
    result = run(*words, "--reference-strength", "0.7", "--reference-cfg", "1.5")
    assert result.returncode == 0, result.stderr
    assert "Photo 2: no face was found, so the square in its middle is taken." in result.stdout
    photos = [read_picture(folder / f"{number}.png") for number in range(2)]
    person = Identity(References.of(restorer, photos, settings=ReferenceSettings(cfg=1.5)), 0.7)
    given: dict[str, Any] = {"upscale": 2.0, "steps": 2, "color_fix": "none"}
    expected = restore(restorer, read_picture(bad), identities=[person], **given)
    found = read_picture(tmp_path / "good.png")
    assert (found - expected).abs().max() < 1 / 255
    assert (restore(restorer, read_picture(bad), **given) - expected).abs().max() > 1 / 255


@pytest.mark.parametrize(
    ("variant", "tower", "asked", "needed"),
    [
        ("v1_face", True, {}, False),
        ("v2", True, {}, True),
        ("v2", False, {}, False),
        ("v2", True, {"cfg": 1.0}, False),
        ("v2", True, {"negative_prompt": ""}, False),
        ("v2.1", True, {"cfg": 1.0}, True),
        ("v2.1", True, {"cfg": 1.0, "prompt": ""}, False),
        ("v1_face", False, {"prompt": "a cat"}, True),
        ("v1_face", True, {"negative_prompt": "dog"}, False),
        ("v1_face", True, {"negative_prompt": "dog", "cfg": 2.0}, True),
    ],
)
def test_the_text_tower_is_loaded_where_there_are_words(
    variant: str, tower: bool, asked: dict[str, Any], needed: bool
) -> None:
    file: Any = SimpleNamespace(header=VARIANTS[variant], text={"x": torch.zeros(1)} if tower else {})
    given = {"prompt": None, "negative_prompt": None, "cfg": None, **asked}
    assert needs_text(file, **given) is needed


def test_inspect_tells_what_a_file_is(tmp_path: Path) -> None:
    """Also where the name looks like markup, and on one line each, however narrow the terminal."""
    path = tmp_path / "a rather long name in [bold]brackets[red].safetensors"
    save_restorer(small_restorer(), path)
    result = run("inspect", path)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0].startswith(f"{path} (")
    assert lines[0].endswith("a full StableSR checkpoint or PFStorer restorer")
    for name in ("U-Net", "SFT layers", "LQ encoder", "autoencoder", "CFW layers", "text tower", "float16"):
        assert name in result.stdout
    assert any(line.startswith("predicts v (by header), pictures of 32 pixels, latent") for line in lines)
    assert not any(line.startswith("missing") for line in lines)
    assert f"fingerprint {load_restorer(path).fingerprint}" in result.stdout


def test_the_largest_face_is_restored_aligned_and_the_rest_only_enlarged(tmp_path: Path) -> None:
    """As the restorer's header says, without a word."""
    model = small_restorer()
    header = replace(model.header, aligned="FFHQ")
    save_restorer(replace(model, header=header), tmp_path / "small.safetensors")
    photo = torch.from_numpy(data.astronaut().copy()).movedim(-1, 0)[None, :, :260, 90:350].float() / 255
    write_picture(photo, tmp_path / "bad.png")
    for name, options in {"auto": (), "none": ("--align", "none")}.items():
        good = tmp_path / f"{name}.png"
        arguments = "restore", tmp_path / "small.safetensors", tmp_path / "bad.png", good
        result = run(*arguments, "--steps", "1", "--upscale", "2", *options)
        assert result.returncode == 0, result.stderr
    enlarged = (resize(photo, (520, 520)).clamp(0, 1) * 255).round() / 255
    changed = (read_picture(tmp_path / "auto.png") - enlarged).abs().amax(1)[0] > 1 / 510
    y, x = (round(float(v)) for v in 2 * find_faces(photo[0])[0].landmarks[2].flip(0))
    assert changed[y - 40 : y + 40, x - 40 : x + 40].float().mean() > 0.9
    assert not changed[:, :60].any()
    assert not changed[:, -60:].any()
    assert (read_picture(tmp_path / "none.png") - enlarged).abs().amax(1)[0, :, :60].max() > 0.05

    write_picture(torch.rand(1, 3, 40, 40), tmp_path / "noise.png")
    refused = run("restore", TINY, tmp_path / "noise.png", tmp_path / "x.png", "--align", "FFHQ")
    assert "No face was found in the picture" in refused.stderr


def test_inspect_for_machines() -> None:
    result = run("inspect", TINY, "--json")
    found = json.loads(result.stdout)
    assert found["path"] == str(TINY)
    assert found["bytes"] == TINY.stat().st_size
    assert found["header"]["prediction_type"] == "v"
    assert found["networks"][0]["name"] == "U-Net"
    assert found["networks"][0]["sizes"]["model_channels"] == 64


def test_convert(tmp_path: Path) -> None:
    output = tmp_path / "eps.safetensors"
    result = run("convert", output, TINY, "--dtype", "bf16", "--prediction-type", "eps")
    assert result.returncode == 0, result.stderr
    header, stored = load_restorer(TINY).header, load_restorer(output)
    assert (header.prediction_type, stored.header.prediction_type) == ("v", "eps")
    assert read_checkpoint(output)[0]["null_context"].dtype is torch.bfloat16


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("restore", "none.safetensors", PICTURE, "good.png"), "none.safetensors"),
        (("restore", TINY, "none.png", "good.png"), "none.png"),
        (("restore", TINY, "bad.png", "good.psd"), "good.psd"),
        (("restore", ROOT / "README.md", PICTURE, "good.png"), "README.md"),
        (("restore", TINY, PICTURE, "good.png", "--device", "nowhere"), "'nowhere'"),
        (("restore", TINY, PICTURE, "good.png", "--dtype", "int4"), "'int4'"),
        (("restore", TINY, PICTURE, "good.png", "--align", "ArcFace"), "choose auto or none or FFHQ"),
        (("degrade", PICTURE, "out.xyz"), "out.xyz"),
        (("degrade", PICTURE, ROOT), "has to end in"),
        (("inspect", ROOT), "is a folder"),
        (("verify", TINY, "--steps", "0"), "steps must be 1 or more"),
        (("verify", TINY, "--report", ROOT), "is a folder"),
        (("verify", "none.safetensors"), "none.safetensors"),
        (("convert", "out.ckpt", TINY), "out.ckpt"),
        (("convert", "out.safetensors", TINY, "--prediction-type", "x0"), "'x0'; choose eps or v"),
        (("convert", "out.safetensors", TINY, "--addon", TINY), "not an add-on"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(arguments: tuple, named: str) -> None:
    result = run(*arguments)
    assert result.returncode == 1
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert named in result.stderr
    assert not (ROOT / "out.safetensors").exists()


def test_verify_writes_a_report_without_names_and_its_status_is_the_verdict(tmp_path: Path) -> None:
    """Nothing but the report is in the output, to be pasted or piped."""
    result = run("verify", TINY, "--quick", "--report", tmp_path / "report.md")
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("### PFStorer verify: 5 checks passed")
    assert result.stdout == (tmp_path / "report.md").read_text(encoding="utf-8")
    assert TINY.name not in result.stdout
    assert str(ROOT) not in result.stdout
    assert "checks" in result.stderr, "progress is told elsewhere"
    result = run("verify", ROOT / "README.md", "--device", "cpu", "--dtype", "bf16", "--steps", "1")
    assert result.returncode == 1
    assert "| files of known kinds | file 1 " in result.stdout


def test_degrade_says_what_it_did_and_can_do_it_again(tmp_path: Path) -> None:
    for name, seed in {"a.png": "4", "b.png": "4", "c.png": "5"}.items():
        result = run("degrade", PICTURE, tmp_path / name, "--seed", seed)
        assert result.returncode == 0, result.stderr
        assert json.loads(result.stdout)["steps"]
    a, b, c = (read_picture(tmp_path / name) for name in ("a.png", "b.png", "c.png"))
    assert torch.equal(a, b)
    assert a.shape == c.shape == read_picture(PICTURE).shape
    assert not torch.equal(a, c)


def test_degrade_sheet(tmp_path: Path) -> None:
    write_picture(torch.rand(1, 3, 48, 40), tmp_path / "good.png")
    result = run("degrade-sheet", tmp_path / "good.png", tmp_path / "sheet.png")
    assert result.returncode == 0, result.stderr
    assert min(read_picture(tmp_path / "sheet.png").shape[-2:]) > 500


def test_learn_a_person_and_restore_them(tmp_path: Path) -> None:
    restorer, ada = tmp_path / "small.safetensors", tmp_path / "ada.safetensors"
    save_restorer(small_restorer(), restorer)
    photos = [tmp_path / f"{n}.png" for n in range(2)]
    for photo in photos:
        write_picture(torch.rand(1, 3, 40, 40), photo)
    learned = run("personalize", restorer, ada, *photos, "--steps", "2", "--batch", "1", "--graphs")
    assert learned.returncode == 0, learned.stderr
    assert NO_GRAPHS in learned.stderr
    before = ada.read_bytes()
    assert run("personalize", restorer, ada, *photos, "--steps", "2", "--batch", "1").returncode == 0
    assert [ada] == sorted(tmp_path.glob("ada*.safetensors")), "what was finished was learned again"
    assert ada.read_bytes() == before
    assert run("personalize", restorer, ada, photos[0], "--steps", "1", "--batch", "1").returncode == 0
    assert load_identity_adapter(tmp_path / "ada_2.safetensors").header.steps == 1

    inspected = run("inspect", ada)
    assert "an identity adapter" in inspected.stdout
    assert "Biometric" in inspected.stdout
    good = tmp_path / "good.png"
    restored = run("restore", restorer, photos[0], good, "--steps", "1", "--upscale", "1", "--identity", ada)
    assert restored.returncode == 0, restored.stderr
    refused = run("restore", TINY, photos[0], good, "--steps", "1", "--identity", ada)
    assert refused.returncode == 1
    assert "another base" in refused.stderr
