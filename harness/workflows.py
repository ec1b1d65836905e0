"""`python -m harness.workflows [NAME …]`: writes the shipped workflows, as ComfyUI's own frontend saves them.

`shipped` describes them by nodes, links and notes; the real canvas measures, serialises and turns them into
the API format, so that nothing in workflows/ is written by hand. Then each template runs, for its thumbnail.
Names are those of API files; without, all are.
"""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from . import ROOT
from .browser import Canvas, open_canvas
from .client import ComfyClient
from .console import run_main, say
from .example_inputs import add_example_inputs
from .host import ComfyServer
from .layout import TITLE, Size, arrange
from .picture import decode, middle_of_face
from .shipped import WORKFLOWS, Template, Workflow

FOLDER = ROOT / "workflows"
NOTHING = {"version": 0.4, "nodes": [], "links": [], "groups": []}
NEW_VIEW = {"Comfy.VueNodes.Enabled": True}
CLASSIC_VIEW = {"Comfy.VueNodes.Enabled": False}
THUMBNAIL = 512
"""Pixels along its side."""
PATIENCE = 3600.0
"""Seconds that a template may run."""
GROUP_COLOUR = "#3f789e"
BUILD = """async ({nodes, links}) => {
    window.app.graph.clear();
    const made = {};
    for (const {name, type, title, widgets, colour, mode, properties} of nodes) {
        const node = LiteGraph.createNode(type);
        if (!node) throw new Error(`no node type ${type}`);
        window.app.graph.add(node);
        node.mode = mode;
        if (title) node.title = title;
        if (colour) { node.color = colour[0]; node.bgcolor = colour[1]; }
        Object.assign(node.properties, properties);
        for (const [key, value] of Object.entries(widgets)) {
            const widget = node.widgets.find((w) => w.name === key) ?? node.widgets[0];
            widget.value = value;
            widget.callback?.(value);
        }
        made[name] = node;
    }
    for (const [from, output, to, input] of links) {
        const slot = made[to].inputs.findIndex((i) => i.name === input);
        if (slot < 0) throw new Error(`${to} has no input ${input}: ${made[to].inputs.map((i) => i.name)}`);
        made[from].connect(made[from].findOutputSlot(output), made[to], slot);
    }
}"""
SETTLE = 500
"""Milliseconds after which inputs that grow have grown."""
SIZES = """(nodes) => {
    const sizes = {};
    for (const [n, {name, size, collapsed}] of nodes.entries()) {
        const node = window.app.graph._nodes[n];
        node.setSize([size[0], Math.max(size[1], node.computeSize()[1])]);
        sizes[name] = [...node.size];
        if (collapsed) node.flags.collapsed = true;
    }
    return sizes;
}"""
SPREAD = """async () => {
    window.app.graph._nodes.forEach((node, n) => { node.pos = [(n % 6) * 500, Math.floor(n / 6) * 1000]; });
    window.app.canvas.setDirty(true, true);
}"""
MEASURE = """() => Object.fromEntries(window.app.graph._nodes.map((node) => {
    const shown = document.querySelector(`[data-node-id="${node.id}"]`);
    return [String(node.id), [shown.offsetWidth, shown.offsetHeight]];
}))"""
PLACE = """({places, frames, colour}) => {
    for (const [number, {pos, size}] of Object.entries(places)) {
        const node = window.app.graph.getNodeById(Number(number));
        node.pos = pos;
        node.setSize(size);
    }
    for (const {title, bounding} of frames) {
        const group = new LiteGraph.LGraphGroup(title);
        group.configure({title, bounding, color: colour, font_size: 24, flags: {}});
        window.app.graph.add(group);
    }
}"""
SERIALIZE = """async () => {
    const {output} = await window.app.graphToPrompt();
    return {canvas: window.app.graph.serialize(), api: output};
}"""


def main() -> None:
    names = set(sys.argv[1:])
    with ComfyServer() as server, server.client() as client:
        add_example_inputs(server.base / "input")
        for workflow in WORKFLOWS:
            if names and workflow.api not in names:
                continue
            new: dict[str, Size] = {}
            if isinstance(workflow, Template):
                with open_canvas(server.url, settings=NEW_VIEW) as canvas:
                    new = sizes_in_new_view(workflow, canvas)
            # A page of its own: the frontend keeps values of widgets by the numbers of nodes, also of others.
            with open_canvas(server.url, settings=CLASSIC_VIEW) as canvas:
                write(workflow, canvas, new)
            if isinstance(workflow, Template):
                write_thumbnail(workflow, client)


def build(workflow: Workflow, canvas: Canvas) -> dict[str, Size]:
    """Put a workflow on the canvas; the sizes of its nodes in the classic view, by name."""
    canvas.load(NOTHING)  # ComfyUI's own first graph may still be on its way
    nodes = [vars(node) for node in workflow.nodes]
    canvas.page.evaluate(BUILD, {"nodes": nodes, "links": workflow.links})
    canvas.page.wait_for_timeout(SETTLE)
    return canvas.page.evaluate(SIZES, nodes)


def sizes_in_new_view(workflow: Template, canvas: Canvas) -> dict[str, Size]:
    """Of the nodes, by name, with title bars."""
    build(workflow, canvas)
    canvas.page.evaluate(SPREAD)
    canvas.page.wait_for_timeout(1500)
    canvas.fit()
    canvas.page.wait_for_timeout(1500)
    measured = canvas.page.evaluate(MEASURE)
    return {node.name: measured[number] for number, node in numbered(workflow)}


def numbered(workflow: Workflow) -> list[tuple[str, Any]]:
    """The nodes with the numbers that the canvas gives them."""
    return [(str(number), node) for number, node in enumerate(workflow.nodes, 1)]


def write(workflow: Workflow, canvas: Canvas, new: dict[str, Size]) -> None:
    """The API file of one workflow, and a template's canvas file."""
    sizes = build(workflow, canvas)
    if isinstance(workflow, Template):
        place(workflow, canvas, sizes, new)
    saved = canvas.page.evaluate(SERIALIZE)
    report = canvas.load(saved["canvas"])
    if report.missing or report.invalid or canvas.errors:
        raise RuntimeError(f"{workflow.api}: {report}, {canvas.errors}")
    dump(FOLDER / "api" / f"{workflow.api}.json", saved["api"])
    say(f"workflows/api/{workflow.api}.json")
    if isinstance(workflow, Template):
        write_canvas_files(workflow, saved["canvas"])


def place(workflow: Template, canvas: Canvas, sizes: dict[str, Size], new: dict[str, Size]) -> None:
    shut = {node.name for node in workflow.nodes if node.collapsed}
    room = {
        name: (max(width, new[name][0]), 0 if name in shut else max(height, new[name][1] - TITLE))
        for name, (width, height) in sizes.items()
    }
    places, frames = arrange(workflow.stacks, room)
    canvas.page.evaluate(PLACE, {
        "places": {number: {"pos": places[node.name], "size": sizes[node.name]}
                   for number, node in numbered(workflow)},
        "frames": [vars(frame) for frame in frames],
        "colour": GROUP_COLOUR,
    })  # fmt: skip


def write_canvas_files(workflow: Template, canvas: dict[str, Any]) -> None:
    """What the template browser opens: the canvas, and the same as an app."""
    numbers = {node.name: number for number, node in numbered(workflow)}
    if workflow.app:
        canvas["extra"]["linearData"] = {
            "inputs": [[int(numbers[node]), widget] for node, widget in workflow.app.inputs],
            "outputs": [int(numbers[node]) for node in workflow.app.outputs],
        }
    dump(FOLDER / f"{workflow.title}.json", canvas)
    say(f"workflows/{workflow.title}.json")
    if workflow.app:
        app = copy.deepcopy(canvas)
        app["extra"]["linearMode"] = True
        dump(FOLDER / f"{workflow.app_title}.json", app)


def write_thumbnail(workflow: Template, client: ComfyClient) -> None:
    """What the template makes at its defaults."""
    prompt = json.loads((FOLDER / "api" / f"{workflow.api}.json").read_text(encoding="utf-8"))
    ids = {node.name: number for number, node in numbered(workflow)}
    for n, shown in enumerate(workflow.thumbnail):
        inputs = {"images": [ids[shown.node], shown.output], "filename_prefix": f"thumbnail_{n}"}
        prompt[f"shown {n}"] = {"class_type": "SaveImage", "inputs": inputs}
    done = client.run(needed(prompt, "shown "), timeout=PATIENCE)
    pictures = []
    for n, shown in enumerate(workflow.thumbnail):
        picture = decode(client.view(done.images(f"shown {n}")[shown.number]))
        pictures.append(middle_of_face(picture) if shown.face else picture)
    for title in (workflow.title, *([workflow.app_title] if workflow.app else [])):
        square_of(pictures).save(FOLDER / f"{title}.jpg", quality=88)
    say(f"workflows/{workflow.title}.jpg")


def needed(prompt: dict[str, Any], outputs: str) -> dict[str, Any]:
    """What of a prompt leads to the nodes whose ids begin so."""
    found, wanted = dict[str, Any](), [name for name in prompt if name.startswith(outputs)]
    while wanted:
        if (name := wanted.pop()) not in found:
            found[name] = prompt[name]
            wanted += [value[0] for value in prompt[name]["inputs"].values() if isinstance(value, list)]
    return found


def square_of(pictures: list[Image.Image]) -> Image.Image:
    """Quarters; or, where there are two, halves of one picture, below one another where they are wide."""
    square, half = Image.new("RGB", (THUMBNAIL, THUMBNAIL)), THUMBNAIL // 2
    wide, two = pictures[0].width > 1.3 * pictures[0].height, len(pictures) == 2
    size = (THUMBNAIL if two else half, half if wide or not two else THUMBNAIL)
    for n, picture in enumerate(pictures):
        fitted = ImageOps.fit(picture, size, Image.Resampling.LANCZOS)
        if two and not wide:
            square.paste(fitted.crop((n * half, 0, n * half + half, THUMBNAIL)), (n * half, 0))
        else:
            square.paste(fitted, (0, n * half) if two else (n % 2 * half, n // 2 * half))
    return square


def dump(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    run_main(main)
