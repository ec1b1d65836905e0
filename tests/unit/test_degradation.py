"""Drawing and replaying degradations, and carrying them out."""

import dataclasses
import json
import math
from collections.abc import Iterable

import numpy as np
import pytest
import torch
from torch import Tensor

from pfstorer_core.degradation import (
    PRESETS,
    Blur,
    Degradation,
    EightBit,
    GaussianNoise,
    Gray,
    Jpeg,
    JpegFile,
    PoissonNoise,
    Preset,
    Resize,
    Sharpen,
    Sinc,
    degradation_sheet,
    degrade,
    draw,
    ground_truth,
)

from .degrading import STEPS, natural, one, seeded

NAMES = list(PRESETS)


@pytest.mark.parametrize("name", NAMES)
def test_a_case_replays_exactly_from_json(name: str) -> None:
    image = natural()
    for degradation in draw(name, 5, seeded(3)):
        replayed = Degradation.from_json(json.loads(json.dumps(degradation.to_json())))
        assert replayed == degradation
        hq = ground_truth(image, [degradation])
        assert torch.equal(hq, ground_truth(image, [replayed]))
        assert torch.equal(degrade(hq, [degradation]), degrade(hq, [replayed]))


@pytest.mark.parametrize("name", NAMES)
def test_the_seed_decides(name: str) -> None:
    drawn = draw(name, 6, seeded(3))
    assert drawn == draw(name, 6, seeded(3))
    assert drawn[:2] == draw(name, 2, seeded(3))
    assert drawn != draw(name, 6, seeded(4))
    assert len(set(drawn)) == 6


def test_every_kind_of_step_survives_json() -> None:
    degradation = Degradation((*STEPS, EightBit()), (Sharpen(), Gray()), "bilinear")
    assert Degradation.from_json(json.loads(json.dumps(degradation.to_json()))) == degradation


def test_what_older_versions_wrote_is_read() -> None:
    """They brought all LQ pictures back bicubically, and rounded sizes to the nearest."""
    resize = {"step": "Resize", "scale": 0.7, "mode": "area"}
    assert Degradation.from_json({"steps": [resize]}) == Degradation((Resize(0.7, "area"),))
    with pytest.raises(ValueError, match="No resize mode 'nearest'"):
        Degradation.from_json({"steps": [], "resize_back": "nearest"})


@pytest.mark.parametrize("name", NAMES)
def test_finite_and_in_range_whatever_is_drawn(name: str) -> None:
    image = natural()
    for degradation in draw(name, 60, seeded(11)):
        hq = ground_truth(image, [degradation])
        lq = degrade(hq, [degradation])
        for result in (hq, lq):
            assert result.shape == image.shape
            assert result.isfinite().all()
            assert 0 <= result.min() <= result.max() <= 1
        assert (lq - hq).abs().mean() > 1e-3


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (8, 8)])
def test_tiny_pictures(name: str, size: tuple[int, int]) -> None:
    image = torch.rand(1, 3, *size, generator=seeded(0))
    for degradation in draw(name, 20, seeded(5)):
        lq = degrade(ground_truth(image, [degradation]), [degradation])
        assert lq.shape == image.shape
        assert lq.isfinite().all()


def test_a_batch_equals_its_pictures() -> None:
    images = natural(4)
    degradations = [
        draw(name, 1, seeded(k))[0] for k, name in enumerate(("stablesr", "face", "light", "heavy"))
    ]
    hq = ground_truth(images, degradations)
    lq = degrade(hq, degradations)
    for k, degradation in enumerate(degradations):
        assert torch.equal(hq[k : k + 1], ground_truth(images[k : k + 1], [degradation]))
        assert torch.equal(lq[k : k + 1], degrade(hq[k : k + 1], [degradation]))


def test_p_hq_is_how_often_lq_is_hq() -> None:
    image = natural()
    for share in (0.0, 0.25, 1.0):
        drawn = draw("light", 400, seeded(0), p_hq=share)
        untouched = [degradation for degradation in drawn if not degradation.steps]
        assert len(untouched) / len(drawn) == pytest.approx(share, abs=0.06)
    assert torch.equal(degrade(image, drawn[:1]), image)


def test_gray_pairs_are_gray_on_both_sides() -> None:
    preset = dataclasses.replace(PRESETS["face"], gray=0.5)
    drawn = draw(preset, 100, seeded(0))
    gray = [degradation for degradation in drawn if degradation.target]
    assert 35 < len(gray) < 65
    hq = ground_truth(natural(), gray[:1])
    for result in (hq, degrade(hq, gray[:1])):
        torch.testing.assert_close(result[:, 0], result[:, 2], rtol=0, atol=1e-6)


def test_stablesr_as_it_is_published() -> None:
    drawn = draw("stablesr", 400, seeded(1))
    assert all(degradation.target == (Sharpen(),) for degradation in drawn)
    first = [degradation.steps[0] for degradation in drawn]
    assert share(isinstance(step, Sinc) for step in first) == pytest.approx(0.1, abs=0.05)
    blurs = [step for step in first if isinstance(step, Blur)]
    assert share(blur.profile == "gaussian" for blur in blurs) == pytest.approx(0.7, abs=0.08)
    assert share(blur.sigma_x == blur.sigma_y for blur in blurs) == pytest.approx(0.69, abs=0.08)
    assert {blur.size for blur in blurs} == set(range(7, 22, 2))
    assert all(0.2 <= blur.sigma_x <= 1.5 for blur in blurs)
    noises = [s for d in drawn for s in d.steps if isinstance(s, GaussianNoise | PoissonNoise)]
    assert len(noises) == 800
    assert share(isinstance(noise, GaussianNoise) for noise in noises) == pytest.approx(0.5, abs=0.06)
    assert share(noise.gray for noise in noises) == pytest.approx(0.4, abs=0.06)
    qualities = [[s.quality for s in d.steps if isinstance(s, Jpeg)] for d in drawn]
    assert all(60 <= first <= 95 and 60 <= second <= 100 for first, second in qualities)
    last = [degradation.steps[-2] for degradation in drawn]
    assert share(isinstance(step, Jpeg) for step in last) == pytest.approx(0.5, abs=0.08)
    assert share(isinstance(step, Sinc) for step in last) == pytest.approx(0.4, abs=0.08)
    assert {scales(d)[-1] for d in drawn} == {1 / 4}
    assert share(0.3 <= scales(d)[0] < 1 for d in drawn if len(scales(d)) > 1) > 0.6


def test_face_as_it_is_published() -> None:
    for degradation in draw(dataclasses.replace(PRESETS["face"], gray=0), 200, seeded(1)):
        blur, resize, noise, compression, rounding = degradation.steps
        assert isinstance(blur, Blur)
        assert (blur.size, blur.profile) == (41, "gaussian")
        assert 0.1 <= min(blur.sigma_x, blur.sigma_y) <= max(blur.sigma_x, blur.sigma_y) <= 15
        assert isinstance(resize, Resize)
        assert 1 / 32 <= resize.scale <= 1 / 0.8
        assert resize.mode == "bilinear"
        assert isinstance(noise, GaussianNoise)
        assert 0 <= noise.sigma <= 20
        assert isinstance(compression, Jpeg)
        assert 30 <= compression.quality <= 100
        assert rounding == EightBit()


def test_a_kept_size_is_the_rounds_own() -> None:
    """Two rounds without downsampling: what the first shrinks the second brings back."""
    shrinking = dataclasses.replace(PRESETS["stablesr"].rounds[0], enlarge=0, shrink=1, resize=(0.5, 0.5))
    keeping = dataclasses.replace(PRESETS["stablesr"].rounds[1], enlarge=0, shrink=0)
    [drawn] = draw(Preset((shrinking, keeping), downsample=(1, 1)), 1, seeded(0))
    shrunk, restored = scales(drawn)
    assert shrunk < restored == 1


@pytest.mark.parametrize(
    ("weaker", "stronger"), [("light", "moderate"), ("moderate", "severe"), ("light", "heavy")]
)
def test_presets_are_as_strong_as_they_say(weaker: str, stronger: str) -> None:
    image = natural(height=96, width=96)

    def error(name: str) -> float:
        return float(
            np.mean([(degrade(image, [d]) - image).square().mean() for d in draw(name, 20, seeded(2))])
        )

    assert error(weaker) < error(stronger)


def test_heavy_has_all_that_photographs_suffer_from() -> None:
    kinds = {type(step) for degradation in draw("heavy", 100, seeded(0)) for step in degradation.steps}
    everything = {type(step) for step in STEPS} | {EightBit}
    assert kinds == everything - {Gray, Sharpen, JpegFile}
    ratios = [1 / scales(degradation)[-1] for degradation in draw("heavy", 100, seeded(0))]
    assert 4 <= min(ratios) < 6
    assert 14 < max(ratios) <= 16


def share(truths: Iterable[bool]) -> float:
    return float(np.mean(list(truths)))


def scales(degradation: Degradation) -> list[float]:
    return [step.scale for step in degradation.steps if isinstance(step, Resize)]


@pytest.mark.parametrize("name", ["stablesr", "heavy"])
def test_autocast_changes_nothing(name: str) -> None:
    image, degradations = natural(), draw(name, 3, seeded(2))
    for degradation in degradations:
        expected = degrade(image, [degradation])
        with torch.autocast("cpu", torch.bfloat16):
            result = degrade(image, [degradation])
            hq = ground_truth(image, [degradation])
        assert result.dtype == hq.dtype == torch.float32
        assert torch.equal(result, expected)


def test_narrow_pictures_give_float32() -> None:
    image = natural()
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        assert one(image.to(dtype), Blur(1, 1), EightBit()).dtype == torch.float32


def test_no_gradient_is_kept() -> None:
    image = natural().requires_grad_()
    assert not one(image, *STEPS).requires_grad


def test_drawing_and_degrading_touch_no_global_generator() -> None:
    before = torch.get_rng_state(), repr(np.random.get_state())
    one(natural(), *STEPS)
    draw("heavy", 1, seeded(0))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert repr(np.random.get_state()) == before[1]


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.rand(3, 8, 8), r"expected float images \[B, 3, H, W\]"),
        (torch.rand(8), r"expected float images \[B, 3, H, W\]"),
        (torch.rand(1, 4, 8, 8), r"expected float images \[B, 3, H, W\]"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), "got torch.uint8"),
        (torch.zeros(1, 3, 0, 8), r"expected float images \[B, 3, H, W\]"),
        (255 * torch.ones(1, 3, 8, 8), r"in \[0, 1\], got values from 255 to 255"),
        (torch.full((1, 3, 8, 8), math.nan), r"in \[0, 1\], got values from nan"),
    ],
)
def test_bad_images(image: Tensor, message: str) -> None:
    for function in (degrade, ground_truth):
        with pytest.raises(ValueError, match=message):
            function(image, [Degradation(())])


def test_bad_numbers_and_sizes() -> None:
    with pytest.raises(ValueError, match="1 degradations for 2 images"):
        degrade(natural(2), [Degradation(())])
    halves, thirds = (Degradation((Resize(1 / k),)) for k in (2, 3))
    with pytest.raises(ValueError, match="keep_size"):
        degrade(natural(2), [halves, thirds], keep_size=False)


def test_bad_names() -> None:
    with pytest.raises(ValueError, match="No degradation preset 'extreme'; choose one of stablesr"):
        draw("extreme", 1, seeded(0))
    with pytest.raises(ValueError, match="No degradation step 'Fog'"):
        Degradation.from_json({"steps": [{"step": "Fog"}]})
    with pytest.raises(ValueError, match="Not the parameters of the step Jpeg"):
        Degradation.from_json({"steps": [{"step": "Jpeg", "strength": 3}]})


def test_the_sheet_shows_everything_with_captions() -> None:
    image = natural(height=40, width=32)
    sheet = degradation_sheet(image, seed=1, cell=40)
    again, other = degradation_sheet(image, seed=1, cell=40), degradation_sheet(image, seed=2, cell=40)
    assert sheet.tobytes() == again.tobytes()
    assert sheet.tobytes() != other.tobytes()
    assert sheet.width > 6 * 32
    assert sheet.height > (3 + len(NAMES)) * 40
    with pytest.raises(ValueError, match="one image"):
        degradation_sheet(natural(2))
