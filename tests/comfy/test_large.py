"""Large pictures in a real server: what they cost in memory, their progress, and cancelling them."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from PIL import Image
from skimage.data import astronaut

from harness import ROOT
from harness.client import ComfyClient, Event, ExecutionInterrupted
from harness.host import ComfyServer
from harness.picture import decode
from pfstorer_core import load_restorer
from pfstorer_core.imaging.tile_setting import TileSetting
from pfstorer_core.imaging.tiled_autoencoder import pixel_grid
from pfstorer_core.imaging.tiling import TileGrid

from .prompts import node, png

SOURCE = 512
"""Side of the bad picture."""
EMBEDDED = load_restorer(ROOT / "assets" / "pfstorer_tiny.safetensors")
FACTOR, TILE = EMBEDDED.downscale, EMBEDDED.header.image_size
OVERLAP = TILE // 8
PICTURES = 4
"""Pictures in fp32 that a result may be there as: enlarged, decoded, in the right colours, and weights or the
like. (At 10,240 pixels 4.0 were seen, the rest included.)"""
REST = 700e6
"""Bytes beyond them: the latents, a batch of tiles, the autoencoder's own tile."""
TIMEOUT = 7200
"""Seconds, for the largest."""


@pytest.fixture(scope="module")
def large_server() -> Iterator[ComfyServer]:
    """A server that has restored nothing yet."""
    with ComfyServer() as running:
        yield running


@pytest.fixture
def large(large_server: ComfyServer) -> Iterator[ComfyClient]:
    with large_server.client() as client:
        client.free()
        yield client


@dataclass
class Watch:
    """Highest resident memory of a process, until `stop`."""

    process: psutil.Process
    highest: int = 0
    _done: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        while not self._done.wait(0.02):
            self.highest = max(self.highest, self.process.memory_info().rss)

    def stop(self) -> None:
        self._done.set()
        self._thread.join()


def enlarge(client: ComfyClient, side: int, steps: int) -> dict[str, Any]:
    name = client.upload_image(png(astronaut()), "astronaut.png")
    return {
        "image": node("LoadImage", image=name),
        "restorer": node("LoadBaseRestorer", checkpoint="pfstorer_tiny.safetensors"),
        "sampler": node(
            "TiledSRSampler", model=["restorer", 0], vae=["restorer", 2], image=["image", 0],
            upscale=side / SOURCE, steps=steps, cfg=1.0, sampler_name="ddpm", scheduler="normal", seed=0,
            tile=TILE, overlap=OVERLAP, tile_batch=1, color_fix="wavelet",
        ),
        "save": node("SaveImage", images=["sampler", 0], filename_prefix="large"),
    }  # fmt: skip


def everything(side: int, steps: int) -> int:
    """Pieces of work that the bar counts."""
    setting = TileSetting(TILE, OVERLAP, TILE, FACTOR)
    pixels = len(pixel_grid(torch.empty(side, side, device="meta"), FACTOR, *setting.autoencoder))
    cells = len(TileGrid(side // FACTOR, side // FACTOR, *setting.diffusion))
    return 2 * pixels + steps * cells


@pytest.mark.timeout(TIMEOUT)
@pytest.mark.parametrize(
    ("side", "steps"), [(2048, 1), pytest.param(10_240, 4, marks=pytest.mark.full)], ids=["2048", "10240"]
)
def test_memory_is_the_picture_s_own_and_progress_moves_with_every_tile(
    large_server: ComfyServer, large: ComfyClient, side: int, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert large_server.process
    process = psutil.Process(large_server.process.pid)
    idle = process.memory_info().rss
    watch = Watch(process)

    def until_it_is_saved(event: Event) -> None:
        if event["type"] == "executing" and event["data"]["node"] == "save":
            watch.stop()

    execution = large.run(enlarge(large, side, steps), until_it_is_saved, timeout=TIMEOUT)
    assert watch.highest < idle + PICTURES * side**2 * 12 + REST
    work = everything(side, steps)
    assert {value for _, value, of in execution.progress if of == work} >= set(range(1, work + 1))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    result = decode(large.view(execution.images()[0]))
    assert result.size == (side, side)
    small = np.asarray(result.resize((SOURCE, SOURCE), Image.Resampling.BOX), float)
    assert np.abs(small - astronaut()).mean() < 8, "another picture than the one that went in"


@pytest.mark.timeout(TIMEOUT)
@pytest.mark.parametrize("side", [2048, pytest.param(10_240, marks=pytest.mark.full)], ids=["2048", "10240"])
def test_cancelling_takes_a_tile(large: ComfyClient, side: int) -> None:
    seen: list[int] = []
    work = everything(side, 4)
    enough = min(work // 4, 400)

    def cancel(event: Event) -> None:
        if event["type"] == "progress" and event["data"]["max"] == work:
            seen.append(event["data"]["value"])
            if len(seen) == enough:
                large.interrupt()

    with pytest.raises(ExecutionInterrupted):
        large.run(enlarge(large, side, 4), cancel, timeout=TIMEOUT)
    late = 20  # those whose news had been on their way, and the one that was under way
    assert enough <= max(seen) <= enough + late


def test_the_same_bytes_after_a_restart(large: ComfyClient) -> None:
    def restored(client: ComfyClient) -> bytes:
        prompt = enlarge(client, SOURCE, 2)
        execution = client.run(prompt)
        assert "sampler" in execution.ran
        return decode(client.view(execution.images()[0])).tobytes()

    with ComfyServer() as other, other.client() as client:
        assert restored(client) == restored(large)
