"""The colour fixes' own laws."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pfstorer_core.imaging.color import (
    COLOR_FIXES,
    adain_color_fix,
    blur,
    color_fix,
    is_grey,
    wavelet_color_fix,
    wavelet_split,
)

FIXES = [adain_color_fix, wavelet_color_fix]
Fix = Callable[[Tensor, Tensor], Tensor]
sides = st.integers(1, 40)


def image(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("fix", FIXES)
@given(sides, sides)
def test_an_image_with_its_own_colours_stays(fix: Fix, height: int, width: int):
    content = image(1, 3, height, width)
    torch.testing.assert_close(fix(content, content), content, rtol=0, atol=1e-5)


@pytest.mark.parametrize("fix", FIXES)
@given(sides, sides)
def test_a_constant_shift_is_removed(fix: Fix, height: int, width: int):
    style = image(2, 3, height, width)
    shift = torch.tensor([0.2, -0.1, 0.05]).reshape(3, 1, 1)
    torch.testing.assert_close(fix(style + shift, style), style, rtol=0, atol=1e-5)


@given(sides, sides)
def test_high_and_low_frequencies_add_up(height: int, width: int):
    content = image(1, 3, height, width)
    high, low = wavelet_split(content)
    torch.testing.assert_close(high + low, content)
    assert low.std(unbiased=False) <= content.std(unbiased=False) + 1e-6


@given(sides, sides, st.integers(1, 50))
def test_blur_averages_the_replicated_surroundings(height: int, width: int, dilation: int):
    content = image(1, 1, height, width)
    blurred = blur(content, dilation)
    y, x = height // 2, width // 3
    expected = 0.0
    for dy, wy in ((-dilation, 1), (0, 2), (dilation, 1)):
        for dx, wx in ((-dilation, 1), (0, 2), (dilation, 1)):
            row, column = min(max(y + dy, 0), height - 1), min(max(x + dx, 0), width - 1)
            expected += content[0, 0, row, column].item() * wy * wx / 16
    assert blurred[0, 0, y, x].item() == pytest.approx(expected, abs=1e-5)


def test_adain_gives_the_style_s_mean_and_spread():
    content, style = image(2, 3, 31, 17), 0.3 * image(2, 3, 12, 50, seed=1) + 0.4
    fixed = adain_color_fix(content, style)
    dims = (-2, -1)
    torch.testing.assert_close(fixed.mean(dims), style.mean(dims))
    torch.testing.assert_close(fixed.std(dims), style.std(dims), rtol=1e-3, atol=0)


def test_wavelet_keeps_details_and_takes_the_large_scale():
    checkers = (torch.arange(96)[:, None] + torch.arange(96)) % 2 * 0.2
    ramp = torch.linspace(0, 1, 96).expand(96, 96)
    content, style = checkers.expand(1, 3, 96, 96), ramp.expand(1, 3, 96, 96)
    fixed = wavelet_color_fix(content, style)[..., 32:64, 32:64]
    expected = (style + content - content.mean())[..., 32:64, 32:64]
    torch.testing.assert_close(fixed, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("fix", FIXES)
def test_one_style_serves_a_batch(fix: Fix):
    content, style = image(3, 3, 20, 24), image(1, 3, 20, 24, seed=1)
    torch.testing.assert_close(fix(content, style), fix(content, style.expand(3, -1, -1, -1)))


@pytest.mark.parametrize("fix", FIXES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(fix: Fix, dtype: torch.dtype):
    content, style = image(1, 3, 20, 24, dtype=dtype), image(1, 3, 20, 24, seed=1, dtype=dtype)
    fixed = fix(content, style)
    assert fixed.dtype == dtype
    # Nothing is rounded but the result.
    assert torch.equal(fixed, fix(content.float(), style.float()).to(dtype))


def test_a_flat_image_does_not_divide_by_zero():
    flat = torch.full((1, 3, 8, 8), 0.5)
    assert torch.isfinite(adain_color_fix(flat, image(1, 3, 8, 8))).all()


def test_errors_name_the_shapes():
    content = image(2, 3, 8, 8)
    with pytest.raises(ValueError, match="one size"):
        wavelet_color_fix(content, image(2, 3, 8, 9))
    with pytest.raises(ValueError, match=r"\[2, 3, 8, 8\] and \[2, 1, 8, 8\]"):
        adain_color_fix(content, image(2, 1, 8, 8))
    with pytest.raises(ValueError, match="expected content"):
        wavelet_color_fix(content, image(3, 3, 8, 8))


@pytest.mark.parametrize("method", COLOR_FIXES)
def test_a_fix_by_its_name_takes_a_style_of_any_size(method: str) -> None:
    content = 0.5 + 0.1 * torch.rand(1, 3, 24, 32, generator=torch.Generator().manual_seed(0))
    colour = torch.tensor([0.7, 0.4, 0.1])
    fixed = color_fix(content, colour[None, :, None, None].expand(1, 3, 5, 9), method)
    assert fixed.shape == content.shape
    torch.testing.assert_close(fixed.mean((-1, -2))[0], colour, rtol=0, atol=0.01)


def test_an_unknown_fix_is_named() -> None:
    with pytest.raises(ValueError, match="sepia"):
        color_fix(torch.rand(1, 3, 4, 4), torch.rand(1, 3, 4, 4), "sepia")


@pytest.mark.parametrize("rows", [1, 13, 32])
def test_strips_leave_no_trace(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    content, style = image(2, 3, 90, 21), image(1, 3, 90, 21, seed=1)
    whole = wavelet_color_fix(content, style)
    monkeypatch.setattr("pfstorer_core.imaging.color.STRIP", rows)
    assert torch.equal(wavelet_color_fix(content, style), whole)


@pytest.mark.parametrize("method", COLOR_FIXES)
@pytest.mark.parametrize("size", [(24, 32), (7, 11)])
def test_a_grey_picture_stays_grey(method: str, size: tuple[int, int]) -> None:
    content, grey = image(2, 3, 24, 32), image(2, 1, *size, seed=1).expand(-1, 3, -1, -1)
    style = torch.cat([grey[:1], image(1, 3, *size, seed=2)])
    fixed = color_fix(content, style, method)
    assert torch.equal(fixed[0, 0], fixed[0, 1])
    assert torch.equal(fixed[0, 0], fixed[0, 2])
    assert (fixed[1, 0] - fixed[1, 1]).abs().max() > 0.1, "the other picture of the batch has colours"
    torch.testing.assert_close(fixed[1:], color_fix(content[1:], style[1:], method))
    luma = torch.tensor([0.299, 0.587, 0.114]).reshape(3, 1, 1)
    same = color_fix((content[:1] * luma).sum(1, keepdim=True).expand(-1, 3, -1, -1), style[:1], method)
    torch.testing.assert_close(fixed[:1], same, rtol=0, atol=1e-5)


def test_nearly_grey_is_not_grey() -> None:
    style = image(1, 1, 600, 9).expand(-1, 3, -1, -1).clone()
    assert is_grey(style + torch.tensor([0, 1e-5, 0]).reshape(3, 1, 1))
    style[0, 2, 590, 4] += 1 / 255
    assert not is_grey(style)
    assert not is_grey(image(1, 1, 8, 8))


class Stop(Exception):
    pass


@pytest.mark.parametrize("method", COLOR_FIXES)
def test_a_large_picture_can_be_stopped_between_its_strips(method: str) -> None:
    heard = []

    def on_strip() -> None:
        heard.append(1)
        if len(heard) == 2:
            raise Stop

    with pytest.raises(Stop):
        color_fix(image(1, 3, 1200, 8), image(1, 3, 1200, 8, seed=1), method, on_strip)
