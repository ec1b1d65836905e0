"""What people read on the canvas in their language: names, tooltips, help; and what the search finds."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from playwright.sync_api import Locator, expect

from harness import CACHE, ROOT
from harness.browser import Canvas, open_page

LEARN, SAMPLER, TILING = "TrainIdentityAdapter", "TiledSRSampler", "RestorationTiling"
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
SEARCH = "() => window.app.extensionManager.command.execute('Workspace.SearchBox.Toggle')"


@pytest.fixture(params=["zh", "ja"])
def foreign(canvas: Canvas, request: pytest.FixtureRequest) -> Iterator[Canvas]:
    """Another page of the browser, in another language, with three nodes."""

    def speak(language: str) -> None:
        answer = requests.post(f"{canvas.url}/api/settings", json={"Comfy.Locale": language}, timeout=30)
        answer.raise_for_status()

    assert canvas.page.context.browser
    speak(request.param)
    try:
        opened = open_page(canvas.page.context.browser, canvas.url)
    finally:
        speak("en")
    kinds = enumerate((LEARN, SAMPLER, TILING))
    three = [{"id": n, "type": kind, "pos": [400 * n, 100], "size": [320, 420]} for n, kind in kinds]
    opened.load({"version": 0.4, "nodes": three, "links": [], "groups": []})
    opened.fit()
    yield opened
    opened.page.close()


@pytest.fixture
def texts(foreign: Canvas, request: pytest.FixtureRequest) -> Any:
    path = ROOT / "locales" / request.node.callspec.params["foreign"] / "nodeDefs.json"
    return json.loads(path.read_text(encoding="utf-8"))


def tooltip(canvas: Canvas, name: str, output: int = 0) -> Locator:
    """What the first node shows over a socket."""
    x, y = canvas.page.evaluate(PLACE, [name, output])
    canvas.page.mouse.move(x + 1, y + 300)
    canvas.page.mouse.move(x + 1, y)
    return canvas.page.locator(".node-tooltip")


def help_title(canvas: Canvas, number: int) -> Locator:
    """Of the page that the panel shows when the info button over a node is pressed."""
    canvas.page.evaluate("(n) => window.app.canvas.selectNode(window.app.graph._nodes[n])", number)
    canvas.page.get_by_test_id("info-button").click()
    return canvas.page.locator(".node-help-content h1")


def first_found(canvas: Canvas, words: str) -> Locator:
    """What the search box offers first."""
    box = canvas.page.locator("[role=dialog] input[aria-controls=results-list]")
    if not box.is_visible():
        canvas.page.evaluate(SEARCH)
    box.fill(words)
    return canvas.page.get_by_test_id("result-item").first


def reads(shown: Locator, text: str) -> None:
    expect(shown).to_contain_text(text, timeout=60_000)


def test_the_canvas_speaks_the_language(foreign: Canvas, texts: Any, request: pytest.FixtureRequest) -> None:
    for shown, kind in zip(foreign.page.evaluate(SHOWN), (LEARN, SAMPLER, TILING), strict=True):
        entry = texts[kind]
        named = [
            one["name"] for part in ("inputs", "outputs") for one in entry[part].values() if "name" in one
        ]
        grown = {entry["inputs"][name]["name"] for name in ("photos", "faces") if name in entry["inputs"]}
        assert {entry["display_name"], *named} - grown <= {*shown}
    inputs, outputs = texts[LEARN]["inputs"], texts[LEARN]["outputs"]
    reads(tooltip(foreign, "model"), inputs["model"]["tooltip"])
    reads(tooltip(foreign, "photos.photo_0"), inputs["photos"]["tooltip"])
    reads(tooltip(foreign, "", 1), outputs["1"]["tooltip"])
    reads(help_title(foreign, 1), texts[SAMPLER]["display_name"])
    foreign.screenshot(CACHE / "screenshots" / f"words_{request.node.callspec.params['foreign']}.png")
    assert foreign.errors == []
    reads(help_title(foreign, 2), texts[TILING]["display_name"])
    reads(first_found(foreign, "gfpgan"), texts[SAMPLER]["display_name"])


def test_the_search_finds_the_sampler_by_the_words_that_people_use(canvas: Canvas) -> None:
    for words in ("codeformer", "old photo", "upscale face"):
        reads(first_found(canvas, words), "Tiled SR Sampler")
    canvas.page.keyboard.press("Escape")
