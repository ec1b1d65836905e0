"""A real ComfyUI server in a process and a folder of its own."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

import requests

from . import HOST, ROOT
from .client import ComfyClient
from .console import HarnessError
from .environment import site_environment

PACK = "pfstorer"
FOLDERS = ("custom_nodes", "input", "output", "models", "temp", "user")


class ComfyServer:
    """A ComfyUI server on a free loopback port, with this repository linked as its node pack.

    Use as a context manager. The server is stopped when the block ends, when this process exits
    and, on Linux, when this process or the thread that called `start` is killed.

    Args:
        threads: OMP_NUM_THREADS of the server; None leaves torch's default. 1 is much faster when a
            browser runs on the same few cores.
        cpu: run on the CPU even where there is a GPU.
        stock: hide every installed package that ComfyUI's own requirements do not reach.
        packs: folders of more node packs, for tests.
        arguments: more command-line arguments for the host's main.py.
        environment: more environment variables.
        base: the server's folder (custom_nodes, input, output, models, log); None makes a temporary
            one, deleted with the server.
        start_timeout: seconds until a server that does not answer counts as failed.

    Raises:
        HarnessError: from `start`, with the last lines of the log, if the server does not come up.
    """

    def __init__(
        self,
        *,
        threads: int | None = None,
        cpu: bool = True,
        stock: bool = False,
        packs: Sequence[Path] = (),
        arguments: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        base: Path | None = None,
        start_timeout: float = 180.0,
    ) -> None:
        self.threads = threads
        self.cpu = cpu
        self.stock = stock
        self.packs = {PACK: ROOT, **{pack.name: pack for pack in packs}}
        self.arguments = tuple(arguments)
        self.environment = dict(environment or {})
        self.start_timeout = start_timeout
        self.port = 0
        self.process: subprocess.Popen[bytes] | None = None
        self._own_base = base is None
        self._base = base

    def __enter__(self) -> ComfyServer:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def base(self) -> Path:
        if self._base is None:
            raise HarnessError("the server has no folder: it was not started, or is stopped already")
        return self._base

    @property
    def log(self) -> Path:
        return self.base / "server.log"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self) -> ComfyClient:
        """A new client of this server; close it, or use it as a context manager."""
        return ComfyClient(self.url)

    def log_tail(self, lines: int = 15) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def start(self) -> None:
        """Start the server and wait until it answers."""
        if not (HOST / "main.py").is_file():
            raise HarnessError("ComfyUI is not set up: run `make setup` first.")
        if self._base is None:
            self._base = Path(tempfile.mkdtemp(prefix="pfstorer-host-"))
        atexit.register(self.stop)
        try:
            self._prepare_folder()
            self._spawn()
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop the server's process group and delete its temporary folder; twice does no harm."""
        atexit.unregister(self.stop)
        if self.process is not None:
            stop_group(self.process)
            self.process = None
        if self._own_base and self._base is not None:
            shutil.rmtree(self._base, ignore_errors=True)
            self._base = None

    def _prepare_folder(self) -> None:
        for name in FOLDERS:
            (self.base / name).mkdir(parents=True, exist_ok=True)
        for name, folder in self.packs.items():
            link = self.base / "custom_nodes" / name
            if not link.exists():
                link.symlink_to(folder, target_is_directory=True)

    def _spawn(self) -> None:
        self.port = free_port()
        launcher = [sys.executable, str(ROOT / "harness" / "launch.py"), str(os.getpid())]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*launcher, *self._command()],
                env=self._environment(),
                cwd=self.base,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C goes to us, and we stop the group
            )

    def _command(self) -> list[str]:
        command = [sys.executable, str(HOST / "main.py"), "--port", str(self.port)]
        command += ["--base-directory", str(self.base)]
        command += ["--disable-all-custom-nodes", "--whitelist-custom-nodes", *self.packs]
        command += ["--disable-api-nodes", "--disable-auto-launch"]
        command += ["--database-url", "sqlite:///:memory:"]
        command += ["--use-pytorch-cross-attention", "--preview-method", "latent2rgb"]
        if self.cpu:
            command.append("--cpu")
        return [*command, *self.arguments]

    def _environment(self) -> dict[str, str]:
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", **site_environment(stock=self.stock)}
        if self.threads is not None:
            environment["OMP_NUM_THREADS"] = str(self.threads)
        return {**environment, **self.environment}

    def _wait_until_ready(self) -> None:
        assert self.process is not None
        deadline = time.monotonic() + self.start_timeout
        while time.monotonic() < deadline:
            status = self.process.poll()
            if status is not None:
                raise HarnessError(f"ComfyUI ended with status {status} while starting:\n{self.log_tail()}")
            if answers(self.url):
                return
            time.sleep(0.1)
        raise HarnessError(f"ComfyUI did not answer within {self.start_timeout:.0f} s:\n{self.log_tail()}")


def answers(url: str) -> bool:
    try:
        return requests.get(f"{url}/system_stats", timeout=5).ok
    except requests.RequestException:
        return False


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def stop_group(process: subprocess.Popen[bytes], patience: float = 5.0) -> None:
    """End a process that leads its own group, and what it started: SIGTERM, then SIGKILL."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, sign)
        except ProcessLookupError:
            break
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            continue
    process.wait()
