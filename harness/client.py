"""A client of ComfyUI's HTTP and websocket API."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests
import websocket

from .console import HarnessError

Prompt = Mapping[str, Mapping[str, Any]]
"""A workflow in API format: node id -> {class_type, inputs}."""
Event = Mapping[str, Any]
"""A websocket message, {"type": ..., "data": {...}}; a preview frame's data is {"image": bytes}."""

PREVIEW_FRAME = 1
TEXT_FRAME = 3
"""The kind number that starts a binary message with a preview frame."""

TRIVIAL: Prompt = {"0": {"class_type": "PreviewAny", "inputs": {"source": "free"}}}
"""A prompt that does nothing."""


class ComfyError(HarnessError):
    """The server refused or failed a request; the message says which node and why."""


class PromptRejected(ComfyError):
    """The server found the prompt invalid; `node_errors` is its answer, by node id."""

    def __init__(self, message: str, node_errors: Mapping[str, Any]) -> None:
        super().__init__(message)
        self.node_errors = node_errors


class ExecutionFailed(ComfyError):
    """A node raised while the prompt ran; `details` is the server's message about it."""

    def __init__(self, details: Mapping[str, Any]) -> None:
        where = f"node {details.get('node_id')} ({details.get('node_type')})"
        message = str(details.get("exception_message", "")).strip()
        super().__init__(f"{where} failed: {details.get('exception_type')}: {message}")
        self.details = details


class ExecutionInterrupted(ComfyError):
    """The prompt was cancelled while it ran."""


class OutOfTime(ComfyError):
    """The prompt was still running when the caller's patience ended."""


@dataclass
class Execution:
    """What happened while one prompt ran."""

    prompt_id: str
    ran: list[str] = field(default_factory=list)
    """Ids of the nodes that were executed, in order."""
    cached: list[str] = field(default_factory=list)
    """Ids of the nodes whose result came from the cache."""
    outputs: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What output nodes showed, by node id, e.g. {"9": {"images": [...]}}."""
    progress: list[tuple[str, int, int]] = field(default_factory=list)
    """(node id, value, maximum) of every progress message."""
    previews: list[bytes] = field(default_factory=list)
    """Preview frames, each an encoded picture."""
    texts: list[tuple[str, str]] = field(default_factory=list)
    """(node id, text) of what nodes showed below their names, in order."""
    seconds: float = 0.0
    failure: ComfyError | None = None

    def images(self, node: str | None = None) -> list[dict[str, str]]:
        """References of all saved or previewed images, of one node or of all."""
        chosen = self.outputs.values() if node is None else [self.outputs.get(node, {})]
        return [image for output in chosen for image in output.get("images", [])]


class ComfyClient:
    """A client with a session of its own, so that it gets the messages of its own prompts.

    Args:
        url: the server, e.g. "http://127.0.0.1:8188".
        timeout: seconds that one request may take.
    """

    def __init__(self, url: str, timeout: float = 60.0) -> None:
        self.url = url.rstrip("/")
        self.timeout = timeout
        self.client_id = uuid.uuid4().hex
        self._http = requests.Session()
        self._socket: websocket.WebSocket | None = None

    def __enter__(self) -> ComfyClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()
        self._disconnect()

    # --- single requests ---

    def get(self, path: str, **parameters: str) -> Any:
        """The JSON answer of GET `path`."""
        return self._request("GET", path, params=parameters).json()

    def post(self, path: str, body: Any) -> requests.Response:
        """POST a JSON body."""
        return self._request("POST", path, json=body)

    def object_info(self, node: str | None = None) -> dict[str, Any]:
        """The schemas of all nodes, or {id: schema} of one ({} if the server does not know it)."""
        return self.get("/object_info" if node is None else f"/object_info/{node}")

    def upload_image(self, image: Path | bytes, name: str | None = None) -> str:
        """Put a picture into the server's input folder; returns the name that LoadImage takes."""
        content = image if isinstance(image, bytes) else image.read_bytes()
        name = name or (image.name if isinstance(image, Path) else f"{uuid.uuid4().hex}.png")
        files = {"image": (name, content)}
        answer = self._request("POST", "/upload/image", files=files, data={"overwrite": "true"})
        return answer.json()["name"]

    def queue(self, prompt: Prompt) -> str:
        """Queue a prompt; returns its id.

        Raises:
            PromptRejected: with the server's complaint about each node.
        """
        body = {"prompt": prompt, "client_id": self.client_id}
        answer = self._send("POST", "/prompt", json=body)
        if answer.status_code == 400:
            raise rejection(answer.json())
        answer.raise_for_status()
        if answer.json().get("node_errors"):  # queued, but without some of its outputs
            raise rejection(answer.json())
        return answer.json()["prompt_id"]

    def history(self, prompt_id: str) -> dict[str, Any]:
        """The server's record of a finished prompt ({} while it is waiting or running)."""
        return self.get(f"/history/{prompt_id}").get(prompt_id, {})

    def view(self, image: Mapping[str, str]) -> bytes:
        """The file behind an image reference {filename, subfolder, type} of an output."""
        return self._request("GET", "/view", params=dict(image)).content

    def free(self) -> None:
        """Drop the server's cached results and unload its models.

        Returns when that is done: the server acts on the request when it is idle or after the next
        prompt, whichever it notices first, so one is run for it.
        """
        self.post("/free", {"unload_models": True, "free_memory": True})
        self.run(TRIVIAL)

    def interrupt(self) -> None:
        """Cancel the prompt that is running."""
        self.post("/interrupt", {})

    # --- a whole prompt ---

    def run(
        self,
        prompt: Prompt,
        on_event: Callable[[Event], None] | None = None,
        timeout: float = 600.0,
    ) -> Execution:
        """Queue a prompt and follow it to its end.

        Args:
            prompt: the workflow in API format.
            on_event: called with every message about this prompt.
            timeout: seconds for the whole prompt, waiting in the queue included.

        Raises:
            PromptRejected, ExecutionFailed, ExecutionInterrupted: see there.
            OutOfTime: it was still running; it is interrupted first.
            ComfyError: the server went away.
        """
        self._connect()
        started = time.monotonic()
        execution = Execution(self.queue(prompt))
        try:
            for event in self._events(execution.prompt_id, started + timeout):
                if on_event is not None:
                    on_event(event)
                note(execution, event)
        except BaseException:
            with suppress(requests.RequestException, ComfyError):
                self.interrupt()
            self._disconnect()  # or the next prompt would read what is left of this one
            raise
        execution.seconds = time.monotonic() - started
        if execution.failure is not None:
            raise execution.failure
        return execution

    def _connect(self) -> websocket.WebSocket:
        if self._socket is None or not self._socket.connected:
            address = self.url.replace("http", "ws", 1)
            try:
                self._socket = websocket.create_connection(
                    f"{address}/ws?clientId={self.client_id}", timeout=self.timeout
                )
            except (websocket.WebSocketException, OSError) as error:
                raise ComfyError(f"the server does not answer: {error}") from None
        return self._socket

    def _disconnect(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _events(self, prompt_id: str, deadline: float) -> Iterator[Event]:
        """The messages about one prompt, until the server says that it is done with it."""
        socket = self._connect()
        while True:
            socket.settimeout(max(deadline - time.monotonic(), 0.001))
            try:
                message = socket.recv()
            except websocket.WebSocketTimeoutException:
                raise OutOfTime(f"prompt {prompt_id} did not end in time") from None
            except (websocket.WebSocketException, OSError) as error:
                raise ComfyError(f"the server went away: {error}") from None
            if not message:
                raise ComfyError("the server closed the connection")
            if isinstance(message, bytes):
                kind, number = (int.from_bytes(word, "big") for word in (message[:4], message[4:8]))
                if kind == PREVIEW_FRAME:  # the number is the image format
                    yield {"type": "preview", "data": {"image": message[8:]}}
                if kind == TEXT_FRAME:  # the number is the length of the node's id
                    node, text = (part.decode() for part in (message[8 : 8 + number], message[8 + number :]))
                    yield {"type": "text", "data": {"node": node, "text": text}}
                continue
            event = json.loads(message)
            data = event.get("data", {})
            if data.get("prompt_id") != prompt_id:
                continue
            yield event
            if event["type"] == "executing" and data["node"] is None:
                return

    def _request(self, method: str, path: str, **options: Any) -> requests.Response:
        answer = self._send(method, path, **options)
        if not answer.ok:
            raise ComfyError(f"{method} {path}: {answer.status_code} {answer.text[:300]}")
        return answer

    def _send(self, method: str, path: str, **options: Any) -> requests.Response:
        try:
            return self._http.request(method, self.url + path, timeout=self.timeout, **options)
        except requests.RequestException as error:
            raise ComfyError(f"{method} {path}: the server does not answer ({error})") from None


def note(execution: Execution, event: Event) -> None:
    """Add one message to the record."""
    data = event["data"]
    match event["type"]:
        case "execution_cached":
            execution.cached += data["nodes"]
        case "executing" if data["node"] is not None:
            execution.ran.append(data["node"])
        case "executed":
            execution.outputs[data["node"]] = data["output"] or {}
        case "progress":
            execution.progress.append((data["node"], data["value"], data["max"]))
        case "preview":
            execution.previews.append(data["image"])
        case "text":
            execution.texts.append((data["node"], data["text"]))
        case "execution_error":
            execution.failure = ExecutionFailed(data)
        case "execution_interrupted":
            execution.failure = ExecutionInterrupted(f"interrupted in node {data.get('node_id')}")


def rejection(answer: Mapping[str, Any]) -> PromptRejected:
    """The server's answer to an invalid prompt as one readable error."""
    node_errors = answer.get("node_errors") or {}
    lines = [
        f"node {node} ({report.get('class_type')}): {error['message']}: {error['details']}"
        for node, report in node_errors.items()
        for error in report.get("errors", [])
    ]
    error = answer.get("error") or {"message": "Some outputs failed validation and are left out"}
    head = str(error["message"])
    if not lines and error.get("details"):
        head += f" ({error['details']})"
    return PromptRejected("\n".join([head, *lines]), node_errors)
