"""Every shipped workflow on the canvas of a stock ComfyUI: it opens, runs, and is what its API file says."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from harness import CACHE, ROOT
from harness.browser import Canvas
from harness.client import ComfyClient
from harness.host import ComfyServer
from harness.shipped import EXAMPLE, WORKFLOWS, Workflow

SCREENSHOTS = CACHE / "screenshots"
FEW_STEPS = """() => {
    for (const node of window.app.graph._nodes)
        for (const widget of node.widgets ?? []) {
            if (/^((text|model)_)?steps$/.test(widget.name)) widget.value = Math.min(widget.value, 3);
            if (widget.name === "class_pictures") widget.value = 1;
            if (node.type === "PrimitiveBoundingBox") widget.value = Math.ceil(widget.value / 24);
        }
}"""
"""What takes long takes them from here on: that it works is seen after a few. Boxes shrink too."""

TROUBLE = re.compile(r"Traceback|ImportError|ModuleNotFoundError|No module named|not installed")


def test_all_workflows_are_tried() -> None:
    for folder, names in (("", {w.title for w in WORKFLOWS}), ("api", {w.api for w in WORKFLOWS})):
        assert {path.stem for path in (ROOT / "workflows" / folder).glob("*.json")} == names


@pytest.fixture
def example(client: ComfyClient, tmp_path: Path) -> str:
    """A small picture under the name of the one that ComfyUI brings along."""
    Image.linear_gradient("L").resize((40, 32)).convert("RGB").save(tmp_path / EXAMPLE)
    return client.upload_image(tmp_path / EXAMPLE, EXAMPLE)


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda workflow: workflow.api)
def test_workflow_opens_runs_and_shows_its_picture(
    server: ComfyServer, canvas: Canvas, example: str, workflow: Workflow
) -> None:
    logged = server.log.stat().st_size
    canvas.refresh()  # the picture was uploaded after the page was opened
    report = canvas.load(read(ROOT / "workflows" / f"{workflow.title}.json"))
    assert (report.nodes, list(report.missing), list(report.invalid)) == (len(workflow.nodes), [], [])
    assert canvas.errors == []
    api = read(ROOT / "workflows" / "api" / f"{workflow.api}.json")
    assert canvas.graph_to_prompt() == api

    canvas.page.evaluate(FEW_STEPS)
    record = canvas.queue()
    assert record["status"]["status_str"] == "success"
    assert any(
        image["type"] == "output"
        for output in record["outputs"].values()
        for image in output.get("images", [])
    )
    said = server.log.read_bytes()[logged:].decode(errors="replace")
    assert [line for line in said.splitlines() if TROUBLE.search(line)] == []
    canvas.fit()
    canvas.page.wait_for_timeout(1500)
    canvas.screenshot(SCREENSHOTS / f"{workflow.api}.png")
    assert canvas.errors == []
    assert canvas.external == []
    assert (ROOT / "workflows" / f"{workflow.title}.jpg").is_file(), "no thumbnail for the template browser"
