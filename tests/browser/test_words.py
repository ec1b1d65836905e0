"""What people read on the canvas in their language: names, tooltips, help; and what the search finds."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from harness import CACHE, ROOT
from harness.browser import READY, Canvas, watch

LEARN, SAMPLER, ONLY_ENGLISH = "TrainIdentityAdapter", "TiledSRSampler", "RestorationTiling"
SHOWN = """() => window.app.graph._nodes.map(({title, inputs, outputs, widgets}) => [title,
    ...[...inputs, ...outputs].map((one) => one.localized_name), ...widgets.map((one) => one.label)])"""
PLACE = """([name, output]) => {
    const [node] = window.app.graph._nodes, {ds, canvas} = window.app.canvas;
    const input = node.inputs.findIndex((one) => one.name === name);
    const place = name ? node.getInputPos(input) : node.getOutputPos(output);
    const {left, top} = canvas.getBoundingClientRect();
    return [(place[0] + ds.offset[0]) * ds.scale + left, (place[1] + ds.offset[1]) * ds.scale + top];
}"""
"""Of a socket of the first node, on the page."""


@pytest.fixture(params=["zh", "ja"])
def foreign(canvas: Canvas, request: pytest.FixtureRequest) -> Iterator[Canvas]:
    """Another page of the browser, in another language, with three nodes."""

    def speak(language: str) -> None:
        answer = requests.post(f"{canvas.url}/api/settings", json={"Comfy.Locale": language}, timeout=30)
        answer.raise_for_status()

    speak(request.param)
    browser = canvas.page.context.browser
    assert browser
    page = browser.new_page(viewport=canvas.page.viewport_size)
    try:
        opened = Canvas(page, canvas.url)
        watch(opened)
        page.goto(canvas.url)
        page.wait_for_function(READY)
        page.wait_for_function(
            "() => window.app.graph._nodes.length"
        )  # else the host's first graph comes later
        page.wait_for_load_state("networkidle")
        kinds = enumerate((LEARN, SAMPLER, ONLY_ENGLISH))
        three = [{"id": n, "type": kind, "pos": [400 * n, 100], "size": [320, 420]} for n, kind in kinds]
        opened.load({"version": 0.4, "nodes": three, "links": [], "groups": []})
        opened.fit()
        yield opened
    finally:
        page.close()
        speak("en")


@pytest.fixture
def texts(foreign: Canvas, request: pytest.FixtureRequest) -> Any:
    path = ROOT / "locales" / request.node.callspec.params["foreign"] / "nodeDefs.json"
    return json.loads(path.read_text(encoding="utf-8"))


def tooltip(canvas: Canvas, name: str, output: int = 0) -> str:
    """That the first node shows over a socket."""
    x, y = canvas.page.evaluate(PLACE, [name, output])
    shown = canvas.page.locator(".node-tooltip")
    canvas.page.mouse.move(x + 1, y + 300)
    canvas.page.mouse.move(x + 1, y)
    shown.wait_for(state="visible")
    return shown.inner_text()


def help_page(canvas: Canvas, number: int) -> str:
    """As the panel shows it when the info button over a node is pressed."""
    canvas.page.evaluate("(n) => window.app.canvas.selectNode(window.app.graph._nodes[n])", number)
    canvas.page.get_by_test_id("info-button").click()
    canvas.page.wait_for_load_state("networkidle")
    return canvas.page.locator(".node-help-content h1").inner_text()


def found(canvas: Canvas, words: str) -> list[str]:
    """Titles of the nodes that the search box offers, the first one first."""
    toggle = "() => window.app.extensionManager.command.execute('Workspace.SearchBox.Toggle')"
    canvas.page.evaluate(toggle)
    canvas.page.keyboard.type(words)
    canvas.page.wait_for_timeout(500)  # it waits for the end of the word
    titles = [item.split("\n")[0] for item in canvas.page.get_by_test_id("result-item").all_inner_texts()]
    canvas.page.keyboard.press("Escape")
    return titles


def test_the_canvas_speaks_the_language(foreign: Canvas, texts: Any, request: pytest.FixtureRequest) -> None:
    for shown, kind in zip(foreign.page.evaluate(SHOWN), (LEARN, SAMPLER, ONLY_ENGLISH), strict=True):
        entry = texts[kind]
        named = [
            one["name"] for part in ("inputs", "outputs") for one in entry[part].values() if "name" in one
        ]
        grown = {entry["inputs"][name]["name"] for name in ("photos", "faces") if name in entry["inputs"]}
        assert {entry["display_name"], *named} - grown <= {*shown}
    inputs = texts[LEARN]["inputs"]
    assert tooltip(foreign, "model") == inputs["model"]["tooltip"]
    assert tooltip(foreign, "photos.photo_0") == inputs["photos"]["tooltip"]
    assert tooltip(foreign, "", 1) == texts[LEARN]["outputs"]["1"]["tooltip"]
    assert help_page(foreign, 1) == texts[SAMPLER]["display_name"]
    foreign.screenshot(CACHE / "screenshots" / f"words_{request.node.callspec.params['foreign']}.png")
    assert foreign.errors == []
    assert help_page(foreign, 2) == "Tiled Diffusion"
    assert found(foreign, "gfpgan")[0] == texts[SAMPLER]["display_name"]


def test_the_search_finds_the_sampler_by_the_words_that_people_use(canvas: Canvas) -> None:
    for words in ("codeformer", "old photo", "upscale face"):
        assert "Tiled SR Sampler" in found(canvas, words)[:3], words
