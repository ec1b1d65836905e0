"""The rules of the house that a program can check."""

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter

import pytest

from harness import ROOT

CORE, NODES, LAB = "pfstorer_core", "nodes", "lab"
HOST_MODULES = {"comfy", "comfy_api", "comfy_extras", "folder_paths", "node_helpers", "server"}
LONGEST_EXECUTE, LONGEST_MODULE = 40, 300
MOST_ENTRIES = 12
FLOORS = (
    {"cli"},
    {"verification"},
    {"restore"},
    {"personalization"},
    {"restorers"},
    {"training"},
    {"recognition"},
    {"degradation", "imaging"},
    {"checkpoints"},
    {"diffusion", "models"},
)
"""The core's rooms, from the top: each may import those of the floors below."""

Modules = Mapping[str, ast.Module]


def parse(package: str) -> dict[str, ast.Module]:
    """All modules of a package by dotted name; a package's own name stands for its __init__."""
    modules = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        modules[name] = ast.parse(path.read_text(), str(path))
    assert modules, f"no modules in {package}/"
    return modules


def is_package(name: str, modules: Modules) -> bool:
    return any(other.startswith(f"{name}.") for other in modules)


def runtime_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """All syntax nodes but those that only a type checker reads."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            continue
        yield node
        yield from runtime_nodes(node)


def absolute_imports(tree: ast.Module) -> Iterator[str]:
    """The top-level names of everything imported by an absolute name, in functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.split(".")[0]


def relative_imports(name: str, modules: Modules) -> Iterator[str]:
    """The modules that a module imports by relative names, in functions too.

    Only what is named counts: that importing a.b also runs a/__init__ is no circle by itself.
    """
    for node in runtime_nodes(modules[name]):
        if isinstance(node, ast.ImportFrom) and node.level:
            parts = name.split(".")
            parts = parts[: len(parts) - node.level + is_package(name, modules)]
            source = ".".join([*parts, node.module] if node.module else parts)
            for alias in node.names:
                target = f"{source}.{alias.name}"
                yield target if target in modules else source


def find_circle(modules: Modules) -> list[str]:
    """Modules that import each other in a circle, the first one twice; [] if there is none."""
    graph = {
        name: {target for target in relative_imports(name, modules) if target in modules} for name in modules
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def room_of(name: str) -> str:
    """The folder or module right in the core that a module is of; "" for the core's own __init__."""
    return name.partition(".")[2].partition(".")[0]


def find_wrong_arrows(modules: Modules) -> list[str]:
    """Imports that do not run from a room to one of a lower floor; the top's own modules may import all."""
    height = {room: -number for number, floor in enumerate(FLOORS) for room in floor}
    found = []
    for name in modules:
        room = room_of(name)
        for target in relative_imports(name, modules):
            other = room_of(target)
            if room in ("", "__main__") or other == room:
                continue
            if other not in height or height[other] >= height[room]:
                found.append(f"{name} -> {target}")
    return found


def harness_of_tests(folders: tuple[str, ...]) -> set[str]:
    """The harness's modules that are imported when tests are collected, those that these import included."""
    harness = parse("harness")
    files = [ROOT / "tests" / "conftest.py", *(p for f in folders for p in (ROOT / "tests" / f).glob("*.py"))]
    todo = [name for path in files for name in eager_imports(ast.parse(path.read_text("utf-8")), "", False)]
    reached: set[str] = set()
    while todo:
        name = todo.pop()
        if name in harness and name not in reached:
            reached.add(name)
            todo += eager_imports(harness[name], name, is_package(name, harness))
    return reached


def eager_imports(tree: ast.Module, name: str, package: bool) -> Iterator[str]:
    """What the import of a module imports: all of it by its full name, and what may be a module in it."""
    for node in tree.body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = name.split(".")
            above = parts[: len(parts) - node.level + package] if node.level else []
            source = ".".join([*above, node.module] if node.module else above)
            yield from (source, *(f"{source}.{alias.name}" for alias in node.names))


def run_tool(*command: str) -> None:
    result = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_ruff_is_clean() -> None:
    run_tool("ruff", "check", ".")


def test_pyright_is_clean() -> None:
    run_tool("pyright")


def test_core_knows_no_host_and_imports_itself_relatively() -> None:
    forbidden = HOST_MODULES | {NODES, CORE, LAB}
    modules = parse(CORE)
    found = {
        name: sorted(forbidden.intersection(absolute_imports(tree)))
        + [target for target in relative_imports(name, modules) if not target.startswith(CORE)]
        for name, tree in modules.items()
    }
    assert {name: names for name, names in found.items() if names} == {}


def test_nodes_reach_the_core_relatively_and_no_lab() -> None:
    """In the host the pack's modules are named after its folder: absolute names do not exist."""
    modules = parse(NODES)
    found = {
        name: sorted({CORE, LAB}.intersection(absolute_imports(tree)))
        + [target for target in relative_imports(name, modules) if target.split(".")[0] not in (CORE, NODES)]
        for name, tree in modules.items()
    }
    assert {name: names for name, names in found.items() if names} == {}


def test_lab_reaches_the_core_absolutely_itself_relatively_and_no_nodes() -> None:
    modules = parse(LAB)
    found = {
        name: sorted({NODES, LAB}.intersection(absolute_imports(tree)))
        + [target for target in relative_imports(name, modules) if target.split(".")[0] != LAB]
        for name, tree in modules.items()
    }
    assert {name: names for name, names in found.items() if names} == {}


def test_nodes_are_nodes_and_what_they_share_knows_none_of_them() -> None:
    modules = parse(NODES)
    shared = {name for name in modules if name.startswith(f"{NODES}.host")}
    upwards = {
        name: [target for target in relative_imports(name, modules) if target in modules.keys() - shared]
        for name in shared
    }
    assert {name: targets for name, targets in upwards.items() if targets} == {}
    without = [
        name
        for name in modules.keys() - shared - {NODES}
        if not any(
            isinstance(node, ast.ClassDef) and any("ComfyNode" in ast.unparse(base) for base in node.bases)
            for node in modules[name].body
        )
    ]
    assert without == [], "a module beside the nodes has none: it belongs to nodes/host"


@pytest.mark.parametrize("package", [CORE, NODES, LAB])
def test_no_import_circle(package: str) -> None:
    assert find_circle(parse(package)) == []


def test_import_circles_are_found() -> None:
    sources = {
        "a": "from .b import x",
        "a.b": "from . import c",
        "a.c": "def f():\n    from .d.e import y",
        "a.d": "",
        "a.d.e": "from ..b import z",
    }
    modules = {name: ast.parse(source) for name, source in sources.items()}
    assert set(find_circle(modules)) == {"a.b", "a.c", "a.d.e"}
    modules["a.d.e"] = ast.parse("if TYPE_CHECKING:\n    from ..b import z")
    assert find_circle(modules) == []


def test_arrows_between_the_rooms_of_the_core_run_one_way() -> None:
    modules = parse(CORE)
    rooms = {room_of(name) for name in modules} - {"", "__main__"}
    assert rooms == set().union(*FLOORS)
    assert find_wrong_arrows(modules) == []


@pytest.mark.parametrize(
    ("name", "source", "wrong"),
    [
        ("core.training.loop", "from ..models import unet", []),
        ("core.training.loop", "def late():\n    from ..restorers.base import x", ["core.restorers.base"]),
        ("core.imaging.color", "from ..degradation import noise", ["core.degradation.noise"]),
        ("core.models.unet", "from .. import restore", ["core.restore"]),
        ("core.models.unet", "from .. import __version__", ["core"]),
        ("core.restore", "from .cli.app import run", ["core.cli.app"]),
        ("core.restore", "from .personalization import base", []),
        ("core", "from .cli.app import run", []),
    ],
)
def test_wrong_arrows_are_found(name: str, source: str, wrong: list[str]) -> None:
    others = (
        "core", "core.cli.app", "core.restore", "core.personalization.base", "core.restorers.base",
        "core.training.loop", "core.degradation.noise", "core.imaging.color", "core.models.unet",
    )  # fmt: skip
    modules = {other: ast.parse("") for other in others} | {name: ast.parse(source)}
    assert find_wrong_arrows(modules) == [f"{name} -> {target}" for target in wrong]


def test_the_core_s_top_level_fits_on_one_look() -> None:
    entries = [path.name for path in (ROOT / CORE).iterdir() if not path.name.startswith(("__", "."))]
    assert 0 < len(entries) <= MOST_ENTRIES, entries


@pytest.mark.parametrize("package", [CORE, NODES, LAB])
def test_modules_are_read_in_one_sitting(package: str) -> None:
    """A longer one says why in its docstring, in a sentence about its lines."""
    found = {}
    for path in (ROOT / package).rglob("*.py"):
        source = path.read_text("utf-8")
        length = len(source.splitlines())
        if length > LONGEST_MODULE and "lines" not in (ast.get_docstring(ast.parse(source)) or ""):
            found[str(path.relative_to(ROOT))] = length
    assert found == {}


def test_unit_tests_run_without_the_packages_of_a_server_s_client() -> None:
    reached = harness_of_tests(("unit", "lab", "golden"))
    assert {"harness", "harness.drawn", "harness.shipped.parts", "harness.stand_ins"} <= reached
    assert reached.isdisjoint({"harness.client", "harness.host", "harness.browser"})


def test_execute_is_short() -> None:
    lengths = {
        f"{name}:{node.lineno}": (node.end_lineno or node.lineno) - node.lineno + 1
        for name, tree in parse(NODES).items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == "execute"
    }
    assert lengths, "no execute found: the rule checks nothing"
    assert {where: n for where, n in lengths.items() if n > LONGEST_EXECUTE} == {}


@pytest.mark.parametrize("package", [CORE, NODES])
def test_library_does_not_print(package: str) -> None:
    found = [
        f"{name}:{node.lineno}"
        for name, tree in parse(package).items()
        if "cli" not in name.split(".")
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "print"
    ]
    assert found == []
