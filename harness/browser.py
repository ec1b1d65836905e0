"""ComfyUI's canvas in a headless Chromium."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, sync_playwright

from .browser_binary import find_chromium
from .client import ComfyClient, OutOfTime, rejection
from .console import HarnessError

FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
READY = """() => window.app?.graph?._nodes.length
    && Object.keys(LiteGraph.registered_node_types).length > 100"""
"""The host's own first graph is there: else it comes later, in place of a workflow that was opened."""

LOAD = """async (workflow) => {
    await window.app.loadGraphData(workflow);
    await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
}"""

# Combo widgets hold a list, or a function that returns it.
INSPECT = """() => {
    const missing = [], invalid = [];
    for (const node of window.app.graph._nodes) {
        const known = node.type in LiteGraph.registered_node_types;
        if (!known && !node.isSubgraphNode?.()) missing.push(node.type);
        for (const widget of node.widgets ?? []) {
            let values = widget.options?.values;
            if (typeof values === "function") values = values(widget, node);
            if (widget.type === "combo" && Array.isArray(values) && !values.includes(widget.value))
                invalid.push(`${node.type}.${widget.name} = ${widget.value}`);
            if (typeof widget.value === "number" && Number.isNaN(widget.value))
                invalid.push(`${node.type}.${widget.name} = NaN`);
        }
    }
    return {nodes: window.app.graph._nodes.length, missing: [...new Set(missing)], invalid};
}"""

# Widgets named seed get a companion that changes them after each run.
PIN_SEEDS = """() => {
    for (const node of window.app.graph._nodes)
        for (const widget of node.widgets ?? [])
            if (widget.name === "control_after_generate") widget.value = "fixed";
}"""


AT_FIRST = {"Comfy.TutorialCompleted": True, "Comfy.VueNodes.Enabled": False}
"""Else a dialog covers the canvas; and the classic view of nodes."""


@dataclass(frozen=True)
class CanvasReport:
    """What the canvas thinks of the workflow that is open on it."""

    nodes: int
    missing: Sequence[str]
    """Node types that the server does not have."""
    invalid: Sequence[str]
    """"Node.widget = value" of choices that do not exist and of numbers that are none."""


@dataclass
class Canvas:
    """A page with ComfyUI's canvas; made by `open_canvas`."""

    page: Page
    url: str
    errors: list[str] = field(default_factory=list)
    """Errors on the browser's console and uncaught exceptions, since the last `load`."""
    external: list[str] = field(default_factory=list)
    """Addresses outside the server that the page asked for, since the last `load`."""

    def load(self, workflow: Mapping[str, Any]) -> CanvasReport:
        """Open a workflow (the canvas format, not the API format) and return what is wrong with it.

        `errors` and `external` start anew: what was there earlier is about another workflow.
        """
        self.errors.clear()
        self.external.clear()
        self.page.evaluate(LOAD, workflow)
        self.page.evaluate(PIN_SEEDS)
        return CanvasReport(**self.page.evaluate(INSPECT))

    def refresh(self) -> None:
        """Ask the server anew which files there are to choose from."""
        self.page.evaluate("() => window.app.refreshComboInNodes()")

    def graph_to_prompt(self) -> dict[str, Any]:
        """The API-format prompt that the canvas would queue."""
        return self.page.evaluate("async () => (await window.app.graphToPrompt()).output")

    def queue(self, timeout: float = 600.0) -> dict[str, Any]:
        """Queue the open workflow as the Run button does and return its history record.

        Raises:
            PromptRejected: the server found it invalid.
            OutOfTime: it did not end within `timeout` seconds.
        """
        with self.page.expect_response(lambda answer: answer.url.endswith("/prompt")) as answer:
            self.page.evaluate("async () => { await window.app.queuePrompt(0).catch(() => {}); }")
        reply = answer.value.json()
        if not answer.value.ok or reply.get("node_errors"):
            raise rejection(reply)
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            with ComfyClient(self.url) as client:
                record = client.history(reply["prompt_id"])
            if record:
                return record
            self.page.wait_for_timeout(250)
        raise OutOfTime(f"the workflow did not end within {timeout:.0f} s")

    def fit(self) -> None:
        """Bring the whole workflow into view."""
        self.page.evaluate("() => window.app.extensionManager.command.execute('Comfy.Canvas.FitView')")
        self.page.wait_for_timeout(500)

    def screenshot(self, path: Path) -> None:
        """Write what the page shows to a PNG."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=path)


@contextmanager
def open_canvas(
    url: str,
    width: int = 1600,
    height: int = 1000,
    timeout: float = 120.0,
    settings: Mapping[str, Any] | None = None,
) -> Iterator[Canvas]:
    """Open the canvas of the server at `url` and wait until it is ready for workflows.

    `settings` are the frontend's, on top of `AT_FIRST`; the server keeps them.

    Raises:
        HarnessError: there is no browser.
    """
    executable = find_chromium()
    if executable is None:
        raise HarnessError("no Chromium: run `make setup` as root, or set CHROMIUM to a browser")
    wanted = {**AT_FIRST, **(settings or {})}
    requests.post(f"{url}/api/settings", json=wanted, timeout=30).raise_for_status()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, headless=True, args=list(FLAGS))
        try:
            yield open_page(browser, url, width, height, timeout)
        finally:
            browser.close()


def open_page(
    browser: Browser, url: str, width: int = 1600, height: int = 1000, timeout: float = 120.0
) -> Canvas:
    """A page of its own, ready for workflows; its settings are those of the server as it opens."""
    page = browser.new_page(viewport={"width": width, "height": height})
    canvas = Canvas(page, url)
    watch(canvas)
    page.set_default_timeout(timeout * 1000)
    page.goto(url)
    page.wait_for_function(READY)
    # ComfyUI's own first graph then looks for its models elsewhere: its errors are not ours.
    page.wait_for_load_state("networkidle")
    return canvas


def watch(canvas: Canvas) -> None:
    """Record the page's errors and its requests to other places."""

    def on_console(message: ConsoleMessage) -> None:
        if message.type == "error":
            canvas.errors.append(f"{message.text} ({message.location.get('url', '')})")

    def on_request(request: Request) -> None:
        if request.url.startswith("http") and not request.url.startswith(canvas.url):
            canvas.external.append(request.url)

    canvas.page.on("console", on_console)
    canvas.page.on("pageerror", lambda error: canvas.errors.append(str(error)))
    canvas.page.on("request", on_request)
