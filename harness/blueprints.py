"""`python -m harness.blueprints`: writes the subgraph blueprints, as ComfyUI's own frontend publishes them.

They lie in subgraphs/, where the host looks for those of node packs, and appear in its node library.
"""

from __future__ import annotations

import json
import re
import uuid
from pathlib import Path
from typing import Any

import requests

from . import ROOT
from .browser import Canvas, open_canvas
from .console import run_main, say
from .host import ComfyServer
from .shipped.restore_faces import BLUEPRINTS, Blueprint
from .workflows import BUILD, NOTHING, dump

FOLDER = ROOT / "subgraphs"
NO_QUESTIONS = {"Comfy.Workflow.WarnBlueprintOverwrite": False}
PUBLISH = """async ({title, names, description, search_aliases, exposed, outputs, columns}) => {
    const app = window.app, graph = app.graph;
    const run = (command, metadata) => app.extensionManager.command.execute(command, {metadata});
    const ids = names.map((_, n) => graph._nodes[n].id);
    const places = Object.fromEntries(names.map((name, n) => [name, graph._nodes[n]]));
    let x = 0;
    for (const column of columns) {
        let y = 0;
        for (const name of column) {
            places[name].pos = [x, y];
            y += places[name].size[1] + 60;
        }
        x += Math.max(...column.map((name) => places[name].size[0])) + 60;
    }
    const {subgraph, node} = graph.convertToSubgraph(new Set(graph._nodes));
    const inside = Object.fromEntries(names.map((name, n) => [name, subgraph.getNodeById(ids[n])]));
    for (const input of [...subgraph.inputs]) subgraph.removeInput(input);  // what the canvas thinks fit
    for (const [name, type, targets] of exposed) {
        const input = subgraph.addInput(name, type);
        for (const [to, slot] of targets) {
            const end = inside[to].inputs.find((i) => i.name === slot);
            if (!end || !input.connect(end, inside[to])) throw new Error(`${name} is no ${to}.${slot}`);
        }
    }
    for (const [name, type, from, slot] of outputs) {
        const start = inside[from].outputs.find((o) => o.name === slot);
        if (!start) throw new Error(`${from} has no output ${slot}`);
        subgraph.addOutput(name, type).connect(start, inside[from]);
    }
    subgraph.name = node.title = title;
    subgraph.inputNode.arrange();
    subgraph.outputNode.arrange();
    app.canvas.setGraph(subgraph);
    await run("Comfy.Subgraph.SetDescription", {description});
    await run("Comfy.Subgraph.SetSearchAliases", {aliases: search_aliases});
    app.canvas.setGraph(graph);
    node.setSize([Math.max(300, node.computeSize()[0]), node.computeSize()[1]]);
    app.canvas.select(node);
    await run("Comfy.PublishSubgraph", {name: title});
}"""
UUID = re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b")


def main() -> None:
    with ComfyServer() as server:
        requests.post(f"{server.url}/api/settings", json=NO_QUESTIONS, timeout=30).raise_for_status()
        for blueprint in BLUEPRINTS:
            with open_canvas(server.url) as canvas:
                canvas.load(NOTHING)
                publish(blueprint, canvas)
            path = server.base / "user" / "default" / "subgraphs" / f"{blueprint.title}.json"
            dump(FOLDER / path.name, finished(blueprint, path))
            say(f"subgraphs/{path.name}")


def publish(blueprint: Blueprint, canvas: Canvas) -> None:
    """Build the subgraph on the canvas and let that add it to the library."""
    nodes = [vars(node) for node in blueprint.nodes]
    canvas.page.evaluate(BUILD, {"nodes": nodes, "links": blueprint.links})
    names = [node.name for node in blueprint.nodes]
    canvas.page.evaluate(PUBLISH, {**vars(blueprint), "nodes": [], "names": names})
    if canvas.errors:
        raise RuntimeError(f"{blueprint.title}: {canvas.errors}")


def finished(blueprint: Blueprint, published: Path) -> Any:
    """What the canvas cannot say: where in the library it stands. Identifiers are the same each time."""
    text = published.read_text(encoding="utf-8")
    for number, found in enumerate(dict.fromkeys(UUID.findall(text))):
        text = text.replace(found, str(uuid.uuid5(uuid.NAMESPACE_URL, f"{blueprint.title}/{number}")))
    content = json.loads(text)
    [subgraph] = content["definitions"]["subgraphs"]
    subgraph |= {"category": blueprint.category, "description": blueprint.description}
    return content


if __name__ == "__main__":
    run_main(main)
