"""Every number of the golden files of DiffBIR and of CLR-Face is read by a test: what nobody reads proves
nothing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness import ROOT

from . import conftest, golden

BEGINNINGS = {"diffbir": ("diffbir_",), "clr_face": ("clr_", "ldm_", "refldm_", "vqgan_")}
"""Of the names of a method's files."""
HOST = ROOT / "tests" / "comfy"


def readers(beginnings: tuple[str, ...]) -> list[str]:
    """The tests that speak of these files: here, and inside the host."""

    def speaks(path: Path) -> bool:
        named = any(name.startswith(beginnings) for name in conftest.NEEDS.get(path.name, []))
        return named or any(f'"{start}' in path.read_text(encoding="utf-8") for start in beginnings)

    here = [path for path in golden.HERE.glob("test_*.py") if path != Path(__file__).resolve()]
    inside = [path.name for path in (HOST / "inside").glob("inside_*.py") if speaks(path)]
    own = [str(path) for path in here if speaks(path)]
    return own + [f"{HOST / 'test_inside.py'}::test_inside_the_host[{name}]" for name in inside]


@pytest.mark.full
@pytest.mark.parametrize("method", BEGINNINGS)
def test_every_key_is_read_by_a_test(method: str, tmp_path: Path) -> None:
    beginnings, notes = BEGINNINGS[method], tmp_path / "read"
    files = sorted(p.stem for p in golden.folder().glob("*.safetensors") if p.stem.startswith(beginnings))
    present = [name for name, needed in conftest.NEEDS.items() if golden.has(*needed)]
    chosen = [
        test
        for test in readers(beginnings)
        if Path(test).name in present or Path(test).name not in conftest.NEEDS
    ]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *chosen]
    environment = os.environ | {golden.NOTES: str(notes)}
    result = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout
    read = {tuple(line.split()) for line in notes.read_text(encoding="utf-8").splitlines()}
    unread = [f"{name}: {key}" for name in files for key in golden.tensors(name) if (name, key) not in read]
    assert not unread, "\n".join(unread)
