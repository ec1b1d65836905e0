"""`python -m harness.workflows`: writes the shipped workflows, as ComfyUI's own frontend saves them.

A workflow is described below by its nodes, links and notes; the real canvas lays them out, serialises
them and turns them into the API format, so that nothing in workflows/ is written by hand.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from . import HOST, ROOT
from .browser import Canvas, open_canvas
from .console import run_main, say
from .host import ComfyServer

FOLDER = ROOT / "workflows"
EXAMPLE = "example.png"
"""The picture that ComfyUI itself brings along, so that a fresh install finds it."""

BUILD = """async ({nodes, links}) => {
    window.app.graph.clear();
    const made = {};
    for (const {name, type, pos, size, title, widgets, colour} of nodes) {
        const node = LiteGraph.createNode(type);
        if (!node) throw new Error(`no node type ${type}`);
        window.app.graph.add(node);
        node.pos = pos;
        if (title) node.title = title;
        if (colour) { node.color = colour[0]; node.bgcolor = colour[1]; }
        for (const [key, value] of Object.entries(widgets)) {
            const widget = node.widgets.find((w) => w.name === key) ?? node.widgets[0];
            widget.value = value;
            widget.callback?.(value);
        }
        node.setSize([size[0], Math.max(size[1], node.computeSize()[1])]);
        made[name] = node;
    }
    for (const [from, output, to, input] of links) {
        const slot = made[to].inputs.findIndex((i) => i.name === input);
        if (slot < 0) throw new Error(`${to} has no input ${input}`);
        made[from].connect(made[from].findOutputSlot(output), made[to], slot);
    }
}"""
SERIALIZE = """async () => {
    const {output} = await window.app.graphToPrompt();
    return {canvas: window.app.graph.serialize(), api: output};
}"""
NOTE_COLOUR = ["#432", "#653"]


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


def note(name: str, pos: tuple[int, int], size: tuple[int, int], title: str, text: str) -> Node:
    return Node(name, "MarkdownNote", pos, size, title, {"text": text}, NOTE_COLOUR)


@dataclass(frozen=True)
class Workflow:
    """`links` are (from, output name, to, input name)."""

    title: str
    api: str
    nodes: tuple[Node, ...]
    links: tuple[tuple[str, str, str, str], ...]


RESTORE_AND_UPSCALE = Workflow(
    "Restore and upscale",
    "restore_and_upscale",
    (
        note(
            "welcome",
            (40, 40),
            (400, 240),
            "1 · Start here",
            "**Restores a bad picture of a face and enlarges it.**\n\n"
            "Choose your picture in *Load Image*, then press **Run**.\n\n"
            "`pfstorer_tiny` comes with the pack so that everything runs at once, also without a graphics "
            "card. It is a demonstration, trained on drawn faces. For real photographs get StableSR's "
            "weights: the README says which, and where they go.",
        ),
        Node("image", "LoadImage", (40, 340), (400, 420), "Load Image: the bad picture", {"image": EXAMPLE}),
        Node("restorer", "LoadBaseRestorer", (480, 40), (400, 120)),
        Node(
            "sampler",
            "TiledSRSampler",
            (480, 310),
            (400, 480),
            widgets={"upscale": 2.0, "steps": 10, "seed": 0, "control_after_generate": "fixed"},
        ),
        note(
            "settings",
            (920, 560),
            (480, 250),
            "2 · The settings that matter",
            "- **upscale**: how many times larger the result is, 1 to 20.\n"
            "- **steps**: 10 is enough for the tiny restorer; StableSR wants 20 to 200.\n"
            "- **seed**: every seed invents other details.\n"
            "- **fidelity**: raise it if the result strays from the picture.\n"
            "- **color_fix**: leave it on *wavelet*.\n\n"
            "Large results are worked on tile by tile, so memory does not run out. Without a graphics card "
            "begin with a picture of at most 200 pixels: the time grows with the area of the result.",
        ),
        Node("save", "SaveImage", (920, 40), (480, 440), widgets={"filename_prefix": "PFStorer"}),
        note(
            "consent",
            (40, 820),
            (400, 150),
            "Before you use it on people",
            "A restored face is a guess at what was there. Restore and share faces only of people who "
            "agree to it, and do not use the result as evidence of who somebody is.",
        ),
    ),
    (
        ("image", "IMAGE", "sampler", "image"),
        ("restorer", "MODEL", "sampler", "model"),
        ("restorer", "VAE", "sampler", "vae"),
        ("sampler", "IMAGE", "save", "images"),
    ),
)
WORKFLOWS = (RESTORE_AND_UPSCALE,)


def main() -> None:
    with ComfyServer() as server, server.client() as client:
        client.upload_image(HOST / "input" / EXAMPLE, EXAMPLE)
        with open_canvas(server.url) as canvas:
            for workflow in WORKFLOWS:
                write(workflow, canvas)


def write(workflow: Workflow, canvas: Canvas) -> None:
    """The canvas file, its thumbnail and the API file of one workflow."""
    nodes = [vars(node) for node in workflow.nodes]
    canvas.page.evaluate(BUILD, {"nodes": nodes, "links": workflow.links})
    saved = canvas.page.evaluate(SERIALIZE)
    report = canvas.load(saved["canvas"])
    if report.missing or report.invalid or canvas.errors:
        raise RuntimeError(f"{workflow.title}: {report}, {canvas.errors}")
    dump(FOLDER / f"{workflow.title}.json", saved["canvas"])
    dump(FOLDER / "api" / f"{workflow.api}.json", saved["api"])
    thumbnail(ROOT / "docs" / f"{workflow.api}.png", FOLDER / f"{workflow.title}.jpg")
    say(f"workflows/{workflow.title}.json")


def thumbnail(picture: Path, path: Path) -> None:
    """The template browser shows what a workflow makes: a small copy of its picture in docs/."""
    image = Image.open(picture).convert("RGB")
    image.thumbnail((640, 640), Image.Resampling.LANCZOS)
    image.save(path, quality=88)


def dump(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    run_main(main)
