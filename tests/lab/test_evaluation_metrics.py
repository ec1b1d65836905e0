"""The metrics against known values, and what they say when weights are missing."""

import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from harness import ROOT
from harness.environment import site_environment
from lab.evaluation.metrics import IDENTICAL, NotAvailable, load_lpips, load_musiq, psnr, ssim
from lab.evaluation.scoreboard import interval


def test_psnr_of_a_known_error() -> None:
    true = torch.full((2, 3, 16, 16), 0.5)
    images = true + torch.tensor([0.1, 0.01])[:, None, None, None]
    assert psnr(images, true).tolist() == pytest.approx([20, 40], abs=1e-4)


def test_identical_pictures_have_finite_scores() -> None:
    true = torch.rand(1, 3, 16, 16)
    assert psnr(true, true).tolist() == [IDENTICAL]
    assert ssim(true, true).item() == pytest.approx(1)


def test_ssim_of_flat_pictures_is_its_luminance_term() -> None:
    a, b = 0.5, 0.6
    known = (2 * a * b + 1e-4) / (a * a + b * b + 1e-4)  # Wang et al. 2004, eq. 6, with C1 = (0.01)²
    found = ssim(torch.full((1, 3, 24, 24), b), torch.full((1, 3, 24, 24), a))
    assert found.item() == pytest.approx(known, abs=1e-6)


def test_psnr_and_ssim_are_what_another_library_says() -> None:
    true, images = torch.rand(2, 2, 3, 24, 31, generator=torch.Generator().manual_seed(0))
    images = 0.7 * true + 0.3 * images
    settings = {
        "data_range": 1.0,
        "channel_axis": 0,
        "gaussian_weights": True,
        "use_sample_covariance": False,
    }
    for number, (image, other) in enumerate(zip(images.numpy(), true.numpy(), strict=True)):
        similar = float(np.asarray(structural_similarity(other, image, **settings)))
        assert ssim(images, true)[number].item() == pytest.approx(similar, abs=1e-5)
        ratio = peak_signal_noise_ratio(other, image, data_range=1.0)
        assert psnr(images, true)[number].item() == pytest.approx(ratio, abs=1e-3)


def test_interval_of_known_values() -> None:
    # mean 3, deviation sqrt(2.5), t(0.975, 4) = 2.776445
    half = 2.776445 * math.sqrt(2.5 / 5)
    assert interval([1, 2, 3, 4, 5]) == pytest.approx([3 - half, 3 + half], abs=1e-5)
    assert interval([1.0]) is None


def test_intervals_cover_the_mean_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(2000):
        bounds = interval(rng.normal(7, 3, 8).tolist())
        assert bounds is not None
        hits += bounds[0] <= 7 <= bounds[1]
    assert 0.935 < hits / 2000 < 0.965


@pytest.mark.parametrize("load", [load_lpips, load_musiq])
def test_missing_weights_are_said(load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(NotAvailable, match="needs"):
        load()


LPIPS = """
import sys, torch, torchvision
from pathlib import Path
from lab.evaluation.metrics import NotAvailable, load_lpips
try:
    load_lpips()
except NotAvailable as error:
    message = str(error)
assert "alexnet-owt-7be5be79.pth" in message and "http" in message, message
path = Path(torch.hub.get_dir(), "checkpoints", "alexnet-owt-7be5be79.pth")
assert str(path.parent) in message, message
torch.manual_seed(0)
weights = torchvision.models.alexnet(weights=None).state_dict()
# LPIPS has no use for the classifier: one number stands for each of its 230 MB of tensors.
weights = {k: v if "features" in k else torch.zeros(1).expand(v.shape) for k, v in weights.items()}
path.parent.mkdir(parents=True)
torch.save(weights, path)
lpips = load_lpips()
a = torch.rand(2, 3, 64, 64)
b = torch.stack([a[0], (a[1] + 0.5 * torch.rand(3, 64, 64)).clamp(0, 1)])
same, other = lpips(b, a).tolist()
assert same == 0 < other, (same, other)
assert abs(lpips(b[1:], a[1:]).item() - other) < 1e-6
"""


def test_lpips_runs_once_its_weights_are_there(tmp_path: Path) -> None:
    """In a process of its own, with torchvision made importable as for the server where that is needed."""
    environment = {**os.environ, "TORCH_HOME": str(tmp_path), **site_environment(ROOT)}
    result = subprocess.run([sys.executable, "-c", LPIPS], env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
