"""The LQ encoder against the reference."""

import pytest

from . import golden
from .networks import LQ_ENCODER, load_lq_encoder


@pytest.mark.parametrize("case", golden.cases(LQ_ENCODER, "lq_latent"))
def test_lq_encoder(case: str):
    given = golden.group(LQ_ENCODER, case)
    expected = golden.by_level(golden.group(LQ_ENCODER, f"{case}.out"))
    for ours, theirs in zip(
        load_lq_encoder(golden.folder())(given["lq_latent"], given["t"]), expected, strict=True
    ):
        golden.assert_near(ours, theirs)
