"""ComfyUI's own server, with the project as its only pack, by nothing but the standard library."""

from __future__ import annotations

import importlib.util
import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import torch

from .options import PROJECT
from .session import Session

STUBS = Path(__file__).resolve().parent / "stubs"
FOLDERS = ("custom_nodes", "input", "output", "models/restorers", "models/identity_adapters", "temp", "user")


class Server:
    """Starts at once and gets ready in the background."""

    def __init__(self, session: Session) -> None:
        self.session, options = session, session.options
        self.base = options.work / "host"
        shutil.rmtree(self.base, ignore_errors=True)
        for name in FOLDERS:
            (self.base / name).mkdir(parents=True)
        (self.base / "custom_nodes" / "pfstorer").symlink_to(PROJECT, target_is_directory=True)
        front = options.work / "front"
        front.mkdir(exist_ok=True)
        (front / "index.html").write_text("<html></html>")
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        command = [sys.executable, str(options.comfy / "main.py"), "--port", str(port)]
        command += ["--base-directory", str(self.base), "--front-end-root", str(front)]
        command += ["--disable-all-custom-nodes", "--whitelist-custom-nodes", "pfstorer"]
        command += ["--disable-api-nodes", "--disable-auto-launch", "--database-url", "sqlite:///:memory:"]
        command += [] if session.cuda else ["--cpu"]
        command += shlex.split(options.host_arguments)
        paths = [str(options.site)]
        if importlib.util.find_spec("av") is None:
            paths.append(str(STUBS))
            without_av(options.comfy / "nodes.py", options.work)
        paths += filter(None, [os.environ.get("PYTHONPATH")])
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
        self.began = time.time()
        self.log = options.work / "host.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, cwd=self.base, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        session.children.append(self.process)
        self.opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        self.ready_s = 0.0
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while not self.ready_s and self.process.poll() is None:
            try:
                self.ask("/system_stats", timeout=2)
                self.ready_s = time.time() - self.began
            except (OSError, ValueError, RuntimeError):
                time.sleep(0.1)

    def ask(self, path: str, body: Any = None, timeout: float = 60) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})
        try:
            with self.opener.open(request, timeout=timeout) as answer:
                return json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:
            raise RuntimeError(f"{path}: {error.code} {error.read()[:1500]!r}") from None

    def wait(self) -> None:
        while not self.ready_s:
            if self.process.poll() is not None:
                tail = self.log.read_text(errors="replace")[-3000:]
                raise RuntimeError(f"the host ended with {self.process.returncode}:\n{tail}")
            time.sleep(0.05)

    def run(self, key: str, graph: dict[str, Any]) -> dict[str, Any]:
        """Queue a graph and follow it to its end; the row of the report."""
        before = free_gb(self.session)
        lowest, begun = before, time.time()
        number = self.ask("/prompt", {"prompt": graph})["prompt_id"]
        while not (record := self.ask(f"/history/{number}").get(number)):
            if self.process.poll() is not None:
                raise RuntimeError(f"the host ended with {self.process.returncode}")
            lowest = min(lowest, free_gb(self.session))
            time.sleep(0.1)  # more often would cost the host's own steps
        row: dict[str, Any] = {"s": time.time() - begun, "status": record["status"]["status_str"]}
        times = [given["timestamp"] for _, given in record["status"]["messages"] if "timestamp" in given]
        if times:
            row["s"] = (max(times) - min(times)) / 1000
        if self.session.cuda:
            after = free_gb(self.session)
            lowest = min(lowest, after)
            row["device_free_gb"] = {"before": before, "lowest_seen": lowest, "after": after}
        for name, message in record["status"]["messages"]:
            if name == "execution_error":
                kept = ("node_type", "exception_type", "exception_message")
                row["error"] = {k: message.get(k) for k in kept}
                row["error"]["traceback"] = "".join(message.get("traceback", []))[-1800:]
        shown = [i for output in record.get("outputs", {}).values() for i in output.get("images", [])]
        row["pictures"] = [look(self.base / i["type"] / i["subfolder"] / i["filename"]) for i in shown]
        stats = self.ask("/system_stats")["devices"]
        row["devices"] = [{k: v / 1e9 for k, v in d.items() if "vram" in k} for d in stats]
        self.session.put("F", key, row)
        return row


def without_av(nodes: Path, work: Path) -> None:
    """LoadImage by Pillow, its own second way, since PyAV is too large to carry (stubs/av).

    Raises:
        RuntimeError: these are not the check's own copy of the sources.
    """
    if not nodes.resolve().is_relative_to(work.resolve()):
        raise RuntimeError(f"PyAV is missing, and without it {nodes} would be changed: copy it to {work}.")
    text = nodes.read_text()
    first = "components = InputImpl.VideoFromFile(image_path).get_components()"
    assert "components = None" in text or text.count(first) == 1
    text = text.replace(first, "components = None")
    nodes.write_text(text.replace("if components.images.shape[0] > 0:", "if components is not None:"))


def free_gb(session: Session) -> float:
    return torch.cuda.mem_get_info()[0] / 1e9 if session.cuda else 0.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def look(path: Path) -> list[Any]:
    """Shape, mean and deviation of a picture."""
    import numpy as np
    from PIL import Image

    pixels = np.asarray(Image.open(path)).astype(float)
    return [list(pixels.shape), float(pixels.mean()), float(pixels.std())]
