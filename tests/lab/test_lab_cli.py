"""The lab's command line, as a user meets it."""

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from harness import ROOT
from lab import architecture, benchmarks
from lab.cli import app
from lab.cli.benchmarking import QUALITY, SPEED


def test_what_is_wrong_is_said_in_one_line() -> None:
    command = [sys.executable, "-m", "lab", "benchmark", "none"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (result.returncode, result.stderr.count("\n")) == (1, 1)
    assert result.stderr.startswith("error: No benchmark named 'none'; choose one of memory, ")


@pytest.mark.parametrize("name", [*SPEED, *QUALITY])
def test_a_benchmark_gets_its_own_options(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    ended = subprocess.CompletedProcess[bytes]([], 3)
    monkeypatch.setattr(subprocess, "run", lambda command: seen.append(command) or ended)
    result = CliRunner().invoke(app, ["benchmark", name, "--help", "--runs", "2"])
    assert seen == [[sys.executable, "-m", f"{benchmarks.__name__}.{name}", "--help", "--runs", "2"]]
    assert result.exit_code == 3
    assert (ROOT / "lab" / "benchmarks" / f"{name}.py").is_file()


def test_the_architecture_is_drawn_from_the_imports(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["architecture", str(tmp_path / "rooms.png")])
    assert result.exit_code == 0, result.output
    assert Image.open(tmp_path / "rooms.png").width == 1200
    levels = architecture.floors(architecture.rooms()[1])
    order = [room for level in levels for room in level]
    some = ["personalization", "restorers", "training", "checkpoints"]
    assert [room for room in order if room in some] == some
    assert levels[-1] == ["diffusion", "models"]
    assert set(order) >= {"nodes", "lab", "restore"}


def test_rooms_stand_below_what_imports_them_and_arrows_are_few() -> None:
    arrows = {"a": frozenset("bc"), "b": frozenset("c"), "c": frozenset[str](), "d": frozenset("c")}
    assert architecture.floors(arrows) == [["a"], ["b", "d"], ["c"]]
    assert architecture.necessary(arrows) == {**arrows, "a": frozenset("b")}
