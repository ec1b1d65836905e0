"""The rooms of the house and which imports which, as a picture that is made from the imports."""

from __future__ import annotations

import ast
import textwrap
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from pfstorer_core.checkpoints.files import atomic_write

ROOT = Path(__file__).resolve().parents[1]
CORE = "pfstorer_core"
OUTSIDE = ("nodes", "lab")
"""Packages beside the core, each of which is one room."""

Arrows = Mapping[str, frozenset[str]]
"""By each room, the rooms that it imports."""

WIDTH, HEIGHT, GAP = 3.9, 0.72, 0.5
"""Of a box, and between two floors, in inches."""


def room_of(module: str) -> str:
    """The room of a module by its full name; "" for what only opens the core, its __init__ and __main__."""
    package, _, rest = module.partition(".")
    room = rest.partition(".")[0] if package == CORE else package
    return "" if room == "__main__" else room


def rooms() -> tuple[dict[str, str], Arrows]:
    """All rooms with what their docstrings begin with, and the arrows between them."""
    titles: dict[str, str] = {}
    found: dict[str, set[str]] = {}
    for package in (CORE, *OUTSIDE):
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            is_package = parts[-1] == "__init__"
            module = ".".join(parts[:-1] if is_package else parts)
            if room := room_of(module):
                tree = ast.parse(path.read_text("utf-8"))
                doc = (ast.get_docstring(tree) or "").partition("\n\n")[0]
                titles.setdefault(room, " ".join(doc.replace("`", "").split()))
                found.setdefault(room, set()).update(room_of(name) for name in imported(tree, parts[:-1]))
    return titles, {room: frozenset(others & found.keys() - {room}) for room, others in found.items()}


def imported(tree: ast.Module, package: tuple[str, ...]) -> Iterator[str]:
    """Full names of all that a module of this package imports from the repository, in functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            if node.level > len(package):  # the pack's own folder, in which the core lies
                above = ()
            source = [*above, *([node.module] if node.module else [])]
            yield from (".".join([*source, alias.name]) for alias in node.names)


def floors(arrows: Arrows) -> list[list[str]]:
    """Rooms from the top: each right below the lowest that imports it; what nobody imports, right above the
    highest that it imports."""
    importers = {room: [other for other, below in arrows.items() if room in below] for room in arrows}

    @cache
    def depth(room: str) -> int:
        return max((depth(other) + 1 for other in importers[room]), default=0)

    found: dict[int, list[str]] = {}
    for room in sorted(arrows):
        free = arrows[room] and not importers[room]
        number = min(map(depth, arrows[room])) - 1 if free else depth(room)
        found.setdefault(number, []).append(room)
    return [found[number] for number in sorted(found)]


def necessary(arrows: Arrows) -> Arrows:
    """Without the arrows that a longer way says, too."""

    @cache
    def reached(room: str) -> frozenset[str]:
        return arrows[room].union(*map(reached, arrows[room]))

    return {
        room: below - frozenset[str]().union(*(reached(other) for other in below))
        for room, below in arrows.items()
    }


def draw_architecture(path: Path | str) -> None:
    """A PNG, 1200 pixels wide: a box a room, on floors, and the arrows of the imports.

    Raises:
        ImportError: no matplotlib.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("The picture needs matplotlib: pip install matplotlib") from error
    titles, arrows = rooms()
    levels = floors(arrows)
    place: dict[str, tuple[float, float]] = {}
    for number, level in enumerate(levels):
        for column, room in enumerate(level):
            x = (column - (len(level) - 1) / 2) * (WIDTH + 0.35)
            place[room] = (x, -number * (HEIGHT + GAP))
    size = (12, len(levels) * (HEIGHT + GAP) + 0.3)
    figure = Figure(size, facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(-size[0] / 2, size[0] / 2)
    axes.set_ylim(HEIGHT / 2 + GAP / 2 - size[1], HEIGHT / 2 + GAP / 2)
    axes.axis("off")
    for room, below in necessary(arrows).items():
        for other in sorted(below):
            (x, y), (to_x, to_y) = place[room], place[other]
            axes.annotate(
                "",
                (to_x + (x - to_x) * 0.12, to_y + HEIGHT / 2),
                (x + (to_x - x) * 0.12, y - HEIGHT / 2),
                arrowprops={"arrowstyle": "-|>", "color": "#5b6570", "lw": 1.6, "shrinkA": 0, "shrinkB": 1},
            )
    for room, (x, y) in place.items():
        outside = room in OUTSIDE
        axes.add_patch(_box(x, y, "#fff3dc" if outside else "#e6eff8", "#b98a2f" if outside else "#4a7aa8"))
        axes.text(x, y + 0.19, room, ha="center", va="center", fontsize=13, weight="bold")
        title = textwrap.fill(titles[room], 54, max_lines=2, placeholder=" …")
        axes.text(x, y - 0.13, title, ha="center", va="center", fontsize=9, color="#333333", linespacing=1.1)
    note = "Arrow: imports. What follows from\nother arrows is left out.\nYellow: beside the core."
    axes.text(size[0] / 2 - 0.3, 0, note, ha="right", va="center", fontsize=9, color="#555555")
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=100, format="png")


def _box(x: float, y: float, face: str, edge: str) -> Any:
    """matplotlib's patch, which is imported only where it is used."""
    from matplotlib.patches import FancyBboxPatch

    corner = (x - WIDTH / 2, y - HEIGHT / 2)
    return FancyBboxPatch(
        corner, WIDTH, HEIGHT, boxstyle="round,pad=0,rounding_size=0.08", fc=face, ec=edge, lw=1.3
    )
