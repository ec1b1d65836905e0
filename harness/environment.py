"""What the harness's interpreters see of the installed packages: all, or what a stock ComfyUI has."""

from __future__ import annotations

import importlib.metadata
import json
import os
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from functools import cache
from pathlib import Path, PurePosixPath

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from . import HOST
from .setup import DECLARE_OPERATORS, SITECUSTOMIZE, op_schemas_needed

SUFFIXES = (".py", ".so", ".pyd")
Distributions = Mapping[str, importlib.metadata.Distribution]


def site_environment(*paths: Path, stock: bool = False) -> dict[str, str]:
    """Environment variables of an interpreter that can load the host.

    Args:
        paths: more folders to import from.
        stock: hide every package that ComfyUI's own requirements do not reach.
    """
    folders = [str(SITECUSTOMIZE), *map(str, paths), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {"PYTHONPATH": os.pathsep.join(folders)}
    if op_schemas_needed():
        environment |= DECLARE_OPERATORS
    if stock:
        environment["PFSTORER_HIDDEN"] = hidden_packages()
    return environment


@cache
def hidden_packages() -> str:
    """What hide_packages.py takes: the distributions beside a stock ComfyUI's, and the modules of theirs."""
    installed = installed_distributions()
    wanted = reached((HOST / "requirements.txt").read_text().splitlines(), installed)
    hidden = sorted(set(installed) - wanted)
    return json.dumps({"distributions": hidden, "modules": modules_of(hidden, installed)})


def installed_distributions() -> Distributions:
    """By canonical name."""
    found = importlib.metadata.distributions()
    return {canonicalize_name(distribution.metadata["Name"]): distribution for distribution in found}


def reached(lines: Iterable[str], installed: Distributions) -> set[str]:
    """Canonical names of what the lines of a requirements file ask for, and of all that these ask for."""
    seen: set[tuple[str, str]] = set()
    waiting = [(line.split("#")[0].strip(), "") for line in lines]
    while waiting:
        line, extra = waiting.pop()
        if not line or line.startswith("-"):
            continue
        try:
            requirement = Requirement(line)
        except InvalidRequirement as error:
            raise ValueError(f"{line} is no requirement: {error}") from error
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(requirement.name)
        for of in {(name, ""), *((name, wanted) for wanted in requirement.extras)} - seen:
            seen.add(of)
            if name in installed:
                waiting += [(asked, of[1]) for asked in installed[name].requires or ()]
    return {name for name, _ in seen}


def modules_of(hidden: Collection[str], installed: Distributions) -> list[str]:
    """Dotted names that only hidden distributions provide, the outermost of each.

    A namespace that visible ones share stays, without what is hidden in it.
    """
    providers: dict[str, set[str]] = defaultdict(set)
    for name, distribution in installed.items():
        for file in distribution.files or ():
            for module in modules(PurePosixPath(file)):
                providers[module].add(name)
    only = {module for module, names in providers.items() if names <= set(hidden)}
    return sorted(module for module in only if module.rpartition(".")[0] not in only)


def modules(file: PurePosixPath) -> Iterable[str]:
    """The packages around a file of a distribution, and the module that it is itself."""
    if file.suffix not in SUFFIXES:
        return
    parts = [*file.parts[:-1], file.name.split(".")[0]]
    if all(part.isidentifier() for part in parts):
        for length in range(1, len(parts) + 1):
            yield ".".join(parts[:length])
