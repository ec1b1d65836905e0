"""The lab's command line, as a user meets it."""

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from harness import ROOT
from lab import benchmarks
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
