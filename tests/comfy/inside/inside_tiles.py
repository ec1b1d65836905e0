"""Tiled diffusion around the model call: what lies on the canvas is cropped; memory may be short."""

from pathlib import Path
from typing import Any

import comfy.model_management as mm
import pytest
import torch
from inside_model import SIZES, inputs, path, restorer  # noqa: F401 - fixtures
from pfstorer.nodes.host import build_model
from pfstorer.nodes.tiles import RestorationTiling, Tiles, with_tiles
from pfstorer.pfstorer_core.restorer import open_restorer
from torch import Tensor

SIZE = (16, 24)
TILES = (8, 4)


@pytest.fixture
def model(path: Path) -> Any:  # noqa: F811
    return build_model(open_restorer(path), torch.float32)


def run(model: Any, tiles: Tiles, control: dict | None = None) -> Tensor:
    x, _, context, lq = inputs(SIZE, 2)
    patched = with_tiles(model, tiles)
    options = {"wrappers": patched.wrappers, "cond_or_uncond": [0, 1]}
    t = torch.full((2,), 5.0)
    return patched.model.apply_model(x, t, None, context, control, options, lq_latent=lq)


def hints(scale: float = 1.0) -> dict[str, list[Tensor | None]]:
    """Residuals of a ControlNet that differ from place to place, where features are smallest."""
    residual = scale * torch.linspace(0, 1, SIZE[1] // 4).expand(
        2, 2 * SIZES.model_channels, SIZE[0] // 4, -1
    )
    return {"middle": [residual], "output": [residual, None]}


@torch.no_grad()
def test_a_control_net_works_on_tiles(model: Any) -> None:
    given = hints()
    plain, controlled = run(model, Tiles(*TILES, 1)), run(model, Tiles(*TILES, 1), given)
    assert (plain - controlled).abs().max() > 1e-3
    assert len(given["middle"]) == 1, "the host's own lists were used up"
    torch.testing.assert_close(run(model, Tiles(*TILES, 4), hints()), controlled, rtol=0, atol=1e-4)
    torch.testing.assert_close(run(model, Tiles(*TILES, 4), hints(0.0)), plain, rtol=0, atol=1e-4)


@torch.no_grad()
def test_a_tile_gets_its_own_part_of_the_hint(model: Any) -> None:
    half = {
        name: [None if f is None else torch.where(torch.arange(6) < 3, 0.0, f) for f in found]
        for name, found in hints().items()
    }
    change = (run(model, Tiles(8, 0, 2), half) - run(model, Tiles(8, 0, 2))).abs().amax((0, 1, 2))
    assert change[:8].max() == 0, "the first tile lies where the hint says nothing"
    assert change[16:].max() > 1e-3


class Memory:
    """An executor that has room for some rows at once."""

    def __init__(self, rows: int) -> None:
        self.rows, self.seen = rows, []

    def __call__(self, x: Tensor, *_: Any, **__: Any) -> Tensor:
        if len(x) > self.rows:
            raise mm.OOM_EXCEPTION("no room")
        self.seen.append(len(x))
        return 2 * x


def test_fewer_tiles_at_once_where_memory_is_short(caplog: pytest.LogCaptureFixture) -> None:
    x, tiles, memory = torch.randn(1, 4, *SIZE), Tiles(*TILES, 8), Memory(3)
    for _ in range(2):
        out = tiles.apply_model(memory, x, torch.ones(1))
        torch.testing.assert_close(out, 2 * x, rtol=0, atol=1e-5)
    assert max(memory.seen) == 2
    assert tiles.batch == 2, "it would run out of memory in every step again"
    assert "2 tiles of 8 x 8 latent cells at once" in caplog.text


def test_where_not_one_tile_fits_the_settings_are_named() -> None:
    with pytest.raises(mm.OOM_EXCEPTION, match="smaller tile, dtype bf16"):
        Tiles(*TILES, 4).apply_model(Memory(0), torch.randn(1, 4, *SIZE), torch.ones(1))


def test_the_same_is_said_where_the_canvas_is_one_tile_of_several_pictures() -> None:
    with pytest.raises(mm.OOM_EXCEPTION, match="of 3 pictures at once: give fewer of them, choose a smaller"):
        Tiles(64, 4, 4).apply_model(Memory(2), torch.randn(3, 4, *SIZE), torch.ones(3))


def test_the_latest_tiles_count(model: Any) -> None:
    first, last = Tiles(*TILES, 1), Tiles(12, 2, 3)
    patched = with_tiles(with_tiles(model, first), last)
    found = [wrapper.__self__ for kind in patched.wrappers.values() for ws in kind.values() for wrapper in ws]
    assert found == 3 * [last]


def test_the_host_is_asked_for_the_memory_of_tiles(model: Any) -> None:
    asked: list[float] = []

    def batch(inner: Any, *_: Any) -> None:
        asked.append(inner.memory_required([2, 4, 512, 512]))

    own = model.model.memory_required([2 * 3, 4, 8, 8])
    Tiles(*TILES, 3).calc_cond_batch(batch, model.model)
    assert asked == [own]
    assert model.model.memory_required([2, 4, 512, 512]) > 100 * own, "it stays as it was afterwards"


def test_other_errors_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> Tensor:
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        Tiles(*TILES, 4).apply_model(broken, torch.randn(1, 4, *SIZE), torch.ones(1))


def test_tiles_are_told_and_cancelling_stops_at_the_next() -> None:
    told: list[tuple[int, int]] = []

    def listen(done: int, of: int) -> None:
        told.append((done, of))
        if done >= 6:
            mm.interrupt_current_processing(True)

    x, memory = torch.randn(1, 4, *SIZE), Memory(8)
    with pytest.raises(mm.InterruptProcessingException):
        Tiles(*TILES, 2, listen).apply_model(memory, x, torch.ones(1))
    assert told == [(2, 15), (4, 15), (6, 15)]
    assert memory.seen == [2, 2, 2]


@torch.no_grad()
def test_the_node_tiles_by_the_restorer_s_size(model: Any) -> None:
    x, _, context, lq = inputs(SIZE, 2)
    options = {"cond_or_uncond": [0, 1]}

    def through(patched: Any) -> Tensor:
        given = options | {"wrappers": patched.wrappers}
        return patched.model.apply_model(x, torch.full((2,), 5.0), None, context, None, given, lq_latent=lq)

    (tiled,) = RestorationTiling.execute(model, 64, 32).result
    factor = model.model.latent_format.spacial_downscale_ratio
    expected = with_tiles(model, Tiles(64 // factor, 32 // factor, 4))
    torch.testing.assert_close(through(tiled), through(expected), rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="must be smaller than the tile"):
        RestorationTiling.execute(model, 64, 64)
