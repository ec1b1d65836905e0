"""A stock ComfyUI: what its own requirements do not bring is hidden, and the pack needs nothing of that.

The tests' server is such a one; tests/browser/test_shipped_workflows.py runs every workflow in it.
"""

import ast
import os
import re
import subprocess
import sys
from importlib.metadata import Distribution, PathDistribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from harness import HOST, ROOT
from harness.environment import (
    hidden_packages,
    installed_distributions,
    modules_of,
    reached,
    site_environment,
)
from harness.host import ComfyServer

from ..unit.test_house import CORE, NODES, parse, relative_imports

LOOK = """
import importlib.metadata, importlib.util, sys
print(*(name for name in sys.argv[1:] if importlib.util.find_spec(name)))
print(*(found.metadata["Name"] for found in importlib.metadata.distributions()))
"""
HIDDEN = {"cv2", "accelerate", "tensorboard", "onnxruntime", "skimage", "matplotlib", "torchmetrics"}
SEEN = {"torch", "numpy", "PIL", "safetensors", "einops", "kornia", "scipy", "tqdm"}
IMPORT = """
import importlib, sys
folder, *names = sys.argv[1:]
sys.path.insert(0, folder)
import conftest  # which sets sys.argv
for name in names:
    importlib.import_module(f"pfstorer.{name}")
"""
INSIDE = Path(__file__).parent / "inside"


def run(code: str, *arguments: str, **environment: str) -> str:
    """What `code` prints in an interpreter that sees a stock ComfyUI's packages alone."""
    seen = {**os.environ, **site_environment(HOST, stock=True), **environment}
    command = [sys.executable, "-c", code, *arguments]
    result = subprocess.run(command, cwd=INSIDE, env=seen, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_what_a_stock_comfyui_lacks_is_hidden() -> None:
    modules, distributions = run(LOOK, *HIDDEN, *SEEN).splitlines()
    assert set(modules.split()) == SEEN
    assert "torch" in distributions.split()
    assert {"accelerate", "scikit-image", "pytest"}.isdisjoint(distributions.split())
    assert "opencv" not in distributions


def test_the_tests_server_is_a_stock_one(server: ComfyServer) -> None:
    assert server.process is not None
    environment = Path(f"/proc/{server.process.pid}/environ").read_bytes().decode().split("\0")
    assert f"PFSTORER_HIDDEN={hidden_packages()}" in environment


def test_every_module_that_a_node_reaches_imports(tmp_path: Path) -> None:
    """Imports inside functions count, too: what a node may ever import is there."""
    modules = {**parse(NODES), **parse(CORE)}
    waiting, names = [NODES], set[str]()
    while waiting:
        name = waiting.pop()
        if name not in names and name in modules:
            names.add(name)
            waiting += [*relative_imports(name, modules), name.rpartition(".")[0]]
    assert {
        "nodes.train",
        "pfstorer_core.personalization.pfstorer.train",
        "pfstorer_core.imaging.faces",
    } <= names
    run(IMPORT, str(INSIDE), *sorted(names), PFSTORER_BASE=str(tmp_path))


@pytest.fixture
def installed(tmp_path: Path) -> dict[str, Distribution]:
    """Three distributions: one asks for another in one of its extras, two share a namespace."""
    files = {
        "first": ("Requires-Dist: second; extra == 'more'\n", ["shared/first/__init__.py", "first.py"]),
        "second": ("Requires-Dist: absent; python_version < '3'\n", ["shared/second/__init__.py"]),
        "third": ("", ["shared/third.cpython-311.so", "own/__init__.py", "own/part.py"]),
    }
    found = {}
    for name, (requires, contents) in files.items():
        folder = tmp_path / f"{name}-1.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n{requires}")
        (folder / "RECORD").write_text("".join(f"{file},,\n" for file in contents))
        found[name] = PathDistribution(folder)
    return found


def test_installing_the_pack_s_requirements_changes_nothing() -> None:
    """Each is met by what a stock ComfyUI has; only OpenCV is new there. No torch, nothing pinned."""
    lines = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if line[0] != "#"]
    installed = installed_distributions()
    stock = reached((HOST / "requirements.txt").read_text().splitlines(), installed)
    wanted = {requirement.name: requirement.specifier for requirement in map(Requirement, lines)}
    assert set(wanted) == {"safetensors", "einops", "kornia", "opencv-python"}
    assert set(wanted) - stock == {"opencv-python"}
    assert {bound.operator for bounds in wanted.values() for bound in bounds} == {">="}
    assert all(installed[name].version in wanted[name] for name in set(wanted) & stock)
    # The registry reads the one and pip, in ComfyUI Manager's hands, the other.
    project = (ROOT / "pyproject.toml").read_text()
    (declared,) = re.findall(r"^dependencies = (\[.*\])$", project, re.MULTILINE)
    assert ast.literal_eval(declared) == lines


def test_requirements_are_followed(installed: dict[str, Distribution]) -> None:
    assert reached(["first>=1  # why", "", "# none"], installed) == {"first"}
    assert reached(["First[more]"], installed) == {"first", "second"}
    assert reached(["third; python_version < '3'"], installed) == set()


def test_a_shared_namespace_stays(installed: dict[str, Distribution]) -> None:
    assert modules_of(["third"], installed) == ["own", "shared.third"]
    assert modules_of(["second", "third"], installed) == ["own", "shared.second", "shared.third"]
    assert modules_of([*installed], installed) == ["first", "own", "shared"]
