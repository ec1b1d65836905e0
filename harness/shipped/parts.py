"""What a shipped workflow consists of: nodes, links, and, on a canvas, groups and notes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

EXAMPLE = "example.png"
"""The picture that ComfyUI itself brings along: what the API files read until somebody names their own."""
PEOPLE = ("P007", "P008", "P004")
PERSON = PEOPLE[0]
"""Of the people in *Example Pictures*, who do not exist."""
NOTE_COLOUR = ["#432", "#653"]
NODE_WIDTH = 270


BYPASSED = 4
"""LiteGraph's mode of a node that is there to be switched on."""


@dataclass(frozen=True)
class Node:
    """A node: its type, its title, and the widgets that differ from their defaults.

    `size` is its width and least height in a template; a node is as high as its widgets need.
    """

    name: str
    type: str
    title: str = ""
    widgets: dict[str, Any] = field(default_factory=dict)
    size: tuple[int, int] = (NODE_WIDTH, 0)
    colour: list[str] | None = None
    mode: int = 0
    properties: dict[str, Any] = field(default_factory=dict)
    collapsed: bool = False
    """To its title, until somebody opens it."""


Links = tuple[tuple[str, str, str, str], ...]
"""(from, output name, to, input name)."""


@dataclass(frozen=True)
class Workflow:
    """Nodes and links under the name of their API file."""

    api: str
    nodes: tuple[Node, ...]
    links: Links


@dataclass(frozen=True)
class Group:
    """A frame with a caption around columns of nodes, by their names, each from top to bottom."""

    caption: str
    columns: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Shown:
    """One of the pictures that a node makes."""

    node: str
    output: int = 0
    number: int = 0
    """Among all of them."""
    face: bool = False
    """An aligned one, of which the middle is shown."""


@dataclass(frozen=True)
class App:
    """What the frontend's app view shows of a template.

    `inputs` are widgets, (node, widget, what it is called there); `outputs` are nodes that save or preview.
    """

    inputs: tuple[tuple[str, str, str], ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Template(Workflow):
    """A workflow on the canvas, for the template browser.

    `stacks` are its groups: stacks from left to right, each from top to bottom. `thumbnail` shows its
    pictures in a square: two as halves of one picture, four as quarters.
    """

    title: str
    stacks: tuple[tuple[Group, ...], ...]
    thumbnail: tuple[Shown, ...]
    app: App | None = None

    @property
    def app_title(self) -> str:
        """Of the file that opens as an app."""
        return f"{self.title.partition(' ')[2]}.app"


def note(name: str, title: str, text: str, size: tuple[int, int]) -> Node:
    return Node(name, "MarkdownNote", title, {"text": text}, size, NOTE_COLOUR)


def welcome(text: str, height: int = 150, width: int = NODE_WIDTH) -> Node:
    return note("welcome", "Start here", text, (width, height))


def consent(text: str, height: int = 130, width: int = NODE_WIDTH) -> Node:
    return note("consent", "Before you use it on people", text, (width, height))


GUESS = "A restored face is a guess, and no evidence of who somebody is. Restore only people who agree."
BIOMETRIC = (
    "Learn and restore only people who agree. A restored face is a guess, no evidence; an adapter is "
    "biometric data: keep it like the photos."
)


def bad_picture(name: str = "image", person: str = PERSON) -> Node:
    """A bad picture that comes with the pack, in the place of which users put their own."""
    widgets = {"example": f"{person}: bad picture"}
    return Node(name, "ExamplePictures", "Example Pictures: the bad one", widgets, (NODE_WIDTH, 250))


def good_photos(name: str = "photos") -> Node:
    """Photos of the same person: a batch."""
    widgets = {"example": f"{PERSON}: five photos"}
    return Node(name, "ExamplePictures", "Example Pictures: good photos", widgets, (NODE_WIDTH, 250))


LOOK_WIDTH = 360


def compare(after: str = "after", height: int = 340) -> Node:
    """ComfyUI's slider between two pictures: image_a on the left, image_b on the right. The classic view of
    nodes has none, and says no more of it than "Node 2.0 only"."""
    return Node("compare", "ImageCompare", f"Before | {after} (Nodes 2.0)", size=(LOOK_WIDTH, height))


def save(prefix: str, height: int = 340, width: int = LOOK_WIDTH, title: str = "") -> Node:
    return Node("save", "SaveImage", title, {"filename_prefix": f"PFStorer_{prefix}"}, (width, height))


PRIOR = "pfstorer_tiny_clr_face.safetensors"
"""Comes with the pack, and draws the best faces of what does: CLR-Face, for aligned faces of 256 pixels."""


def base_restorer(name: str = "restorer", title: str = "", **given: Any) -> Node:
    """With room for the line that it says below itself."""
    return Node(name, "LoadBaseRestorer", title, size=(NODE_WIDTH, 280), **given)


def face_restorer(name: str = "restorer") -> Node:
    return base_restorer(name, "Load Base Restorer: CLR-Face", widgets={"checkpoint": PRIOR})


def aligned() -> Node:
    return Node("crop", "RestorationCropFace", "Crop Face: for the model")


FACE = (Node("faces", "RestorationFindFaces"), aligned())
"""The face in a picture, cut out as `face_restorer` wants it."""


def found(image: str) -> Links:
    """Between `FACE`, the node that the picture comes from, and the restorer."""
    return (
        (image, "IMAGE", "faces", "image"),
        (image, "IMAGE", "crop", "image"),
        ("faces", "bboxes", "crop", "bboxes"),
        ("restorer", "MODEL", "crop", "model"),
    )


AT_ITS_BEST = {"steps": 2, "sampler_name": "ddpm", "seed": 0, "control_after_generate": "fixed"}
"""Sampling by which the embedded restorer stays nearest to the person; more steps add grain."""
THRESHOLD = 0.3
"""Below Choose Identity's own: the faces in the example of a group are badly damaged."""
REFINED = {**AT_ITS_BEST, "steps": 10, "upscale": 1.0}
"""Of CLR-Face, whose pictures have the size of its faces already."""
UPSCALE = 2.0


def tiled(name: str, title: str = "", **widgets: Any) -> Node:
    return Node(name, "TiledSRSampler", title, {"upscale": UPSCALE, **AT_ITS_BEST, **widgets})


def enlarge(method: str = "bicubic") -> Node:
    return Node("large", "ImageScaleBy", "Enlarge", {"upscale_method": method, "scale_by": UPSCALE})


def loaded_person(name: str, adapter: str, title: str = "") -> Node:
    return Node(name, "LoadIdentityAdapter", title, {"name": f"{adapter}.safetensors"})
