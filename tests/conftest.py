"""Fixtures that give tests a real ComfyUI server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:  # unit tests run without the packages that a server's client needs
    from harness.client import ComfyClient
    from harness.host import ComfyServer

collect_ignore = ["comfy/inside"]  # runs in a process of its own, by comfy/test_inside.py

ON_THE_SERVER = ("tests/browser/", "tests/comfy/")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Of several processes, one takes all tests on the server, which share its files; of the others each
    module stays whole, for its fixtures."""
    from xdist.scheduler import LoadScopeScheduling

    class ServerAndModules(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "server" if nodeid.startswith(ON_THE_SERVER) else nodeid.split("::")[0]

    return ServerAndModules(config, log)


@pytest.fixture(scope="session")
def server() -> Iterator[ComfyServer]:
    """One server for the whole run, with a stock ComfyUI's packages; tests share its files and cache."""
    from harness.host import ComfyServer

    with ComfyServer(threads=1, stock=True) as running:
        yield running


@pytest.fixture
def client(server: ComfyServer) -> Iterator[ComfyClient]:
    """A client of the shared server, whose cached results were dropped."""
    with server.client() as connected:
        connected.free()
        yield connected
