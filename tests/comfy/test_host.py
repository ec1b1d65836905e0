"""The harness's server: it loads the pack, tells errors, and never outlives its owner."""

import os
import signal
import subprocess
import sys
import time
from io import BytesIO
from pathlib import Path

import pytest
import requests
from PIL import Image

from harness import ROOT
from harness.client import ComfyClient, ExecutionFailed, PromptRejected
from harness.console import HarnessError
from harness.host import PACK, ComfyServer

COPY = {
    "load": {"class_type": "LoadImage", "inputs": {"image": "red.png"}},
    "save": {"class_type": "SaveImage", "inputs": {"images": ["load", 0], "filename_prefix": "x"}},
}

OWNER = """
import sys
from harness.host import ComfyServer
with ComfyServer(threads=1) as server:
    print(server.process.pid, server.base, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def red(client: ComfyClient) -> Image.Image:
    """A red picture, uploaded as red.png."""
    image = Image.new("RGB", (48, 32), (255, 0, 0))
    encoded = BytesIO()
    image.save(encoded, "PNG")
    assert client.upload_image(encoded.getvalue(), "red.png") == "red.png"
    return image


def is_running(pid: int) -> bool:
    """Whether the process exists and is more than a dead child that nobody has waited for."""
    try:
        os.kill(pid, 0)
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def wait_for_end(pid: int, patience: float = 60.0) -> bool:
    deadline = time.monotonic() + patience
    while is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not is_running(pid)


def test_pack_is_linked_and_loads(server: ComfyServer, client: ComfyClient) -> None:
    assert (server.base / "custom_nodes" / PACK).resolve() == ROOT
    assert "IMPORT FAILED" not in server.log.read_text()
    modules = {schema["python_module"] for schema in client.object_info().values()}
    assert f"custom_nodes.{PACK}" in modules


def test_prompt_runs_once_then_from_cache(client: ComfyClient, red: Image.Image) -> None:
    first = client.run(COPY)
    assert first.ran == ["load", "save"]
    saved = Image.open(BytesIO(client.view(first.images("save")[0])))
    assert saved.tobytes() == red.tobytes()

    again = client.run(COPY)
    assert (again.ran, sorted(again.cached)) == ([], ["load", "save"])

    client.free()
    assert client.run(COPY).ran == ["load", "save"]


def test_invalid_prompt_names_node_and_input(client: ComfyClient) -> None:
    prompt = {"7": {"class_type": "SaveImage", "inputs": {"filename_prefix": "x"}}}
    with pytest.raises(PromptRejected, match=r"node 7 \(SaveImage\): .*missing: images") as caught:
        client.run(prompt)
    assert list(caught.value.node_errors) == ["7"]


def test_failing_node_is_named_and_next_prompt_runs(
    client: ComfyClient, server: ComfyServer, red: Image.Image
) -> None:
    (server.base / "input" / "broken.png").write_bytes(b"no picture")
    broken = {**COPY, "load": {"class_type": "LoadImage", "inputs": {"image": "broken.png"}}}
    with pytest.raises(ExecutionFailed, match=r"node load \(LoadImage\) failed") as caught:
        client.run(broken)
    assert caught.value.details["traceback"]
    assert client.run(COPY).ran == ["load", "save"]


def test_our_errors_are_shown_without_a_path(client: ComfyClient, server: ComfyServer) -> None:
    folder = server.base / "models" / "restorers"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "damaged.safetensors").write_bytes(b"no tensors")
    prompt = {
        "load": {"class_type": "LoadBaseRestorer", "inputs": {"checkpoint": "damaged.safetensors"}},
        "show": {"class_type": "PreviewAny", "inputs": {"source": ["load", 0]}},
    }
    with pytest.raises(ExecutionFailed, match=r"damaged\.safetensors") as caught:
        client.run(prompt)
    assert caught.value.details["exception_type"] in ("CheckpointError", "DamagedFile")


def test_stop_leaves_nothing() -> None:
    server = ComfyServer(threads=1)
    server.start()
    assert server.process is not None
    pid, base, url = server.process.pid, server.base, server.url
    assert requests.get(f"{url}/system_stats", timeout=30).ok
    server.stop()
    assert not is_running(pid)
    assert not base.exists()
    with pytest.raises(requests.ConnectionError):
        requests.get(f"{url}/system_stats", timeout=30)
    server.stop()


def test_failed_start_shows_the_log_and_leaves_nothing() -> None:
    server = ComfyServer(arguments=["--no-such-option"])
    with pytest.raises(HarnessError, match=r"status 2 .*\n(.*\n)*.*--no-such-option"):
        server.start()
    assert server.process is None
    with pytest.raises(HarnessError, match="stopped already"):
        server.base.exists()


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGINT], ids=["killed", "interrupted"])
def test_server_ends_with_its_owner(sign: signal.Signals) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with owner:
        assert owner.stdout is not None
        pid, base = owner.stdout.readline().split()
        assert is_running(int(pid))
        owner.send_signal(sign)
        assert wait_for_end(int(pid))
        owner.wait()
    # Nobody is left to tidy up after SIGKILL.
    assert Path(base).exists() == (sign == signal.SIGKILL)
    if sign == signal.SIGKILL:
        subprocess.run(["rm", "-r", base], check=True)
