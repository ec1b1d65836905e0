"""Tiled diffusion around the model call: what lies on the canvas is cropped; memory may be short."""

from pathlib import Path
from typing import Any

import comfy.model_management as mm
import comfy.sample
import comfy.utils
import pytest
import torch
from inside_model import SIZES, inputs, path, restorer  # noqa: F401 - fixtures
from pfstorer.nodes.host.model import build_model
from pfstorer.nodes.host.tiles import Tiles, with_tiles
from pfstorer.nodes.host.vae import build_vae
from pfstorer.nodes.sample import TiledSRSampler
from pfstorer.nodes.tiles import RestorationTiling
from pfstorer.pfstorer_core.restorers.files import open_restorer
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
    """The model itself stays as it is meanwhile: somebody else may sample from it without tiles."""
    shared = model.model
    whole, tile = (shared.memory_required(shape) for shape in ([2, 4, 512, 512], [2 * 3, 4, 8, 8]))
    asked: list[Any] = []

    def batch(inner: Any, *_: Any) -> None:
        assert isinstance(inner, type(shared))
        assert inner.diffusion_model is shared.diffusion_model
        asked.extend(each.memory_required([2, 4, 512, 512]) for each in (inner, shared))

    Tiles(*TILES, 3).calc_cond_batch(batch, shared)
    assert asked == [tile, whole]
    assert whole > 100 * tile


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


class Count:
    """Rows that the U-Net gets."""

    def __init__(self, model: Any) -> None:
        self.rows = 0
        self.handle = model.model.diffusion_model.register_forward_pre_hook(self)

    def __call__(self, _: Any, given: Any) -> None:
        self.rows += len(given[0])


@pytest.mark.parametrize(
    ("fixed_noise", "rows", "sampler"), [(False, 3 * 4, "ddpm"), (True, 4 + 0 + 2, "euler")]
)
def test_what_lies_outside_of_the_mask_is_not_sampled(
    model: Any, path: Path, fixed_noise: bool, rows: int, sampler: str,  # noqa: F811
) -> None:  # fmt: skip
    """Three frames of 4 x 4 tiles: a corner of 2 x 2 tiles, nothing, and a corner of which two lie in it."""
    vae, frames = build_vae(open_restorer(path)), torch.rand(3, 256, 256, 3)
    masks = torch.zeros(3, 128, 128)
    masks[0, 26:30, 26:30] = 1  # with its margin in four tiles
    masks[2, 2:6, 26:30] = 1
    made = {"upscale": 1.0, "steps": 2, "cfg": 1.0, "sampler_name": sampler, "scheduler": "normal", "seed": 0,
            "tile": 64, "overlap": 0, "fixed_noise": fixed_noise, "tile_batch": 2}  # fmt: skip
    counted = Count(model)
    bars: list[tuple[int, int]] = []
    comfy.utils.set_progress_bar_global_hook(lambda done, of, *_, **__: bars.append((done, of)))
    try:
        image, latent, mask = TiledSRSampler.execute(model, vae, frames, **made, mask=masks).args
    finally:
        comfy.utils.set_progress_bar_global_hook(None)
    assert counted.rows == 2 * rows
    assert bars[-1][0] == bars[-1][1]
    every = [value for value, _ in bars]
    assert every == sorted(every)
    counted.rows = 0
    _, latents, _ = TiledSRSampler.execute(model, vae, frames, **made).args
    assert counted.rows == 2 * 3 * 16
    counted.handle.remove()
    inside = latent["samples"][0, :, :32, :32], latents["samples"][0, :, :32, :32]
    torch.testing.assert_close(*inside, rtol=0, atol=1e-4)
    outside = mask == 0
    assert torch.equal(image[outside], frames[outside]), "outside it is the picture itself"
    changed = (image - frames).abs().amax(-1)
    assert changed[0, 52:60, 52:60].max() > 0.01
    assert changed[1].max() == 0


def test_without_an_lq_latent_nothing_is_predicted_beside_the_tiles() -> None:
    wanted = torch.zeros(SIZE, dtype=torch.bool)
    wanted[0, 0] = True
    tiles, memory, x = Tiles(8, 4, 8, wanted=wanted), Memory(8), torch.randn(1, 4, *SIZE)
    out = tiles.apply_model(memory, x, torch.ones(1))
    assert memory.seen == [1]
    torch.testing.assert_close(out[..., :8, :8], 2 * x[..., :8, :8], rtol=0, atol=1e-5)
    assert out[..., 8:].abs().max() == out[..., 8:, :].abs().max() == 0
    part = tiles.apply_model(memory, x[..., :12], torch.ones(1))
    torch.testing.assert_close(part, 2 * x[..., :12], rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 16, 5, 8, 8), (1, 64, 100)])
def test_latents_that_are_no_pictures_are_refused_in_a_sentence(model: Any, shape: tuple[int, ...]) -> None:
    said = f"RestorerModel have {len(shape)} dimensions.*Tiles are for pictures"
    tiled = with_tiles(model, Tiles(*TILES, 1))
    with pytest.raises(ValueError, match=said):
        comfy.sample.sample(tiled, torch.zeros(shape), 1, 1.0, "euler", "normal", [], [], torch.zeros(shape))
    model.model.latent_format.latent_dimensions = len(shape) - 2
    with pytest.raises(ValueError, match=said):
        RestorationTiling.execute(model, 0, -1)
