"""What a shipped workflow consists of: nodes, links, and the notes that explain them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

EXAMPLE = "example.png"
"""The picture that ComfyUI itself brings along, so that a fresh install finds it."""
PERSON = "P007"
"""Of the people in *Example Pictures*, who do not exist."""
NOTE_COLOUR = ["#432", "#653"]


BYPASSED = 4
"""LiteGraph's mode of a node that is there to be switched on."""


@dataclass(frozen=True)
class Node:
    """A node on the canvas: its type, where it stands, and the widgets that differ from their defaults."""

    name: str
    type: str
    pos: tuple[int, int]
    size: tuple[int, int] = (320, 60)
    title: str = ""
    widgets: dict[str, Any] = field(default_factory=dict)
    colour: list[str] | None = None
    mode: int = 0


def note(name: str, pos: tuple[int, int], size: tuple[int, int], title: str, text: str) -> Node:
    return Node(name, "MarkdownNote", pos, size, title, {"text": text}, NOTE_COLOUR)


def bad_picture(pos: tuple[int, int], name: str = "image") -> Node:
    """A bad picture that comes with the pack, in the place of which users put their own."""
    title, widgets = "Example Pictures: the bad one", {"example": f"{PERSON}: bad picture"}
    return Node(name, "ExamplePictures", pos, (400, 380), title, widgets)


def good_photos(pos: tuple[int, int], name: str = "photos") -> Node:
    """Photos of the same person: a batch."""
    title, widgets = "Example Pictures: photos of the person", {"example": f"{PERSON}: five photos"}
    return Node(name, "ExamplePictures", pos, (400, 380), title, widgets)


Links = tuple[tuple[str, str, str, str], ...]
"""(from, output name, to, input name)."""


@dataclass(frozen=True)
class Workflow:
    """A canvas: its title, the name of its API file, and what is on it.

    `picture` in docs/ shows what it makes, where that is not the one of the API file's name.
    """

    title: str
    api: str
    nodes: tuple[Node, ...]
    links: Links
    picture: str = ""


AT_ITS_BEST = {"steps": 2, "sampler_name": "ddpm", "seed": 0, "control_after_generate": "fixed"}
"""Sampling by which the embedded restorer stays nearest to the person; more steps add grain."""

CONSENT = (
    "A restored face is a guess at what was there. Learn, restore and share faces only of people who agree "
    "to it, and do not use the result as evidence of who somebody is. The adapter is biometric data: keep "
    "it as you would keep the photos."
)
