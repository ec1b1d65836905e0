"""Every number of DiffBIR's golden files is read by a test: what nobody reads proves nothing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from . import conftest, golden

FILES = sorted(path.stem for path in golden.folder().glob("diffbir_*.safetensors"))
MODULES = sorted(module for module, needs in conftest.NEEDS.items() if {*needs} & {*FILES})


@pytest.mark.full
def test_every_key_is_read_by_a_test(tmp_path: Path) -> None:
    notes = tmp_path / "read"
    modules = [str(golden.HERE / module) for module in MODULES if golden.has(*conftest.NEEDS[module])]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *modules]
    environment = os.environ | {conftest.NOTES: str(notes)}
    result = subprocess.run(command, env=environment, cwd=golden.HERE.parents[1], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout
    read = {tuple(line.split()) for line in notes.read_text().splitlines()}
    unread = [f"{name}: {key}" for name in FILES for key in golden.tensors(name) if (name, key) not in read]
    assert not unread, "\n".join(unread)
