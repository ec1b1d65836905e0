"""The command line, as a user meets it."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from harness import ROOT
from pfstorer_core.pictures import read_picture, write_picture

TINY = ROOT / "assets" / "pfstorer_tiny.safetensors"
PICTURE = ROOT / "docs" / "restore_and_upscale.png"


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pfstorer_core", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_restore(tmp_path: Path) -> None:
    write_picture(torch.rand(1, 3, 20, 30), tmp_path / "bad.png")
    result = run(
        "restore", TINY, tmp_path / "bad.png", tmp_path / "good.png", "--steps", "1", "--upscale", "2"
    )
    assert result.returncode == 0, result.stderr
    assert read_picture(tmp_path / "good.png").shape == (1, 3, 40, 60)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("none.safetensors", PICTURE, "good.png"), "none.safetensors"),
        ((TINY, "none.png", "good.png"), "none.png"),
        ((TINY, "bad.png", "good.jpg"), "good.jpg"),
        ((ROOT / "README.md", PICTURE, "good.png"), "README.md"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(arguments: tuple, named: str) -> None:
    result = run("restore", *arguments)
    assert result.returncode == 1
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert named in result.stderr
