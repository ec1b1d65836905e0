"""Every number of DiffBIR's golden files is read by a test: what nobody reads proves nothing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness import ROOT

from . import conftest, golden

FILES = sorted(path.stem for path in golden.folder().glob("diffbir_*.safetensors"))
HOST = ROOT / "tests" / "comfy"


def readers() -> list[str]:
    """The tests that speak of these files: here, and inside the host."""
    here = [path for path in golden.HERE.glob("test_*.py") if path != Path(__file__).resolve()]
    own = [str(path) for path in here if "diffbir" in path.read_text(encoding="utf-8")]
    inside = [path.name for path in (HOST / "inside").glob("inside_*.py") if "golden.has" in path.read_text()]
    return own + [f"{HOST / 'test_inside.py'}::test_inside_the_host[{name}]" for name in inside]


@pytest.mark.full
def test_every_key_is_read_by_a_test(tmp_path: Path) -> None:
    notes = tmp_path / "read"
    present = [name for name, files in conftest.NEEDS.items() if golden.has(*files)]
    chosen = [
        test for test in readers() if Path(test).name in present or Path(test).name not in conftest.NEEDS
    ]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *chosen]
    environment = os.environ | {golden.NOTES: str(notes)}
    result = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout
    read = {tuple(line.split()) for line in notes.read_text(encoding="utf-8").splitlines()}
    unread = [f"{name}: {key}" for name in FILES for key in golden.tensors(name) if (name, key) not in read]
    assert not unread, "\n".join(unread)
