"""Pictures that are degraded at once get what each of them would get alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pfstorer_core.degradation import (
    PRESETS,
    Blur,
    Degradation,
    EightBit,
    GaussianNoise,
    Jpeg,
    Resize,
    Sinc,
    Step,
    degrade,
    degrade_together,
    draw_alike,
    ground_truth,
)
from pfstorer_core.training.degradation import random_degradation

SIDE = 48


def pictures(count: int) -> torch.Tensor:
    coarse = torch.rand(count, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(coarse, (SIDE, SIDE), mode="bicubic").clamp(0, 1)


@pytest.mark.parametrize("name", PRESETS)
def test_all_at_once_is_one_by_one(name: str) -> None:
    images = pictures(3)
    for seed in range(4):
        drawn = draw_alike(PRESETS[name], [10 * seed, 10 * seed + 1, 10 * seed + 2])
        hq, lq = degrade_together(images, drawn)
        expected = ground_truth(images, drawn)
        torch.testing.assert_close(hq, expected, rtol=0, atol=1e-5)
        error = (lq - degrade(expected, drawn)).abs()
        # A kernel that stands in a larger one rounds differently, which a quantized coefficient may show.
        assert error.mean() < 1e-4
        assert error.quantile(0.99) < 1e-3


def test_the_plan_is_shared_and_the_strengths_are_not() -> None:
    def plan(degradation: Degradation) -> list[object]:
        """The kinds of steps, but for what a kernel or noise is like, and the sizes."""
        free = {"Blur": "filter", "Sinc": "filter", "GaussianNoise": "noise", "PoissonNoise": "noise"}
        return [
            step if isinstance(step, Resize) else free.get(type(step).__name__, type(step).__name__)
            for step in degradation.steps
        ]

    plans = set()
    for seed in range(12):
        drawn = draw_alike(PRESETS["heavy"], [seed, 1000 + seed, 2000 + seed])
        assert plan(drawn[0]) == plan(drawn[1]) == plan(drawn[2])
        plans.add(repr(plan(drawn[0])))
        strengths = {tuple(step.quality for step in each.steps if isinstance(step, Jpeg)) for each in drawn}
        assert len(strengths) == 3
    assert len(plans) == 12
    good = sum(not draw_alike(PRESETS["light"], [seed, 1], 0.3)[1].steps for seed in range(200))
    assert 40 <= good <= 80


def test_one_picture_alone_is_as_strongly_degraded() -> None:
    """The shares of the steps do not depend on how many are drawn alike."""
    alone = [draw_alike(PRESETS["heavy"], [seed])[0].steps for seed in range(300)]
    counts = [sum(type(step).__name__ == "MotionBlur" for step in steps) for steps in alone]
    assert np.mean(counts) == pytest.approx(PRESETS["heavy"].rounds[0].motion, abs=0.08)


@pytest.mark.parametrize(
    "steps",
    [
        ((Resize(0.5),), (Resize(0.25),)),
        ((Blur(1, 1), Jpeg(50)), (Blur(1, 1),)),
        ((Blur(1, 1),), (Jpeg(50),)),
        ((EightBit(),), (GaussianNoise(3),)),
    ],
)
def test_what_differs_is_refused(steps: tuple[tuple[Step, ...], tuple[Step, ...]]) -> None:
    with pytest.raises(ValueError, match="cannot be carried out together"):
        degrade_together(pictures(2), [Degradation(each) for each in steps])
    with pytest.raises(ValueError, match="got 2 degradations for 3 images"):
        degrade_together(pictures(3), [Degradation(each) for each in steps])


def test_kernels_of_all_sizes_go_together() -> None:
    images = pictures(3)
    drawn = [Degradation((step,)) for step in (Blur(1.5, 0.7, 0.3, 7), Sinc(1.2, 21), Blur(3, 3, size=13))]
    torch.testing.assert_close(degrade_together(images, drawn)[1], degrade(images, drawn), rtol=0, atol=1e-5)


def test_a_training_degrades_in_groups() -> None:
    """Each group as its first picture's generator says; smaller pictures are enlarged first."""
    images = pictures(5)
    degradation = random_degradation("", SIDE)

    def rngs(*seeds: int) -> list[np.random.Generator]:
        return [np.random.default_rng(seed) for seed in seeds]

    hq, lq = degradation.in_groups(images, rngs(0, 1, 2, 3, 4), 0.0, 2)
    assert hq.shape == lq.shape == images.shape
    torch.testing.assert_close(hq, images, rtol=0, atol=0.05)
    again = degradation.in_groups(images[2:4], rngs(2, 3), 0.0, 2)[1]
    torch.testing.assert_close(lq[2:4], again)
    good = degradation.in_groups(images, rngs(0, 1, 2, 3, 4), 1.0, 2)
    torch.testing.assert_close(*good)
    at_once = replace(degradation, at=(0,) * len(degradation.at)).in_groups(images, rngs(*range(5)), 0.0, 5)
    assert (at_once[0] - at_once[1]).abs().mean() > 0.02
    state = rngs(7)
    degradation.in_groups(images[:1], state, 0.0, 4)
    other = rngs(7)
    degradation(images[:1], other)
    assert state[0].random() == other[0].random(), "what is drawn later stays the same"
