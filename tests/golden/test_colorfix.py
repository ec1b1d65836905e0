"""Colour fixes against the reference's."""

import pytest

from pfstorer_core.imaging.color import adain_color_fix, blur, wavelet_color_fix, wavelet_split

from . import golden

NAME = "colorfix"


@pytest.mark.parametrize("case", golden.cases(NAME, "adain"))
def test_adain(case: str):
    images = golden.group(NAME, case)
    golden.assert_near(adain_color_fix(images["content"], images["style"]), images["adain"], 1e-5)


@pytest.mark.parametrize("case", golden.cases(NAME, "wavelet"))
def test_wavelet(case: str):
    images = golden.group(NAME, case)
    golden.assert_near(wavelet_color_fix(images["content"], images["style"]), images["wavelet"], 1e-5)


@pytest.mark.parametrize("case", golden.cases(NAME, "content_high"))
def test_wavelet_split(case: str):
    images = golden.group(NAME, case)
    high, low = wavelet_split(images["content"])
    golden.assert_near(high, images["content_high"], 1e-5)
    golden.assert_near(low, images["content_low"], 1e-5)


@pytest.mark.parametrize("key", [key for key in golden.tensors(NAME) if ".blur_r" in key])
def test_blur(key: str):
    case, _, dilation = key.partition(".blur_r")
    content = golden.group(NAME, case)["content"]
    golden.assert_near(blur(content, int(dilation)), golden.tensors(NAME)[key], 1e-5)
