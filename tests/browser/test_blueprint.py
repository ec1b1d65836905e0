"""The subgraph blueprint Restore Faces: the canvas finds it, and it gives what its nodes give."""

from contextlib import suppress
from typing import Any

import numpy as np
from playwright.sync_api import TimeoutError

from harness.browser import Canvas
from harness.client import ComfyClient
from harness.host import ComfyServer
from harness.picture import decode
from harness.shipped.restore_faces import RESTORE_FACES

from ..comfy.people import RESTORER, THRESHOLD, add_people
from ..comfy.prompts import node

KNOWN = ("P007", "P008")
GROUP = "group: bad picture"
SETTINGS = {"threshold": THRESHOLD, "upscale": 1.5, "gamma": 0.5, "steps": 3, "seed": 7, "strength": 0.75}
PLACED = "() => window.app.graph._nodes.map((n) => ({title: n.title, subgraph: !!n.isSubgraphNode?.()}))"
TYPING = "() => document.activeElement?.tagName === 'INPUT'"
WIRE = """({settings, people, restorer, group}) => {
    const graph = window.app.graph, [faces] = graph._nodes;
    const add = (type, widgets) => {
        const node = LiteGraph.createNode(type);
        graph.add(node);
        Object.entries(widgets).forEach(([name, value]) => set(node, name, value));
        return node;
    };
    const set = (node, name, value) => {
        const widget = node.widgets.find((w) => w.name === name);
        widget.value = value;
        widget.callback?.(value);
    };
    const join = (from, output, to, input) => {
        const slot = to.inputs.findIndex((i) => i.name === input);
        if (slot < 0 || !from.connect(from.findOutputSlot(output), to, slot)) throw new Error(`no ${input}`);
    };
    join(add("ExamplePictures", {example: group}), "IMAGE", faces, "image");
    const loaded = add("LoadBaseRestorer", {checkpoint: restorer});
    join(loaded, "MODEL", faces, "model");
    join(loaded, "VAE", faces, "vae");
    people.forEach((person, n) => {
        const adapter = add("LoadIdentityAdapter", {name: `small_${person}.safetensors`});
        join(adapter, "identity_adapter", faces, `person_${n + 1}`);
    });
    Object.entries(settings).forEach(([name, value]) => set(faces, name, value));
    join(faces, "IMAGE", add("SaveImage", {filename_prefix: "blueprint"}), "images");
}"""


def plain() -> dict[str, Any]:
    """The same as nodes, and the picture that is only enlarged."""
    return {
        "image": node("ExamplePictures", example=GROUP),
        "restorer": node("LoadBaseRestorer", checkpoint=RESTORER),
        **{person: node("LoadIdentityAdapter", name=f"small_{person}.safetensors") for person in KNOWN},
        "choose": node(
            "ChooseIdentity", image=["image", 0], threshold=SETTINGS["threshold"],
            **{f"identity_adapters.identity_adapter_{n}": [person, 0] for n, person in enumerate(KNOWN)},
        ),
        "crop": node("RestorationCropFace", image=["image", 0], face=1, context=0.6, bboxes=["choose", 1]),
        "apply": node("ApplyPersonalization", model=["restorer", 0], identity_adapter=["choose", 0],
                      gamma=SETTINGS["gamma"]),
        "restore": node(
            "TiledSRSampler", model=["apply", 0], vae=["restorer", 2], image=["crop", 0], cfg=1.0,
            upscale=SETTINGS["upscale"], steps=SETTINGS["steps"], sampler_name="ddpm", scheduler="normal",
            seed=SETTINGS["seed"],
        ),
        "large": node("ImageScaleBy", image=["image", 0], upscale_method="lanczos",
                      scale_by=SETTINGS["upscale"]),
        "paste": node("RestorationPasteFace", image=["large", 0], face=["restore", 0], face_crop=["crop", 1],
                      feather=0.1, strength=SETTINGS["strength"]),
        "save": node("SaveImage", images=["paste", 0], filename_prefix="plain"),
        "enlarged": node("SaveImage", images=["large", 0], filename_prefix="enlarged"),
    }  # fmt: skip


def open_search(canvas: Canvas) -> None:
    """By a double click, once more where the page was not ready for it."""
    for patience in (5_000, 10_000, 60_000):
        canvas.page.mouse.dblclick(900, 600)
        with suppress(TimeoutError):
            canvas.page.wait_for_function(TYPING, timeout=patience)
            return
    raise AssertionError("a double click opens no search")


def test_it_is_found_and_gives_what_its_nodes_give(
    server: ComfyServer, canvas: Canvas, client: ComfyClient
) -> None:
    add_people(server, KNOWN)
    canvas.load({"version": 0.4, "nodes": [], "links": [], "groups": []})
    canvas.refresh()
    open_search(canvas)
    canvas.page.keyboard.type(RESTORE_FACES.title)
    canvas.page.get_by_text(RESTORE_FACES.description).first.wait_for()
    canvas.errors.clear()  # those of ComfyUI's own first graph may come late
    canvas.page.keyboard.press("Enter")
    canvas.page.wait_for_function("() => window.app.graph._nodes.length === 1")
    canvas.page.mouse.click(900, 600)
    assert canvas.page.evaluate(PLACED) == [{"title": RESTORE_FACES.title, "subgraph": True}]

    given = {"settings": SETTINGS, "people": KNOWN, "restorer": RESTORER, "group": GROUP}
    canvas.page.evaluate(WIRE, given)
    record = canvas.queue()
    assert record["status"]["status_str"] == "success"
    assert canvas.errors == []
    [saved] = [image for made in record["outputs"].values() for image in made.get("images", [])
               if image["type"] == "output"]  # fmt: skip
    client.free()
    execution = client.run(plain())
    assert "restore" in execution.ran
    whole, expected, enlarged = (
        np.asarray(decode(client.view(image)).convert("RGB"))
        for image in (saved, *execution.images("save"), *execution.images("enlarged"))
    )
    assert (whole == expected).all()
    columns = (whole != enlarged).any((0, 2))
    width = len(columns)
    assert columns[: width // 3].any()
    assert columns[width // 3 : 2 * width // 3].any()
    assert not columns[round(0.75 * width) :].any(), "P004, whose adapter is not there, stays as it is"
