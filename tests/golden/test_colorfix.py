"""Colour fixes against StableSR's and DiffBIR's."""

import pytest

from pfstorer_core.imaging.color import adain_color_fix, blur, wavelet_color_fix, wavelet_split

from . import golden

FILES = [name for name in ("colorfix", "diffbir_misc") if golden.has(name)]


def cases(suffix: str) -> list[tuple[str, str]]:
    return [(name, case) for name in FILES for case in golden.cases(name, suffix)]


@pytest.mark.parametrize(("name", "case"), cases("adain"))
def test_adain(name: str, case: str):
    images = golden.group(name, case)
    golden.assert_near(adain_color_fix(images["content"], images["style"]), images["adain"], 1e-5)


@pytest.mark.parametrize(("name", "case"), cases("wavelet"))
def test_wavelet(name: str, case: str):
    images = golden.group(name, case)
    golden.assert_near(wavelet_color_fix(images["content"], images["style"]), images["wavelet"], 1e-5)


@pytest.mark.parametrize(("name", "case"), cases("content_high"))
def test_wavelet_split(name: str, case: str):
    images = golden.group(name, case)
    high, low = wavelet_split(images["content"])
    golden.assert_near(high, images["content_high"], 1e-5)
    golden.assert_near(low, images["content_low"], 1e-5)


BLURS = [(name, key) for name in FILES for key in golden.tensors(name) if ".blur_r" in key]


@pytest.mark.parametrize(("name", "key"), BLURS)
def test_blur(name: str, key: str):
    case, _, dilation = key.partition(".blur_r")
    content = golden.group(name, case)["content"]
    golden.assert_near(blur(content, int(dilation)), golden.tensors(name)[key], 1e-5)
