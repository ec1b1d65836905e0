"""`python -m harness.workflows`: writes the shipped workflows, as ComfyUI's own frontend saves them.

`shipped` describes them by nodes, links and notes; the real canvas lays them out, serialises them and turns
them into the API format, so that nothing in workflows/ is written by hand.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image

from . import HOST, ROOT
from .browser import Canvas, open_canvas
from .console import run_main, say
from .host import ComfyServer
from .shipped import EXAMPLE, WORKFLOWS, Workflow

FOLDER = ROOT / "workflows"
NOTHING = {"version": 0.4, "nodes": [], "links": [], "groups": []}
BUILD = """async ({nodes, links}) => {
    window.app.graph.clear();
    const made = {};
    for (const {name, type, pos, size, title, widgets, colour, mode} of nodes) {
        const node = LiteGraph.createNode(type);
        if (!node) throw new Error(`no node type ${type}`);
        window.app.graph.add(node);
        node.pos = pos;
        node.mode = mode;
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


def main() -> None:
    with ComfyServer() as server, server.client() as client:
        client.upload_image(HOST / "input" / EXAMPLE, EXAMPLE)
        for workflow in WORKFLOWS:
            # A page of its own: the frontend keeps values of widgets by the numbers of nodes, also of others.
            with open_canvas(server.url) as canvas:
                canvas.load(NOTHING)  # ComfyUI's own first graph may still be on its way
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
    thumbnail(ROOT / "docs" / f"{workflow.picture or workflow.api}.png", FOLDER / f"{workflow.title}.jpg")
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
