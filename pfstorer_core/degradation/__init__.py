"""The degradation model that makes training pairs.

    degradations = draw("heavy", len(images), generator, p_hq=0.03)
    hq = ground_truth(images, degradations)
    lq = degrade(hq, degradations)

Everything random is drawn first: a `Degradation` lists the steps that one picture goes through with all
their parameters, noise seeds included, is JSON by `to_json`, and may be written by hand as well:
`Degradation((Blur(0.8, 0.8), Resize(1 / 4), GaussianNoise(2.0, seed=1), Jpeg(90)))`.
"""

from .draw import draw, draw_alike
from .pipeline import Degradation, degrade, ground_truth
from .presets import LARGE, PRESETS, SMALL_AT, Preset, applied_at, first_order
from .sheet import degradation_sheet
from .steps import (
    Blur,
    EightBit,
    GaussianNoise,
    Gray,
    IspNoise,
    Jpeg,
    JpegFile,
    MedianBlur,
    MotionBlur,
    PoissonNoise,
    Resize,
    Sharpen,
    Sinc,
    Step,
)
from .together import degrade_together

__all__ = [
    "LARGE",
    "PRESETS",
    "SMALL_AT",
    "Blur",
    "Degradation",
    "EightBit",
    "GaussianNoise",
    "Gray",
    "IspNoise",
    "Jpeg",
    "JpegFile",
    "MedianBlur",
    "MotionBlur",
    "PoissonNoise",
    "Preset",
    "Resize",
    "Sharpen",
    "Sinc",
    "Step",
    "applied_at",
    "degradation_sheet",
    "degrade",
    "degrade_together",
    "draw",
    "draw_alike",
    "first_order",
    "ground_truth",
]
