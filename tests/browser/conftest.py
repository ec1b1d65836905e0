"""A real canvas for tests."""

from collections.abc import Iterator

import pytest

from harness.browser import Canvas, open_canvas
from harness.host import ComfyServer


@pytest.fixture(scope="module")
def canvas(server: ComfyServer) -> Iterator[Canvas]:
    """One page on the shared server; load a workflow before anything else."""
    with open_canvas(server.url) as opened:
        yield opened
