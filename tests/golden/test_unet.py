"""The U-Net against the reference, with given features and with those of the LQ encoder."""

import pytest

from pfstorer_core.models import Conditioning

from . import golden
from .networks import UNET, load_lq_encoder, load_unet, struct_cases


@pytest.mark.parametrize("case", struct_cases())
def test_unet(case: str):
    given = golden.group(UNET, case)
    features = golden.by_level(golden.group(UNET, f"{case}.struct"))
    out = load_unet(golden.folder())(given["x"], given["t"], given["context"], Conditioning(features))
    golden.assert_near(out, given["out"])


@pytest.mark.parametrize("case", golden.cases(UNET, "lq_latent"))
def test_unet_fed_by_the_encoder(case: str):
    given = golden.group(UNET, case)
    features = load_lq_encoder(golden.folder())(given["lq_latent"], given["t"])
    out = load_unet(golden.folder())(given["x"], given["t"], given["context"], Conditioning(features))
    golden.assert_near(out, given["out"])
