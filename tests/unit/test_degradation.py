import numpy as np
import pytest
import torch

from pfstorer_core.degradation import Degradation, degrade, draw_degradation

NOTHING = Degradation(blur=0.0, scale=1.0, noise=0.0, gray_noise=False, quality=100, seed=0)


@pytest.fixture
def image() -> torch.Tensor:
    return torch.rand(2, 3, 24, 40, generator=torch.Generator().manual_seed(0))


def test_parameters_replay_a_case(image: torch.Tensor) -> None:
    parameters = draw_degradation(np.random.default_rng(3))
    assert parameters == draw_degradation(np.random.default_rng(3))
    assert parameters != draw_degradation(np.random.default_rng(4))
    assert torch.equal(degrade(image, parameters), degrade(image, parameters))


def test_nothing_changes_nothing(image: torch.Tensor) -> None:
    torch.testing.assert_close(degrade(image, NOTHING), image, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "change",
    [{"blur": 1.5}, {"scale": 3.0}, {"noise": 20.0}, {"noise": 20.0, "gray_noise": True}, {"quality": 20}],
)
def test_each_stage_damages(image: torch.Tensor, change: dict) -> None:
    damaged = degrade(image, Degradation(**{**vars(NOTHING), **change}))
    assert damaged.shape == image.shape
    assert 0 <= damaged.min() <= damaged.max() <= 1
    assert (damaged - image).abs().mean() > 0.01


def test_small_size(image: torch.Tensor) -> None:
    small = degrade(image, Degradation(**{**vars(NOTHING), "scale": 4.0}), keep_size=False)
    assert small.shape == (2, 3, 6, 10)


def test_gray_noise_is_one_noise(image: torch.Tensor) -> None:
    flat = torch.full_like(image, 0.5)
    noisy = degrade(flat, Degradation(**{**vars(NOTHING), "noise": 10.0, "gray_noise": True}))
    assert torch.equal(noisy[:, 0], noisy[:, 2])
    assert noisy.std() == pytest.approx(10 / 255, rel=0.1)


def test_blur_keeps_the_mean(image: torch.Tensor) -> None:
    blurred = degrade(image, Degradation(**{**vars(NOTHING), "blur": 2.0}))
    assert blurred.mean() == pytest.approx(image.mean().item(), abs=5e-3)
    assert blurred.std() < 0.5 * image.std()
