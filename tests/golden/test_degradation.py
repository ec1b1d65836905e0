"""The deterministic parts of the degradation against the reference's."""

import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pfstorer_core.degradation.filters import USM_SIGMA, USM_SIZE, filter2d, sharpen
from pfstorer_core.degradation.jpeg import jpeg
from pfstorer_core.degradation.kernels import blur_kernel, sinc_kernel

from . import golden

NAME = "degradation"
KERNELS: list[dict[str, Any]] = golden.metadata(NAME)["kernels"]
COMPRESSED = [key for key in golden.tensors(NAME) if re.match(r"jpeg\..*q\d", key)]
ROUNDING_SHOWS = 90
"""JPEG qualities above round so finely that a last bit may decide which way a coefficient goes."""


def kernel_of(entry: dict[str, Any]) -> Tensor:
    size = entry["kernel_size"]
    if entry["kind"] == "sinc":
        kernel = sinc_kernel(size, entry["cutoff"])
    else:
        sigmas = entry["sigma_x"], entry["sigma_x" if entry["isotropic"] else "sigma_y"]
        kernel = blur_kernel(entry["kind"], size, *sigmas, entry["theta"], entry["beta"])
    return F.pad(kernel, [(entry.get("pad_to", size) - size) // 2] * 4)


def test_there_is_something_to_compare() -> None:
    assert {entry["kind"] for entry in KERNELS} == {"gaussian", "generalized", "plateau", "sinc"}
    assert len(COMPRESSED) >= 3


@pytest.mark.parametrize("entry", KERNELS, ids=lambda entry: entry["name"])
def test_kernel(entry: dict[str, Any]) -> None:
    expected = golden.tensors(NAME)[entry["name"]]
    torch.testing.assert_close(kernel_of(entry), expected, rtol=0, atol=1e-6)


def test_filter() -> None:
    stored = golden.tensors(NAME)
    golden.assert_near(filter2d(stored["image"], stored["filter.kernels"]), stored["filter.out"], 1e-5)


def test_sharpening() -> None:
    stored = golden.tensors(NAME)
    kernel = blur_kernel("gaussian", USM_SIZE, USM_SIGMA, USM_SIGMA)
    golden.assert_near(kernel, stored["usm.kernel"].double(), 1e-8)
    golden.assert_near(sharpen(stored["image"]), stored["usm.out"], 1e-5)


@pytest.mark.parametrize("key", COMPRESSED)
def test_jpeg(key: str) -> None:
    stored = golden.tensors(NAME)
    case, _, numbers = key.removeprefix("jpeg.").rpartition("q")
    source = stored[f"jpeg.{case}in"] if case else stored["image"]
    qualities = [float(number) for number in numbers.split("_")]
    difference = (jpeg(source, torch.tensor(qualities)) - stored[key]).abs()
    for quality, picture in zip(qualities, difference, strict=True):
        if quality <= ROUNDING_SHOWS:
            assert picture.max() <= 1e-5
        else:
            assert picture.max() <= 2e-3
            assert (picture > 1e-5).float().mean() <= 0.01
