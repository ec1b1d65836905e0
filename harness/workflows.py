"""`python -m harness.workflows [NAME …]`: writes the shipped workflows, as ComfyUI's own frontend saves them.

`shipped` describes them by nodes, links and notes; the real canvas measures, serialises and turns them into
the API format, so that nothing in workflows/ is written by hand. Then each template runs, for its thumbnail.
Names are those of API files; without, all are.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from . import ROOT
from .api_files import PATIENCE, read_api
from .browser import Canvas, open_canvas
from .client import ComfyClient
from .console import run_main, say
from .example_inputs import add_example_inputs
from .host import ComfyServer
from .layout import Size, Sizes, arrange
from .picture import decode, middle_of_face
from .shipped import WORKFLOWS, Template, Workflow
from .shipped.apps import as_app

FOLDER = ROOT / "workflows"
NOTHING = {"version": 0.4, "nodes": [], "links": [], "groups": []}
NEW_VIEW = {"Comfy.VueNodes.Enabled": True}
CLASSIC_VIEW = {"Comfy.VueNodes.Enabled": False}
THUMBNAIL = 512
"""Pixels along its side."""
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
SETTLE, SHOWN = 500, 1500
"""Milliseconds after which inputs that grow have grown, and after which all is shown."""
SHORT = 3
"""Steps of a run that is there to be looked at."""
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
SHORTEN = """(most) => {
    for (const node of window.app.graph._nodes)
        for (const widget of node.widgets ?? [])
            if (widget.name.endsWith("steps")) widget.value = Math.min(widget.value, most);
}"""
MEASURE = """() => Object.fromEntries(window.app.graph._nodes.map((node) => {
    const shown = document.querySelector(`[data-node-id="${node.id}"]`);
    const drawn = shown && [shown.offsetWidth, shown.offsetHeight - LiteGraph.NODE_TITLE_HEIGHT];
    return [String(node.id), drawn ?? [...node.size]];
}))"""
"""In the new view as it is drawn there, in the classic one as it is."""
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
LABEL = """(labels) => {
    for (const [number, name, label] of labels) {
        const node = window.app.graph.getNodeById(number);
        for (const named of [...node.widgets, ...node.inputs])
            if ((named.widget?.name ?? named.name) === name) named.label = label;
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
            # Pages of their own: the frontend keeps values of widgets by the numbers of nodes.
            grown: list[Sizes] = []
            for view in (NEW_VIEW, CLASSIC_VIEW) if isinstance(workflow, Template) else ():
                client.free()  # what is taken from earlier runs shows nothing
                with open_canvas(server.url, settings=view) as canvas:
                    grown += sizes_before_and_after(workflow, canvas)
            with open_canvas(server.url, settings=CLASSIC_VIEW) as canvas:
                write(workflow, canvas, grown)
            if isinstance(workflow, Template):
                write_thumbnail(workflow, client)


def build(workflow: Workflow, canvas: Canvas) -> Sizes:
    """Put a workflow on the canvas; the sizes of its nodes in the classic view."""
    canvas.load(NOTHING)  # ComfyUI's own first graph may still be on its way
    nodes = [vars(node) for node in workflow.nodes]
    canvas.page.evaluate(BUILD, {"nodes": nodes, "links": workflow.links})
    canvas.page.wait_for_timeout(SETTLE)
    return canvas.page.evaluate(SIZES, nodes)


def sizes_before_and_after(workflow: Workflow, canvas: Canvas) -> list[Sizes]:
    """Of the nodes, before a short run and after it: pictures and what nodes say make them higher."""
    build(workflow, canvas)
    canvas.page.evaluate(SPREAD)
    before = measured(workflow, canvas)
    canvas.page.evaluate(SHORTEN, SHORT)
    if canvas.queue(PATIENCE)["status"]["status_str"] != "success":
        raise RuntimeError(f"{workflow.api} failed")
    return [before, measured(workflow, canvas)]


def measured(workflow: Workflow, canvas: Canvas) -> Sizes:
    canvas.page.wait_for_timeout(SHOWN)
    canvas.fit()
    canvas.page.wait_for_timeout(SHOWN)
    found = canvas.page.evaluate(MEASURE)
    return {node.name: found[number] for number, node in numbered(workflow)}


def numbered(workflow: Workflow) -> list[tuple[str, Any]]:
    """The nodes with the numbers that the canvas gives them."""
    return [(str(number), node) for number, node in enumerate(workflow.nodes, 1)]


def write(workflow: Workflow, canvas: Canvas, grown: Sequence[Sizes]) -> None:
    """The API file of one workflow; of a template also what the template browser opens: the canvas, and an
    app."""
    saved = laid_out(workflow, canvas, grown)
    dump(FOLDER / "api" / f"{workflow.api}.json", saved["api"])
    if isinstance(workflow, Template):
        dump(FOLDER / f"{workflow.title}.json", saved["canvas"])
        if workflow.app:
            write_app(as_app(workflow, workflow.app), canvas, grown)


def write_app(template: Template, canvas: Canvas, grown: Sequence[Sizes]) -> None:
    assert template.app
    numbers = {node.name: int(number) for number, node in numbered(template)}
    inputs = [(numbers[node], widget, label) for node, widget, label in template.app.inputs]
    saved = laid_out(template, canvas, grown, inputs)["canvas"]
    saved["extra"] |= {
        "linearMode": True,
        "linearData": {
            "inputs": [[number, widget] for number, widget, _ in inputs],
            "outputs": [numbers[node] for node in template.app.outputs],
        },
    }
    dump(FOLDER / f"{template.app_title}.json", saved)


def laid_out(
    workflow: Workflow, canvas: Canvas, grown: Sequence[Sizes], labels: Sequence[tuple[int, str, str]] = ()
) -> dict[str, Any]:
    """A workflow as `canvas` and `api` save it, a template with room for what was measured."""
    sizes = build(workflow, canvas)
    canvas.page.evaluate(LABEL, labels)
    if isinstance(workflow, Template):
        place(workflow, canvas, sizes, grown)
    saved = canvas.page.evaluate(SERIALIZE)
    report = canvas.load(saved["canvas"])
    if report.missing or report.invalid or canvas.errors:
        raise RuntimeError(f"{workflow.api}: {report}, {canvas.errors}")
    return saved


def place(workflow: Template, canvas: Canvas, sizes: Sizes, grown: Sequence[Sizes]) -> None:
    shut = {node.name for node in workflow.nodes if node.collapsed}
    room = dict[str, Size]()
    for name, size in sizes.items():
        widths, heights = zip(size, *(found.get(name, size) for found in grown), strict=True)
        room[name] = max(widths), 0 if name in shut else max(heights)
    places, frames = arrange(workflow.stacks, room)
    canvas.page.evaluate(PLACE, {
        "places": {number: {"pos": places[node.name], "size": sizes[node.name]}
                   for number, node in numbered(workflow)},
        "frames": [vars(frame) for frame in frames],
        "colour": GROUP_COLOUR,
    })  # fmt: skip


def write_thumbnail(workflow: Template, client: ComfyClient) -> None:
    """What the template makes at its defaults."""
    prompt = read_api(workflow.api)
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
    say(str(path.relative_to(ROOT)))


if __name__ == "__main__":
    run_main(main)
