"""Errors as the host shows them: "CheckpointError: …", without the path of the pack's folders in front."""

import ast
import builtins

from pfstorer_core.checkpoints.errors import CheckpointError
from pfstorer_core.checkpoints.reading import DamagedFile

from .test_house import CORE, NODES, parse


def exception_classes() -> dict[str, ast.ClassDef]:
    """All that the pack defines: by base, which is one of Python's exceptions or another of these."""
    trees = [*parse(CORE).values(), *parse(NODES).values()]
    classes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    named = {name for name, kind in vars(builtins).items() if is_exception(kind)}
    found: dict[str, ast.ClassDef] = {}
    while new := {
        node.name: node
        for node in classes
        if node.name not in found
        and any(ast.unparse(base).split(".")[-1] in named | set(found) for base in node.bases)
    }:
        found |= new
    return found


def is_exception(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseException)


def test_no_exception_names_its_module() -> None:
    found = exception_classes()
    assert {"CheckpointError", "DamagedFile", "TakenError"} <= set(found)
    plain = {
        name
        for name, node in found.items()
        if any(ast.unparse(line) == "__module__ = 'builtins'" for line in node.body)
    }
    assert set(found) - plain == set()
    assert CheckpointError.__module__ == DamagedFile.__module__ == "builtins"
