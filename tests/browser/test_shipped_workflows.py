"""Every template on the canvas of a stock ComfyUI: it opens, can be read, runs as it comes, and is what its
API file says."""

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import expect

from harness import CACHE, ROOT
from harness.browser import Canvas, open_canvas
from harness.client import ComfyClient
from harness.example_inputs import add_example_inputs
from harness.host import PACK, ComfyServer
from harness.shipped import API_ONLY, EXAMPLE, TEMPLATES, WORKFLOWS, Template, Workflow
from harness.shipped.apps import as_app
from harness.shipped.diffbir import DUAL_PIVOT
from harness.shipped.restore import RESTORE_A_PHOTOGRAPH, WEIGHTS
from harness.workflows import CLASSIC_VIEW, NEW_VIEW

FOLDER = ROOT / "workflows"
SCREENSHOTS = CACHE / "screenshots"
TROUBLE = re.compile(r"Traceback|ImportError|ModuleNotFoundError|No module named|not installed")
SMALL_SCREEN = 1366, 768
READABLE = 8 / 14
"""Zoom under which the classic view draws no text: less than 8 pixels high."""
MODEL_FOLDERS = ("restorers", "stablesr", "vae")
"""Of Load Base Restorer's first three inputs."""
FEW = ("steps", "text_steps", "model_steps")
TALL = {DUAL_PIVOT.api: 0.56}
"""Zoom after a run where one node alone, with its previews, is higher than that leaves room for."""
SCALE = "() => window.app.canvas.ds.scale"
SWITCH_VIEW = "(new_view) => window.app.extensionManager.setting.set('Comfy.VueNodes.Enabled', new_view)"
OVERLAPS = """() => {
    const nodes = window.app.graph._nodes.map((node) => ({title: node.title, box: [...node.getBounding()]}));
    const before = (a, b, n) => a[n] + a[n + 2] <= b[n];
    const apart = (a, b) => [0, 1].some((n) => before(a, b, n) || before(b, a, n));
    return nodes.flatMap((a, n) => nodes.slice(n + 1).filter((b) => !apart(a.box, b.box))
        .map((b) => [a.title, b.title]));
}"""


def test_all_workflows_are_there_and_no_others() -> None:
    canvases = {template.title for template in TEMPLATES}
    apps = {template.app_title for template in TEMPLATES if template.app}
    assert {path.stem for path in FOLDER.glob("*.json")} == canvases | apps
    assert {path.stem for path in FOLDER.glob("*.jpg")} == canvases | apps
    assert {path.stem for path in (FOLDER / "api").glob("*.json")} == {w.api for w in WORKFLOWS}
    assert len(canvases) == 8
    assert len(apps) == 2


def test_the_host_lists_the_templates_in_their_order(client: ComfyClient) -> None:
    listed = [name for name in client.get("/workflow_templates")[PACK] if not name.endswith(".app")]
    assert sorted(listed) == [template.title for template in TEMPLATES], "as the browser sorts them by name"
    numbers = [int(template.title.split(" ")[0]) for template in TEMPLATES]
    assert all(after == before + 1 for before, after in pairwise(numbers))


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.jpg")), ids=lambda path: path.stem)
def test_thumbnails_are_square_and_show_something(path: Path) -> None:
    with Image.open(path) as image:
        assert image.width == image.height
        assert image.width <= 640
        assert len(image.resize((32, 32)).getcolors(1024) or []) > 100


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def check_what_is_seen(canvas: Canvas, screenshot: Path | None = None, readable: float = READABLE) -> None:
    canvas.fit()
    if screenshot:
        canvas.screenshot(screenshot)
    assert canvas.page.evaluate(OVERLAPS) == []
    assert canvas.page.evaluate(SCALE) >= readable


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda template: template.api)
def test_template_opens_can_be_read_and_runs(server: ComfyServer, template: Template) -> None:
    logged, canvas_file = server.log.stat().st_size, read(FOLDER / f"{template.title}.json")
    assert [group["title"] for group in canvas_file["groups"]] == [
        group.caption for stack in template.stacks for group in stack
    ]
    with open_canvas(server.url, *SMALL_SCREEN, settings=CLASSIC_VIEW) as canvas:
        report = canvas.load(canvas_file)
        assert (report.nodes, list(report.missing), list(report.invalid)) == (len(template.nodes), [], [])
        assert canvas.graph_to_prompt() == read(FOLDER / "api" / f"{template.api}.json")
        check_what_is_seen(canvas)
        record = canvas.queue()
        assert record["status"]["status_str"] == "success"
        assert any(
            image["type"] == "output"
            for output in record["outputs"].values()
            for image in output.get("images", [])
        )
        for view, new in (("", False), ("_new_after", True)):
            canvas.page.evaluate(SWITCH_VIEW, new)
            canvas.page.wait_for_timeout(2000)  # until pictures have come and nodes have grown
            shot, readable = SCREENSHOTS / f"{template.api}{view}.png", TALL.get(template.api, READABLE)
            check_what_is_seen(canvas, shot, readable)
        assert (canvas.errors, canvas.external) == ([], [])
    said = server.log.read_bytes()[logged:].decode(errors="replace")
    assert [line for line in said.splitlines() if TROUBLE.search(line)] == []


def test_templates_can_be_read_in_the_new_node_view(server: ComfyServer) -> None:
    with open_canvas(server.url, *SMALL_SCREEN, settings=NEW_VIEW) as canvas:
        for template in TEMPLATES:
            report = canvas.load(read(FOLDER / f"{template.title}.json"))
            assert (list(report.missing), list(report.invalid)) == ([], [])
            canvas.page.wait_for_timeout(1000)
            check_what_is_seen(canvas, SCREENSHOTS / f"{template.api}_new.png")
            assert canvas.errors == []


@pytest.mark.parametrize("workflow", API_ONLY, ids=lambda workflow: workflow.api)
def test_workflow_runs_over_the_api(
    server: ComfyServer, client: ComfyClient, tmp_path: Path, workflow: Workflow
) -> None:
    """In few steps, on a small picture under the name of the one that ComfyUI brings along."""
    add_example_inputs(server.base / "input")
    Image.linear_gradient("L").resize((40, 32)).convert("RGB").save(tmp_path / EXAMPLE)
    client.upload_image(tmp_path / EXAMPLE, EXAMPLE)
    prompt = read(FOLDER / "api" / f"{workflow.api}.json")
    for made in prompt.values():
        made["inputs"] |= {name: min(made["inputs"][name], 3) for name in FEW if name in made["inputs"]}
    assert any(made["type"] == "output" for made in client.run(prompt).images())


@pytest.mark.parametrize("template", [t for t in TEMPLATES if t.app], ids=lambda template: template.api)
def test_app_lists_its_inputs_and_shows_what_it_made(server: ComfyServer, template: Template) -> None:
    add_example_inputs(server.base / "input")
    assert template.app
    app = as_app(template, template.app).app
    with open_canvas(server.url, *SMALL_SCREEN, settings=CLASSIC_VIEW) as canvas:
        report, page = canvas.load(read(FOLDER / f"{template.app_title}.json")), canvas.page
        assert (list(report.missing), list(report.invalid)) == ([], [])
        assert app
        expect(page.get_by_test_id("builder-widget-label")).to_have_text([label for *_, label in app.inputs])
        canvas.screenshot(SCREENSHOTS / f"{template.app_title}.png")
        page.get_by_test_id("linear-run-button").get_by_role("button", name="Run", exact=True).click()
        shown = page.get_by_test_id("linear-history-item").locator("img")
        expect(shown).to_have_count(1, timeout=600_000)
        page.wait_for_function("(image) => image.naturalWidth > 0", arg=shown.element_handle())
        canvas.screenshot(SCREENSHOTS / f"{template.app_title}_after.png")
        assert (canvas.errors, canvas.external) == ([], [])


def test_weights_that_are_missing_are_offered_for_download(server: ComfyServer) -> None:
    """Where a workflow names them; as it comes the template names what comes with the pack."""
    opened = read(FOLDER / f"{RESTORE_A_PHOTOGRAPH.title}.json")
    [restorer] = [node for node in opened["nodes"] if node["type"] == "LoadBaseRestorer"]
    named = [next(name for name, of in WEIGHTS.items() if of == kind) for kind in MODEL_FOLDERS]
    with open_canvas(server.url, *SMALL_SCREEN, settings=CLASSIC_VIEW) as canvas:
        page = canvas.page
        canvas.load(opened)
        page.wait_for_timeout(1000)
        expect(page.get_by_test_id("error-overlay")).to_have_count(0)
        restorer["widgets_values"][: len(named)] = named
        canvas.load(opened)
        page.get_by_test_id("error-overlay-see-errors").click()
        expect(page.get_by_test_id("missing-model-download")).to_have_count(len(named))
        for said in (*named, *MODEL_FOLDERS):
            expect(page.get_by_test_id("missing-model-importable-rows")).to_contain_text(said)
        canvas.screenshot(SCREENSHOTS / "missing_weights.png")
