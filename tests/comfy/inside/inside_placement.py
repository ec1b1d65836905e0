"""What a latent shows of its pictures: the right frame, the right part; and the masks that lie on them."""

# ruff: noqa: F811 - fixtures are imported

from pathlib import Path
from typing import Any

import comfy.sample
import pytest
import torch
from inside_identity import (
    adapter,  # noqa: F401 - a fixture
    applied,
)
from inside_model import HEADER, path, restorer  # noqa: F401 - fixtures
from pfstorer.nodes.condition import RestorationConditioning
from pfstorer.nodes.host.conditioning import prompts_for, with_lq
from pfstorer.nodes.host.model import build_model
from pfstorer.nodes.host.tiles import Tiles, with_tiles
from pfstorer.nodes.host.vae import build_vae
from pfstorer.nodes.sample import TiledSRSampler
from pfstorer.pfstorer_core.restorers.files import open_restorer
from torch import Tensor

from nodes import ConditioningSetArea, LatentCrop, LatentUpscaleBy, RepeatLatentBatch

FRAMES = torch.randn(3, 4, 16, 24, generator=torch.Generator().manual_seed(1))
NOISE = torch.randn(1, 4, 64, 64, generator=torch.Generator().manual_seed(2))


@pytest.fixture
def model(path: Path) -> Any:
    return build_model(open_restorer(path), torch.float32)


def sampled(model: Any, lq: Tensor, latent: Tensor, cfg: float = 1.0, area: Any = None) -> Tensor:
    """By the host, every picture with the same noise."""
    conditions = with_lq(prompts_for(model.model, None, None), lq)
    if area:
        conditions[0] = ConditioningSetArea().append(conditions[0], *area, 1.0)[0]
    noise = NOISE[..., : latent.shape[-2], : latent.shape[-1]].expand(len(latent), -1, -1, -1)
    return comfy.sample.sample(
        model, noise, 1, cfg, "euler", "normal", *conditions, latent, seed=0, disable_pbar=True
    )


@pytest.mark.parametrize("rows", [[0], [1], [2], [0, 1], [2, 1], [2, 0, 1]])
@pytest.mark.parametrize("cfg", [1.0, 2.0])
def test_chosen_frames_are_restored_as_themselves(model: Any, rows: list[int], cfg: float) -> None:
    """As RebatchLatents and LatentFromBatch choose them."""
    together = sampled(model, FRAMES, FRAMES[rows], cfg)
    for row, one in zip(rows, together, strict=True):
        alone = sampled(model, FRAMES[row : row + 1], FRAMES[row : row + 1], cfg)[0]
        torch.testing.assert_close(one, alone, rtol=0, atol=1e-4)


@pytest.mark.parametrize("shape", [(1, 16, 24), (2, 16, 24), (4, 16, 24)])
def test_frames_that_cannot_be_told_are_refused(model: Any, shape: tuple[int, int, int]) -> None:
    rows, *size = shape
    for latent in (torch.randn(rows, 4, *size), torch.zeros(rows, 4, *size)):
        with pytest.raises(
            ValueError, match=rf"LATENT holds {rows} pictures.*conditioning 3.*Rebatch Images"
        ):
            sampled(model, FRAMES, latent)


def test_frames_are_repeated_and_a_picture_is_everybody_s(model: Any) -> None:
    repeated = RepeatLatentBatch().repeat({"samples": FRAMES}, 2)[0]["samples"]
    again = sampled(model, FRAMES, repeated)
    torch.testing.assert_close(again[:3], sampled(model, FRAMES, FRAMES), rtol=0, atol=1e-4)
    torch.testing.assert_close(again[:3], again[3:], rtol=0, atol=1e-4)
    one = sampled(model, FRAMES[:1], torch.randn(4, 4, 16, 24))
    assert len(one) == 4


@pytest.mark.parametrize("crop", [(64, 64, 0, 0), (96, 64, 40, 56), (128, 64, 64, 64), (192, 64, 0, 24)])
def test_a_crop_is_restored_from_its_part_of_the_picture(model: Any, crop: tuple[int, ...]) -> None:
    latent = LatentCrop().crop({"samples": FRAMES}, *crop)[0]["samples"]
    part = sampled(model, FRAMES, latent)
    torch.testing.assert_close(part, sampled(model, latent, latent), rtol=0, atol=1e-4)


@pytest.mark.parametrize("size", [(8, 12), (16, 16), (12, 24), (24, 24), (16, 23), (17, 24), (30, 48)])
def test_a_part_that_cannot_be_told_is_refused(model: Any, size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=rf"{size[1]} x {size[0]} cells.*24 x 16.*only be enlarged"):
        sampled(model, FRAMES, torch.randn(3, 4, *size))


@pytest.mark.parametrize("factor", [1.1, 1.5, 2.0])
def test_an_enlarged_latent_gets_the_whole_picture(model: Any, factor: float) -> None:
    latent = LatentUpscaleBy().upscale({"samples": FRAMES}, "bicubic", factor)[0]["samples"]
    larger = torch.nn.functional.interpolate(FRAMES, latent.shape[-2:], mode="bilinear")
    expected = sampled(model, larger, latent)
    torch.testing.assert_close(sampled(model, FRAMES, latent), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("size", [(16, 24), (8, 12), (32, 48), (25, 37), (11, 16)])
def test_an_empty_latent_may_have_any_size_of_the_aspect(model: Any, size: tuple[int, int]) -> None:
    assert sampled(model, FRAMES, torch.zeros(3, 4, *size)).shape[-2:] == size
    with pytest.raises(ValueError, match="only be enlarged"):
        sampled(model, FRAMES, torch.zeros(3, 4, size[0], size[1] + 3))


def test_area_prompts_crop_it_as_before(model: Any) -> None:
    whole = sampled(model, FRAMES, FRAMES)
    part = sampled(model, FRAMES, FRAMES, area=(128, 128, 64, 0))  # in pixels: 16 x 16 cells from x = 8
    alone = sampled(model, FRAMES[..., 8:], FRAMES[..., 8:])
    assert not torch.equal(part, whole)
    assert part.shape == whole.shape
    assert alone.shape[-1] == 16


def test_what_others_cut_without_the_picture_is_refused(model: Any) -> None:
    x, t = torch.randn(2, 4, 8, 8), torch.ones(2)
    for name in ("lq_latent", "identity_area_0"):
        with pytest.raises(ValueError, match=r"2 x \[8, 8\] latent cells.*Tiled Diffusion"):
            model.model.apply_model(x, t, None, None, None, {}, **{name: torch.randn(2, 4, 16, 16)})
        with pytest.raises(ValueError, match="cuts the latent"):
            model.model.apply_model(x, t, None, None, None, {}, **{name: torch.randn(3, 4, 8, 8)})


def left_and_right(height: int = 32, width: int = 48) -> Tensor:
    """A mask for each of three frames: left, right, nowhere."""
    masks = torch.zeros(3, height, width)
    masks[0, :, : width // 3], masks[1, :, -(width // 3) :] = 1, 1
    return masks


def changes(base: Tensor, other: Tensor) -> list[list[bool]]:
    """Whether left, middle and right of each frame changed."""
    thirds = (other - base).abs().amax(1).chunk(3, -1)
    return [[bool(third[row].amax(0)[2:-2].max() > 1e-5) for third in thirds] for row in range(len(base))]


LEFT, RIGHT, NOWHERE = [True, False, False], [False, False, True], [False, False, False]


@pytest.mark.parametrize(("tile", "cfg", "size"), [(0, 1.0, (7, 31)), (0, 2.0, (64, 96)), (8, 2.0, (32, 48))])
def test_a_mask_for_each_frame(
    model: Any, adapter: Any, tile: int, cfg: float, size: tuple[int, int]
) -> None:
    masks = left_and_right(*size)
    frames = torch.nn.functional.interpolate(FRAMES, scale_factor=2.0) if tile else FRAMES
    one, two = model, applied(model, adapter, mask=masks)
    if tile:
        one, two = (with_tiles(m, Tiles(tile, 0, 3)) for m in (one, two))
    found = changes(sampled(one, frames, frames, cfg), sampled(two, frames, frames, cfg))
    assert found == [LEFT, RIGHT, NOWHERE]
    rows = [1, 2, 0]
    found = changes(sampled(one, frames, frames[rows], cfg), sampled(two, frames, frames[rows], cfg))
    assert found == [RIGHT, NOWHERE, LEFT], "masks stay with the frames"


def test_two_people_with_masks_by_frame(model: Any, adapter: Any) -> None:
    masks = left_and_right()
    both = applied(
        applied(model, adapter, mask=masks), adapter, 0.5, mask=masks.flip(2)[:2].repeat(2, 1, 1)[:3]
    )
    base = sampled(model, FRAMES, FRAMES)
    assert changes(base, sampled(both, FRAMES, FRAMES)) == [[True, False, True], [True, False, True], RIGHT]


def test_masks_of_another_number_are_refused(model: Any, adapter: Any, path: Path) -> None:
    personal = applied(model, adapter, mask=torch.ones(2, 16, 24))
    with pytest.raises(ValueError, match="2 masks do not fit 3 pictures"):
        sampled(personal, FRAMES, FRAMES)
    vae, picture = build_vae(open_restorer(path)), torch.rand(3, 16, 24, 3)
    made = {"upscale": 1.0, "steps": 1, "cfg": 1.0, "sampler_name": "euler", "scheduler": "normal", "seed": 0}
    with pytest.raises(ValueError, match="2 masks of a person do not fit 3 pictures"):
        TiledSRSampler.execute(personal, vae, picture, **made)


@pytest.mark.parametrize("fixed_noise", [False, True])
def test_the_sampler_keeps_each_frame_s_mask(model: Any, adapter: Any, path: Path, fixed_noise: bool) -> None:
    vae, pictures = build_vae(open_restorer(path)), torch.rand(3, 64, 96, 3)
    made = {"upscale": 1.0, "steps": 1, "cfg": 1.0, "sampler_name": "euler", "scheduler": "normal", "seed": 0}

    def run(model: Any) -> Tensor:
        return TiledSRSampler.execute(
            model, vae, pictures, **made, tile=64, overlap=0, fixed_noise=fixed_noise, tile_batch=2
        ).args[1]["samples"]

    masks = left_and_right(64, 96)
    thirds = [c[::2] for c in changes(run(model), run(applied(model, adapter, mask=masks)))]
    assert thirds == [[True, False], [False, True], [False, False]]
    assert HEADER.image_size == 64


def test_a_mask_is_cut_with_the_picture(model: Any, adapter: Any, path: Path) -> None:
    """67 x 94 pixels lose 1 above and 2 below, 1 on the left and 1 on the right: cells have 4 x 4. Masks of
    other sizes are cut in proportion."""
    vae, pictures = build_vae(open_restorer(path)), torch.rand(2, 67, 94, 3)
    mask = torch.zeros(1, 67, 94)
    mask[:, 1:5, 89:93] = 1  # the first row of cells, the last column

    def run(model: Any) -> Tensor:
        positive, negative, latent = RestorationConditioning.execute(model, vae, pictures).args
        noise = NOISE[..., :16, :23].expand(2, -1, -1, -1)
        return comfy.sample.sample(
            model, noise, 1, 1.0, "euler", "normal", positive, negative, latent["samples"], seed=0,
            disable_pbar=True,
        )  # fmt: skip

    base = run(model)
    for size in (1, 3):
        larger = mask.repeat_interleave(size, 1).repeat_interleave(size, 2)
        change = (run(applied(model, adapter, mask=larger)) - base).abs().amax((0, 1)) > 1e-6
        assert change.nonzero().tolist() == [[0, 22]]
