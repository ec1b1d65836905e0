"""The harness's browser: it shows workflows, runs them, and sees what is wrong with them."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from harness import ROOT
from harness.browser import Canvas
from harness.client import PromptRejected
from harness.drawn import DRAWN_PERSON
from harness.host import ComfyServer


def node(identity: int, kind: str, values: list[Any], **parts: Any) -> dict[str, Any]:
    frame = {"id": identity, "type": kind, "pos": [400 * identity, 80], "size": [300, 150]}
    return {**frame, "mode": 0, "properties": {}, "widgets_values": values, **parts}


def workflow(*nodes: dict[str, Any], links: tuple[list[Any], ...] = ()) -> dict[str, Any]:
    return {"version": 0.4, "nodes": list(nodes), "links": list(links), "groups": []}


EMPTY = node(1, "EmptyImage", [64, 48, 1, 255], outputs=[{"name": "IMAGE", "type": "IMAGE", "links": [1]}])
SAVE = node(2, "SaveImage", ["canvas"], inputs=[{"name": "images", "type": "IMAGE", "link": 1}])
BLUE = workflow(EMPTY, SAVE, links=([1, 1, 0, 2, 0, "IMAGE"],))


def test_workflow_opens_and_runs(canvas: Canvas) -> None:
    report = canvas.load(BLUE)
    assert (report.nodes, report.missing, report.invalid) == (2, [], [])
    prompt = canvas.graph_to_prompt()
    assert prompt["1"]["inputs"]["width"] == 64
    assert prompt["2"]["inputs"]["images"] == ["1", 0]
    record = canvas.queue()
    assert record["status"]["status_str"] == "success"
    assert record["outputs"]["2"]["images"][0]["filename"].startswith("canvas")
    assert canvas.errors == []
    assert canvas.external == []


def test_screenshot_shows_the_workflow(canvas: Canvas, tmp_path: Path) -> None:
    canvas.load(workflow())
    canvas.screenshot(tmp_path / "empty.png")
    canvas.load(BLUE)
    canvas.fit()
    canvas.screenshot(tmp_path / "shots" / "blue.png")
    empty, blue = Image.open(tmp_path / "empty.png"), Image.open(tmp_path / "shots" / "blue.png")
    assert blue.size == empty.size
    assert blue.tobytes() != empty.tobytes()


def test_what_is_wrong_with_a_workflow_is_seen(canvas: Canvas) -> None:
    unknown = node(3, "NoSuchNode", [])
    sampler = node(4, "KSampler", [5, "randomize", 20, 8, "no_such_sampler", "normal", 1])
    report = canvas.load(workflow(EMPTY, SAVE, unknown, sampler))
    assert report.missing == ["NoSuchNode"]
    assert report.invalid == ["KSampler.sampler_name = no_such_sampler"]


def test_seeds_are_pinned(canvas: Canvas) -> None:
    canvas.load(workflow(node(4, "KSampler", [5, "randomize", 20, 8, "euler", "normal", 1])))
    assert "control_after_generate" in str(canvas.page.evaluate(WIDGETS))
    assert dict(canvas.page.evaluate(WIDGETS))["control_after_generate"] == "fixed"


def test_refused_workflow_names_the_input(canvas: Canvas) -> None:
    canvas.load(workflow(node(2, "SaveImage", ["x"])))
    with pytest.raises(PromptRejected, match=r"node 2 \(SaveImage\): .*images"):
        canvas.queue()


WIDGETS = "() => window.app.graph._nodes[0].widgets.map((w) => [w.name, w.value])"


def test_the_person_that_was_saved_is_the_one_that_is_opened(server: ComfyServer, canvas: Canvas) -> None:
    """Whoever else has been learned, and is offered before them."""
    folder = server.base / "models" / "identity_adapters"
    first = folder / "a.safetensors"
    shutil.copy(ROOT / "assets" / "identity_adapters" / f"{DRAWN_PERSON}.safetensors", first)
    try:
        canvas.refresh()
        person = node(1, "LoadIdentityAdapter", [f"{DRAWN_PERSON}.safetensors"], outputs=[])
        canvas.load(workflow(person))
        canvas.fit()  # drawn, the choices are looked up
        canvas.page.wait_for_timeout(2000)
        assert canvas.graph_to_prompt()["1"]["inputs"] == {"name": f"{DRAWN_PERSON}.safetensors"}
        choices = canvas.page.evaluate("() => window.app.graph._nodes[0].widgets[0].options.values")
        assert {first.name, f"{DRAWN_PERSON}.safetensors"} <= {*choices}
    finally:
        first.unlink()
