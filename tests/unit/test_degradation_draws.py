"""What presets draw: probabilities, ranges and the order of the steps, by many draws."""

import math
from collections.abc import Iterable, Sequence

import numpy as np
import pytest
import torch

from pfstorer_core.degradation import (
    LARGE,
    PRESETS,
    Blur,
    Degradation,
    EightBit,
    GaussianNoise,
    Gray,
    IspNoise,
    Jpeg,
    JpegFile,
    MedianBlur,
    MotionBlur,
    PoissonNoise,
    Resize,
    Sharpen,
    Sinc,
    degrade,
    draw,
    ground_truth,
)
from pfstorer_core.degradation.resampling import resize
from pfstorer_core.training.degradation import random_degradation

COUNT = 1500
NOISE = (GaussianNoise, PoissonNoise)


def drawn(name: str, count: int = COUNT) -> list[Degradation]:
    return draw(name, count, torch.Generator().manual_seed(8))


def rounds(degradation: Degradation) -> tuple[list[object], list[object]]:
    """The steps of a second-order degradation before its first JPEG, and those after it."""
    kinds = [type(step) for step in degradation.steps]
    first = kinds.index(Jpeg)
    return list(degradation.steps[: first + 1]), list(degradation.steps[first + 1 :])


def share(truths: Iterable[bool]) -> float:
    return float(np.mean(list(truths)))


def spread(values: Sequence[float], low: float, high: float, slack: float = 0.04) -> None:
    """Uniform from low to high, as far as many draws tell."""
    width = high - low
    assert low <= min(values) <= low + slack * width
    assert high - slack * width <= max(values) <= high
    assert np.mean(values) == pytest.approx((low + high) / 2, abs=0.08 * width)


FIRST_ORDER = {
    "codeformer": ((0.1, 12), (1, 12), (0, 15), (30, 100)),
    "diffbir": ((0.1, 10), (0.8, 8), (0, 20), (60, 100)),
    "face": ((0.1, 15), (0.8, 32), (0, 20), (30, 100)),
    "light": ((0, 2), (1, 4), (0, 8), (70, 100)),
    "moderate": ((0, 8), (1, 8), (0, 15), (60, 100)),
    "severe": ((8, 16), (8, 32), (0, 20), (30, 100)),
}
"""Deviation of the blur, downsampling, noise in grey levels, quality of the JPEG."""


@pytest.mark.parametrize("name", FIRST_ORDER)
def test_first_order_presets_are_as_they_are_published(name: str) -> None:
    sigma, downsample, noise, quality = FIRST_ORDER[name]
    every = drawn(name)
    found = [[step for step in each.steps if not isinstance(step, Gray)] for each in every]
    kinds = {tuple(type(step) for step in steps) for steps in found}
    opencv = name in ("codeformer", "diffbir")
    assert kinds == {(Blur, Resize, GaussianNoise, JpegFile if opencv else Jpeg, EightBit)}
    assert {steps[1].floor for steps in found} == {opencv}  # type: ignore[union-attr]
    assert {each.resize_back for each in every} == {"bilinear" if opencv else "bicubic"}
    spread([steps[0].sigma_x for steps in found], *sigma)  # type: ignore[union-attr]
    spread([1 / steps[1].scale for steps in found], *downsample)  # type: ignore[union-attr]
    spread([steps[2].sigma for steps in found], *noise)  # type: ignore[union-attr]
    spread([steps[3].quality for steps in found], *quality)  # type: ignore[union-attr]
    grey = share(any(isinstance(step, Gray) for step in each.steps) for each in every)
    assert (0.003 < grey < 0.02) if name == "face" else grey == 0
    assert all((Gray() in each.target) == (Gray() in each.steps) for each in every)


HEAVY = {  # chances and ranges of both rounds
    "motion": (0.4, 0.0), "median": (0.2, 0.0), "isp": (0.0, 0.5), "blur": (1.0, 0.5),
    "sigma": ((0.2, 4.0), (0.2, 1.5)), "noise": ((1, 30), (5, 30)), "poisson": ((0.05, 3), (0.5, 4)),
    "jpeg": ((30, 90), (30, 90)), "first": (0.3, 1.5), "last": (0.6, 1.2),
}  # fmt: skip
STABLESR = {
    "motion": (0.0, 0.0), "median": (0.0, 0.0), "isp": (0.0, 0.0), "blur": (1.0, 0.5),
    "sigma": ((0.2, 1.5), (0.2, 1.0)), "noise": ((1, 15), (1, 12)), "poisson": ((0.05, 2), (0.05, 1)),
    "jpeg": ((60, 95), (60, 100)), "first": (0.3, 1.5), "last": (0.6, 1.2),
}  # fmt: skip


@pytest.mark.parametrize(("name", "expected"), [("heavy", HEAVY), ("stablesr", STABLESR)])
def test_second_order_presets_are_as_they_are_published(name: str, expected: dict) -> None:
    both = [rounds(each) for each in drawn(name)]
    for number in (0, 1):
        steps = [each[number] for each in both]
        for key, kinds in (("motion", MotionBlur), ("median", MedianBlur), ("isp", IspNoise)):
            chance = share(any(isinstance(step, kinds) for step in one) for one in steps)
            assert chance == pytest.approx(expected[key][number], abs=0.04), key
        plain = [[step for step in one if isinstance(step, Blur)] for one in steps]
        assert share(map(bool, plain)) == pytest.approx(0.9 * expected["blur"][number], abs=0.04)
        spread([blur.sigma_x for one in plain for blur in one], *expected["sigma"][number])
        noises = [[step for step in one if isinstance(step, NOISE)] for one in steps]
        assert {len(one) for one in noises} == {1}
        assert share(isinstance(one[0], GaussianNoise) for one in noises) == pytest.approx(0.5, abs=0.04)
        assert share(one[0].gray for one in noises) == pytest.approx(0.4, abs=0.04)
        spread([n[0].sigma for n in noises if isinstance(n[0], GaussianNoise)], *expected["noise"][number])
        spread([n[0].scale for n in noises if isinstance(n[0], PoissonNoise)], *expected["poisson"][number])
        qualities = [[step.quality for step in one if isinstance(step, Jpeg)] for one in steps]
        assert {len(one) for one in qualities} == {1}
        spread([one[0] for one in qualities], *expected["jpeg"][number])
    factors = [next((s.scale for s in one if isinstance(s, Resize)), 1.0) for one, _ in both]
    assert share(factor > 1 for factor in factors) == pytest.approx(0.2, abs=0.03)
    assert share(factor < 1 for factor in factors) == pytest.approx(0.7, abs=0.04)
    spread([factor for factor in factors if factor > 1], 1.0, expected["first"][1], 0.05)
    spread([factor for factor in factors if factor < 1], expected["first"][0], 1.0)
    relative = []
    for _, last in both:
        scales = [step.scale for step in last if isinstance(step, Resize)]
        relative.append(scales[-2] / scales[-1] if len(scales) > 1 else 1.0)
    assert share(factor > 1 for factor in relative) == pytest.approx(0.3, abs=0.04)
    assert share(factor < 1 for factor in relative) == pytest.approx(0.4, abs=0.04)
    assert expected["last"][0] <= min(relative) < 0.62
    assert 1.18 < max(relative) <= expected["last"][1] + 1e-9
    modes = [step.mode for each in both for one in each for step in one if isinstance(step, Resize)]
    for mode in ("area", "bilinear", "bicubic"):
        assert share(each == mode for each in modes) == pytest.approx(1 / 3, abs=0.03)


@pytest.mark.parametrize("name", ["heavy", "stablesr"])
def test_steps_come_in_the_order_of_the_camera(name: str) -> None:
    """Blur, size, the sensor's noise, noise, median, JPEG, twice; the last JPEG before or after the resizing
    to LQ and the sinc filter; rounding at the very end."""
    order: list[tuple[type, ...]] = [
        (MotionBlur,),
        (Blur, Sinc),
        (Resize,),
        (IspNoise,),
        NOISE,
        (MedianBlur,),
    ]

    def place(step: object) -> int:
        return next(k for k, kinds in enumerate(order) if isinstance(step, kinds))

    early = []
    for each in drawn(name, 300):
        first, last = rounds(each)
        assert isinstance(last[-1], EightBit)
        for one in (first[:-1], last[: next(k for k, s in enumerate(last) if isinstance(s, NOISE)) + 1]):
            places = [place(step) for step in one]
            assert places == sorted(set(places))
        tail = [type(step) for step in last if isinstance(step, Jpeg | Sinc | Resize)]
        early.append(tail[-1] is not Jpeg)
    assert 0.35 < share(early) < 0.55  # half of them, but where nothing comes after it


def test_kernels_are_of_all_shapes() -> None:
    blurs = [s for each in drawn("heavy") for s in each.steps if isinstance(s, Blur)]
    turned = [blur for blur in blurs if blur.sigma_x != blur.sigma_y]
    assert share(blur.sigma_x != blur.sigma_y for blur in blurs) == pytest.approx(0.31, abs=0.04)
    spread([blur.theta for blur in turned], -math.pi, math.pi)
    for profile, low, high in (("generalized", 0.5, 2.0), ("plateau", 1.0, 1.5)):
        betas = [blur.beta for blur in blurs if blur.profile == profile]
        assert share(blur.profile == profile for blur in blurs) == pytest.approx(0.15, abs=0.03)
        assert low <= min(betas) < low + 0.05 * (high - low)
        assert high - 0.1 * (high - low) < max(betas) <= high
        assert share(beta <= 1 for beta in betas) == pytest.approx(0.5, abs=0.12)
    assert {blur.beta for blur in blurs if blur.profile == "gaussian"} == {1.0}
    rings = [each.steps[0] for each in drawn("stablesr", 2500)]
    sincs = [step for step in rings if isinstance(step, Sinc)]
    for small, lowest in ((True, math.pi / 3), (False, math.pi / 5)):
        spread([sinc.cutoff for sinc in sincs if (sinc.size < 13) == small], lowest, math.pi, 0.1)


def test_sensors_are_those_of_cameras() -> None:
    """Brooks et al. 2019: shot noise by its logarithm, read noise along a line in it, gains, crosstalk."""
    found = [s for each in drawn("heavy") for s in each.steps if isinstance(s, IspNoise)]
    logs = np.log([isp.shot for isp in found])
    spread(list(logs), math.log(1e-4), math.log(0.012))
    apart = np.log([isp.read for isp in found]) - (2.18 * logs + 1.2)
    assert apart.mean() == pytest.approx(0, abs=0.04)
    assert apart.std() == pytest.approx(0.26, abs=0.03)
    spread([isp.red_gain for isp in found], 1.9, 2.4)
    spread([isp.blue_gain for isp in found], 1.5, 1.9)
    spread([each for isp in found for each in isp.crosstalk], 0.02, 0.22)


def test_lq_comes_back_to_its_size_bicubically() -> None:
    image = torch.rand(1, 3, 24, 20, generator=torch.Generator().manual_seed(0))
    small = resize(image, (12, 10), "area")
    found = degrade(image, [Degradation((Resize(0.5, "area"),))])
    torch.testing.assert_close(found, resize(small, (24, 20), "bicubic").clamp(0, 1), rtol=0, atol=0.05)
    assert (found - resize(small, (24, 20), "bilinear")).abs().max() > 0.01
    other = degrade(image, [Degradation((Resize(0.5, "area"),), resize_back="bilinear")])
    torch.testing.assert_close(other, resize(small, (24, 20), "bilinear"))


def test_sizes_are_rounded_to_the_nearest_or_down() -> None:
    image = torch.rand(1, 3, 9, 27)
    for scale, nearest, down in ((0.3, (3, 8), (2, 8)), (1 / 3, (3, 9), (3, 9)), (1 / 100, (1, 1), (1, 1))):
        for floor, size in ((False, nearest), (True, down)):
            found = degrade(image, [Degradation((Resize(scale, "area", floor),))], keep_size=False)
            assert found.shape[-2:] == size


@pytest.mark.parametrize("size", [32, LARGE])
def test_a_training_aims_at_the_target_of_its_preset(size: int) -> None:
    """StableSR's is sharpened, whether pictures are degraded at their own size or enlarged."""
    image = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    image = torch.nn.functional.avg_pool2d(image, 5, 1, 2)
    made = random_degradation("stablesr", size)
    hq, lq = made(image, [np.random.default_rng(0)])
    plain, _ = random_degradation("heavy", size)(image, [np.random.default_rng(0)])
    if size == LARGE:
        assert torch.equal(plain, image)
        assert torch.equal(hq, ground_truth(image, [Degradation((), (Sharpen(),))]))
    assert (hq - plain).abs().max() > (0.01 if size == LARGE else 1e-5)
    assert not torch.equal(hq, lq)
    good, same = made(image, [np.random.default_rng(0)], 1.0)
    torch.testing.assert_close(same, good, rtol=0, atol=1e-6)
    torch.testing.assert_close(good, hq, rtol=0, atol=1e-6)


def test_presets_are_all_here() -> None:
    assert set(PRESETS) == {"heavy", "stablesr", *FIRST_ORDER}
