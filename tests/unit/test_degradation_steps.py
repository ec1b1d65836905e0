"""What each step of a degradation does."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from pfstorer_core.degradation import (
    Blur,
    Degradation,
    EightBit,
    GaussianNoise,
    Gray,
    IspNoise,
    Jpeg,
    MedianBlur,
    MotionBlur,
    PoissonNoise,
    Resize,
    Sharpen,
    Sinc,
    Step,
    degrade,
)
from pfstorer_core.degradation.filters import filter2d, median_blur, reflect_pad
from pfstorer_core.degradation.isp import color_matrix, demosaic
from pfstorer_core.degradation.jpeg import jpeg
from pfstorer_core.degradation.kernels import blur_kernel, motion_kernel

from .degrading import STEPS, natural, one, seeded


def flat(value: float, side: int = 64) -> Tensor:
    return torch.full((1, 3, side, side), value)


def roughness(image: Tensor) -> float:
    return (image.diff(dim=-1).abs().mean() + image.diff(dim=-2).abs().mean()).item()


def test_no_step_does_nothing() -> None:
    image = natural(2)
    assert torch.equal(degrade(image, [Degradation(())] * 2), image)


@pytest.mark.parametrize("step", STEPS, ids=lambda step: type(step).__name__)
def test_each_step_shows_and_stays_in_range(step: Step) -> None:
    image = natural()
    result = one(image, step)
    assert result.shape == image.shape
    assert 0 <= result.min() <= result.max() <= 1
    assert (result - image).abs().mean() > 1e-3


def test_blur_is_as_wide_as_its_sigma() -> None:
    point = torch.zeros(1, 3, 65, 65)
    point[..., 32, 32] = 1
    spread = one(point, Blur(4, 2, theta=math.pi / 2, size=41))[0, 0]
    offsets = (torch.arange(65) - 32.0) ** 2
    assert spread.sum() == pytest.approx(1, abs=1e-3)
    assert (spread.sum(0) * offsets).sum().sqrt() == pytest.approx(2, rel=0.02)  # turned: x is narrow
    assert (spread.sum(1) * offsets).sum().sqrt() == pytest.approx(4, rel=0.02)


@pytest.mark.parametrize(
    "step",
    [Blur(3, 3), Blur(0, 0), Sinc(2.0), MotionBlur(11, 1.0), MedianBlur(5), Sharpen(), Gray(), Jpeg(100)],
)
def test_filters_leave_a_flat_picture_alone(step: Step) -> None:
    torch.testing.assert_close(one(flat(0.6), step), flat(0.6), rtol=0, atol=2e-5)


@pytest.mark.parametrize("kernel", [blur_kernel("gaussian", 7, 0, 0), motion_kernel(0, 1.0)])
def test_no_blur_is_no_blur(kernel: Tensor) -> None:
    image = natural()
    torch.testing.assert_close(filter2d(image, kernel), image, rtol=0, atol=1e-5)


def test_sinc_lets_low_frequencies_through_and_rings() -> None:
    x = torch.arange(128.0)
    waves = torch.stack([0.5 + 0.4 * torch.cos(frequency * x) for frequency in (0.3, 2.5)])
    image = waves[:, None, None].expand(2, 3, 64, 128).contiguous()
    low, high = one(image, Sinc(1.2, size=31))[..., 20:-20].flatten(1).std(1) / image[..., 20:-20].flatten(
        1
    ).std(1)
    assert low > 0.9
    assert high < 0.05
    edge = 0.2 + 0.6 * (x > 63).float().expand(1, 3, 64, 128)
    assert one(edge, Sinc(1.2)).max() > 0.82


def test_motion_blurs_along_its_direction_only() -> None:
    stripes = (torch.arange(64) % 8 < 4).float()
    upright = stripes.expand(1, 3, 64, 64)  # varies along x
    along, across = one(upright, MotionBlur(8, 0)), one(upright, MotionBlur(8, math.pi / 2))
    assert along[..., 16:-16].std() < 0.15 * upright.std()
    torch.testing.assert_close(across, upright, rtol=0, atol=1e-5)


def test_median_blur_is_the_median() -> None:
    image = torch.rand(1, 3, 9, 11, generator=seeded(0))
    padded = np.pad(image[0].numpy(), ((0, 0), (2, 2), (2, 2)), mode="reflect")
    expected = np.median(np.lib.stride_tricks.sliding_window_view(padded, (5, 5), (1, 2)), (-1, -2))
    np.testing.assert_array_equal(median_blur(image, 5)[0].numpy(), expected.astype(np.float32))
    specks = flat(0.5)
    specks[..., ::5, ::5] = 1
    assert torch.equal(one(specks, MedianBlur(3)), flat(0.5))


@pytest.mark.parametrize("width", [1, 3, 9, 40])
def test_reflection_goes_on_where_the_picture_is_small(width: int) -> None:
    image = torch.rand(1, 3, 4, 5, generator=seeded(0))
    expected = np.pad(image.numpy(), ((0, 0), (0, 0), (width, width), (width, width)), mode="reflect")
    np.testing.assert_array_equal(reflect_pad(image, width).numpy(), expected)


def test_sharpening_sharpens() -> None:
    image = one(natural(), Blur(1, 1))
    assert roughness(one(image, Sharpen())) > 1.1 * roughness(image)


def test_resizing_is_relative_to_the_good_picture() -> None:
    image = natural(2, 40, 60)
    small = one(image, Resize(1 / 2), Resize(1 / 4), keep_size=False)
    assert small.shape == (2, 3, 10, 15)
    torch.testing.assert_close(small, torch.nn.functional.avg_pool2d(image, 4), rtol=0, atol=1e-6)
    assert one(image, Resize(1 / 4)).shape == image.shape
    assert one(image, Resize(1 / 100), keep_size=False).shape == (2, 3, 1, 1)


@pytest.mark.parametrize("gray", [False, True])
@pytest.mark.parametrize("sigma", [2.0, 20.0])
def test_gaussian_noise_has_its_sigma(sigma: float, gray: bool) -> None:
    noise = one(flat(0.5), GaussianNoise(sigma, gray=gray, seed=4)) - 0.5
    assert noise.std() == pytest.approx(sigma / 255, rel=0.05)
    assert abs(noise.mean()) < 0.05 * sigma / 255
    assert torch.equal(noise[:, 0], noise[:, 2]) == gray


def test_poisson_noise_grows_with_brightness_and_scale() -> None:
    ramp = torch.linspace(0, 1, 256).repeat_interleave(4).expand(1, 3, 64, 1024)

    def deviation(level: int, scale: float) -> float:
        """Around a grey level, at 256 photons for white."""
        noise = one(ramp, PoissonNoise(scale, seed=1)) - ramp
        return noise[..., 4 * level - 8 : 4 * level + 8].std().item()

    for level, scale in ((64, 1.0), (128, 1.0), (128, 0.5)):
        expected = scale * math.sqrt(level / 255 / 256)
        assert deviation(level, scale) == pytest.approx(expected, rel=0.1)
    noise = one(ramp, PoissonNoise(1.0, gray=True)) - ramp
    middle = noise[..., 256:768]
    torch.testing.assert_close(middle[:, 0], middle[:, 2], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "step", [GaussianNoise(9), PoissonNoise(1), IspNoise(1e-3, 1e-5)], ids=lambda step: type(step).__name__
)
def test_noise_is_its_seeds(step: GaussianNoise | PoissonNoise | IspNoise) -> None:
    image = natural()
    first, again, other = (one(image, dataclasses.replace(step, seed=seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_camera_without_noise_only_loses_detail() -> None:
    smooth = one(natural(), Blur(4, 4, size=41))
    developed = one(smooth, IspNoise(shot=0, read=0))
    assert (developed - smooth)[..., 2:-2, 2:-2].abs().max() < 0.05
    gray = flat(0.5, 17)
    torch.testing.assert_close(one(gray, IspNoise(shot=0, read=0)), gray, rtol=0, atol=1e-4)


def test_isp_noise_is_correlated_and_stronger_with_its_parameters() -> None:
    def noise(shot: float, read: float) -> Tensor:
        return one(flat(0.4, 96), IspNoise(shot, read, seed=3)) - 0.4

    weak, strong = noise(1e-4, 1e-6), noise(1e-2, 1e-4)
    assert strong.std() > 5 * weak.std()
    assert abs(weak.mean()) < 0.01
    red, green, blue = weak.squeeze(0)
    assert correlation(red[:, 1:], red[:, :-1]) > 0.2
    assert abs(correlation(red, green)) > 0.2  # the colour matrix takes one from the other
    assert min(red.std(), blue.std()) > green.std()  # white balance multiplies theirs


def correlation(a: Tensor, b: Tensor) -> float:
    return torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1].item()


def test_the_noise_of_a_camera_goes_through_the_gamma_curve() -> None:
    camera = IspNoise(shot=0, read=1e-6, red_gain=1, blue_gain=1, crosstalk=(0,) * 6, seed=3)
    linear = 0.5**2.2  # sRGB's curve is near this one
    seen = (one(flat(0.5, 256), camera) - 0.5)[0, 0, ::2, ::2]
    assert seen.std() == pytest.approx(1e-3 * linear ** (1 / 2.2 - 1) / 2.2, rel=0.05)


def test_demosaicing_keeps_what_the_sensor_saw() -> None:
    raw = torch.rand(1, 1, 6, 8, generator=seeded(0))
    image = demosaic(raw)
    torch.testing.assert_close(image[:, 0, ::2, ::2], raw[:, 0, ::2, ::2], rtol=0, atol=1e-5)
    torch.testing.assert_close(image[:, 2, 1::2, 1::2], raw[:, 0, 1::2, 1::2], rtol=0, atol=1e-5)
    neighbours = raw[0, 0, 1, 2] + raw[0, 0, 3, 2] + raw[0, 0, 2, 1] + raw[0, 0, 2, 3]
    assert image[0, 1, 2, 2] == pytest.approx(neighbours.item() / 4, abs=1e-5)


def test_the_camera_keeps_gray_gray() -> None:
    matrix = color_matrix((0.2, 0.1, 0.05, 0.15, 0.0, 0.24))
    torch.testing.assert_close(matrix.sum(1), torch.ones(3, dtype=torch.float64))
    assert matrix.det() > 0.1


def test_jpeg_loses_more_at_lower_quality() -> None:
    image = one(natural(), Gray())  # the colours' resolution is halved at any quality
    errors = [(one(image, Jpeg(quality)) - image).abs().mean().item() for quality in (10, 30, 60, 90)]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 3 * errors[-1]


def test_jpeg_at_quality_100_and_just_below() -> None:
    image = one(natural(), Gray())
    for quality, limit in ((99.5, 5e-3), (99.999999, 5e-4), (100, 5e-4)):
        result = one(image, Jpeg(quality))
        assert result.isfinite().all()
        assert (result - image).abs().max() < limit


def test_jpeg_of_a_batch_has_a_quality_each() -> None:
    images = natural(3, 21, 35)
    qualities = [15.0, 60.0, 100.0]
    together = jpeg(images, torch.tensor(qualities))
    for k, quality in enumerate(qualities):
        torch.testing.assert_close(together[k : k + 1], jpeg(images[k : k + 1], quality), rtol=0, atol=1e-6)


def test_eight_bits_have_256_levels() -> None:
    levels = one(natural(), EightBit()) * 255
    torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (Jpeg(0), r"quality lies in \(0, 100\]"),
        (Jpeg(101), r"quality lies in \(0, 100\]"),
        (Jpeg(math.nan), r"quality lies in \(0, 100\]"),
        (MedianBlur(4), "odd"),
        (Blur(1, 1, size=8), "odd"),
        (Blur(1, 1, profile="box"), "choose one of gaussian"),
        (Sinc(4.0), "cutoff"),
        (MotionBlur(-1, 0), "length"),
        (Resize(0), "positive"),
        (Resize(0.5, "cubic"), "choose one of area"),
        (IspNoise(0, 0, crosstalk=(0.3,) * 6), "crosstalk"),
    ],
)
def test_bad_parameters(step: Step, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        one(natural(), step)


def test_bad_kernels() -> None:
    for kernel in (torch.ones(4, 4), torch.ones(3, 5), torch.ones(1, 1, 3, 3)):
        with pytest.raises(ValueError, match="expected kernels"):
            filter2d(natural(), kernel)
    with pytest.raises(ValueError, match="3 kernels for 2 images"):
        filter2d(natural(2), torch.ones(3, 5, 5))
