"""Where a template's nodes stand: in columns, in groups, so that nothing overlaps in either node view."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .shipped.parts import Group

Size = tuple[float, float]
"""Width and height."""
Sizes = Mapping[str, Size]
"""Of nodes without their title bars, by name."""
TITLE = 30
"""Above a node's position: its title bar."""
CAPTION = 40
"""Of a group, above its nodes' titles."""
MARGIN = 16
"""Between nodes, and around them in their group."""
ROOM = 20
"""Between groups."""


@dataclass(frozen=True)
class Frame:
    """A group on the canvas; `bounding` is left, top, width and height."""

    title: str
    bounding: tuple[float, float, float, float]


def arrange(
    stacks: Sequence[Sequence[Group]], sizes: Sizes
) -> tuple[dict[str, tuple[float, float]], list[Frame]]:
    """Positions of nodes, by name, and the frames around them."""
    places: dict[str, tuple[float, float]] = {}
    frames: list[Frame] = []
    left = 0.0
    for stack in stacks:
        top, widest = 0.0, 0.0
        for group in stack:
            x, low = left + MARGIN, top
            for column in group.columns:
                y = top + CAPTION + TITLE
                for name in column:
                    places[name] = (x, y)
                    y += sizes[name][1] + TITLE + MARGIN
                low = max(low, y - TITLE)
                x += max(sizes[name][0] for name in column) + MARGIN
            frames.append(Frame(group.caption, (left, top, x - left, low - top)))
            top, widest = low + ROOM, max(widest, x - left)
        left += widest + ROOM
    return places, frames
