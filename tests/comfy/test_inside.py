"""Runs the tests in inside/ where the host is importable: there, `nodes` is the host's module."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness import HOST
from harness.environment import site_environment

INSIDE = Path(__file__).parent / "inside"


@pytest.mark.parametrize("module", [path.name for path in sorted(INSIDE.glob("inside_*.py"))])
def test_inside_the_host(module: str, tmp_path: Path) -> None:
    environment = {
        **os.environ,
        **site_environment(HOST),
        "PFSTORER_BASE": str(tmp_path),
    }
    if "PFSTORER_GOLDEN" in os.environ:
        environment["PFSTORER_GOLDEN"] = os.path.abspath(os.environ["PFSTORER_GOLDEN"])
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull]
    result = subprocess.run(
        [*command, "--rootdir", str(INSIDE), "--confcutdir", str(INSIDE), str(INSIDE / module)],
        cwd=INSIDE, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
