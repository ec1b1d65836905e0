"""Fixtures that give tests a real ComfyUI server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:  # unit tests run without the packages that a server's client needs
    from harness.client import ComfyClient
    from harness.host import ComfyServer

collect_ignore = ["comfy/inside"]  # runs in a process of its own, by comfy/test_inside.py


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
