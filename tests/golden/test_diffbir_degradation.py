"""The degradation of CodeFormer's and DiffBIR's training pairs, which OpenCV made, against the reference."""

import dataclasses
from typing import Any

import pytest
import torch
from einops import rearrange
from torch import Tensor

from pfstorer_core.degradation import Blur, Degradation, JpegFile, Resize, degrade
from pfstorer_core.degradation.kernels import blur_kernel

from . import golden

NAME, FIXED = "diffbir_degradation", "diffbir_misc"
CASES = range(len(golden.metadata(NAME)["draws"]))
LEVEL = 1e-2
"""Mean difference of what went through a JPEG encoder; one level of 255 is .004."""


def picture(values: Tensor, bgr: bool = True) -> Tensor:
    found = rearrange(values, "h w c -> 1 c h w").float()
    return found.flip(1) if bgr else found


def drawn(case: int) -> tuple[dict[str, Any], float, float]:
    """The parameters of the kernel, the scale and the noise that were drawn for a case."""
    kind, *numbers = [value for _, value in golden.metadata(NAME)["draws"][case]]
    sigma, *others = numbers[: 3 if kind == "aniso" else 1]
    other, theta = others or (sigma, 0.0)
    scale, noise = numbers[1 + len(others) :][:2]
    size = golden.metadata(NAME)["degradation"]["blur_kernel_size"]
    return {"sigma_x": sigma, "sigma_y": other, "theta": theta, "size": size}, scale, noise


def small(given: Tensor, *steps: Any) -> Tensor:
    return degrade(given, [Degradation(steps)], keep_size=False)


@pytest.mark.parametrize("case", CASES)
def test_pairs(case: int) -> None:
    given, out = golden.group(NAME, f"in.{case}"), golden.group(NAME, f"out.{case}")
    kernel, scale, sigma = drawn(case)
    golden.assert_near(blur_kernel("gaussian", **kernel), out["kernel"], 1e-9)
    hq = picture(given["gt"], bgr=False) / 255
    golden.assert_near(2 * hq - 1, picture(out["target"], bgr=False), 1e-6)
    blurred, resize = small(hq, Blur(**kernel)), Resize(1 / scale, "bilinear", floor=True)
    golden.assert_near(blurred, picture(out["blurred"]).clamp(0, 1), 1e-5)
    down = small(hq, Blur(**kernel), resize)
    golden.assert_near(down, picture(out["down"]), 1e-5)
    noisy = (down + sigma / 255 * picture(given["noise_draw"])).clamp(0, 1)
    golden.assert_near(noisy, picture(out["before_jpeg"]) / 255, 1e-5)
    compressed = small(noisy, JpegFile(int(out["jpeg_quality"])))
    assert (compressed - picture(out["before_up"])).abs().mean() < LEVEL


def test_quality_is_cut_to_a_whole_number() -> None:
    for case in CASES:
        last = golden.metadata(NAME)["draws"][case][-1][1]
        assert golden.tensors(NAME)[f"out.{case}.jpeg_quality"] == int(last)


@pytest.mark.parametrize("case", CASES)
def test_lq_comes_back_bilinearly(case: int) -> None:
    """Of what the reference's own encoder left."""
    out = golden.group(NAME, f"out.{case}")
    before, lq = picture(out["before_up"]), picture(out["lq"], bgr=False)
    empty = torch.zeros_like(lq)
    found = degrade(empty, [Degradation((_Given(before),), resize_back="bilinear")])  # type: ignore[arg-type]
    golden.assert_near(found, lq, 1e-5)


@dataclasses.dataclass(frozen=True, eq=False)
class _Given:
    """A step that answers with a picture of its own."""

    picture: Tensor

    def apply(self, image: Tensor, full: tuple[int, int]) -> Tensor:
        return self.picture


def test_fixed_parameters() -> None:
    stored, header = golden.tensors(FIXED), golden.metadata(FIXED)["degradation"]
    for index, (size, sigma_x, sigma_y, theta, _) in enumerate(header["kernels"]):
        kernel = blur_kernel("gaussian", size, sigma_x, sigma_y, theta)
        golden.assert_near(kernel, stored[f"degrade.kernel.{index}"], 1e-9)
    size, sigma_x, sigma_y, theta, _ = header["kernels"][header["kernel_used"]]
    blur, resize = Blur(sigma_x, sigma_y, theta, size), Resize(1 / header["scale"], "bilinear", floor=True)
    hq = stored["color.content"]
    golden.assert_near(small(hq, blur), picture(stored["degrade.blurred"], bgr=False), 1e-5)
    down = small(hq, blur, resize)
    golden.assert_near(down, picture(stored["degrade.down"], bgr=False), 1e-5)
    noisy = (down + picture(stored["degrade.noise"], bgr=False)).clamp(0, 1)
    golden.assert_near(noisy, picture(stored["degrade.noisy"], bgr=False), 1e-5)
    compressed = small(noisy, JpegFile(header["jpeg_quality"]))
    assert (compressed - picture(stored["degrade.jpeg"], bgr=False)).abs().mean() < LEVEL
    for before, after in (("noisy", "up_without_jpeg"), ("jpeg", "up")):
        given = _Given(picture(stored[f"degrade.{before}"], bgr=False))
        found = degrade(hq, [Degradation((given,), resize_back="bilinear")])  # type: ignore[arg-type]
        golden.assert_near(found, picture(stored[f"degrade.{after}"], bgr=False), 1e-5)
