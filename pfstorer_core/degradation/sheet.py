"""One picture under every step and every preset, to be looked at."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from einops import rearrange
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from .draw import draw
from .pipeline import Degradation, degrade, ground_truth
from .presets import PRESETS
from .steps import (
    Blur,
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

COLUMNS = 6
GAP, STRIP = 6, 20
BACKGROUND, INK = (24, 24, 24), (230, 230, 230)

EXAMPLES: dict[str, Step] = {
    "Gaussian blur, sigma 4": Blur(4, 4, size=41),
    "anisotropic, sigma 8 and 1": Blur(8, 1, theta=0.6, size=41),
    "generalized, beta 0.5": Blur(2, 2, size=21, profile="generalized", beta=0.5),
    "plateau, beta 1.5": Blur(3, 3, size=21, profile="plateau", beta=1.5),
    "sinc, cutoff pi / 5": Sinc(0.63),
    "motion blur, 24 px": MotionBlur(24, 0.5),
    "median blur, 7 px": MedianBlur(7),
    "area, / 8": Resize(1 / 8, "area"),
    "bilinear, / 8": Resize(1 / 8, "bilinear"),
    "bicubic, / 8": Resize(1 / 8, "bicubic"),
    "Gaussian noise, sigma 20": GaussianNoise(20),
    "gray Gaussian noise": GaussianNoise(20, gray=True),
    "Poisson noise, scale 2": PoissonNoise(2),
    "gray Poisson noise": PoissonNoise(2, gray=True),
    "ISP noise": IspNoise(shot=0.012, read=2e-4),
    "JPEG, quality 30": Jpeg(30),
    "gray": Gray(),
    "sharpened ground truth": Sharpen(),
}


def degradation_sheet(image: Tensor, seed: int = 0, cell: int = 224) -> Image.Image:
    """A contact sheet with captions: the steps one by one, then a row of draws from every preset.

    Args:
        image: float [1, 3, H, W] in [0, 1]; damaged at this size, the presets' own being 512 px.
        seed: of the draws.
        cell: longer side of each picture on the sheet, in pixels.

    Raises:
        ValueError: not one image.
    """
    if len(image) != 1:
        raise ValueError(f"A degradation sheet shows one image, not {len(image)}; pass image[:1].")
    panels = [(name, degrade(image, [Degradation((step,))])) for name, step in EXAMPLES.items()]
    for name in PRESETS:
        drawn = draw(name, COLUMNS - 1, torch.Generator().manual_seed(seed))
        hqs = [ground_truth(image, [degradation]) for degradation in drawn]
        lqs = [degrade(hq, [degradation]) for hq, degradation in zip(hqs, drawn, strict=True)]
        panels.append((f"{name}: HQ", hqs[0]))
        panels += [(caption(degradation), lq) for degradation, lq in zip(drawn, lqs, strict=True)]
    return contact_sheet(panels, cell, COLUMNS)


def caption(degradation: Degradation) -> str:
    """The downsampling and the JPEG quality, which a degradation looks most like."""
    scale = next((s.scale for s in reversed(degradation.steps) if isinstance(s, Resize)), 1.0)
    quality = min((s.quality for s in degradation.steps if isinstance(s, Jpeg | JpegFile)), default=100)
    return f"/ {1 / scale:.1f}, JPEG {quality:.0f}"


def contact_sheet(panels: Sequence[tuple[str, Tensor]], cell: int, columns: int) -> Image.Image:
    """Pictures [1, 3, H, W] in [0, 1] of one shape, each with a caption above it, row by row."""
    pictures = [(text, _thumbnail(picture, cell)) for text, picture in panels]
    width, height = pictures[0][1].size
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * (width + GAP) + GAP, rows * (height + STRIP + GAP) + GAP), BACKGROUND)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for index, (text, picture) in enumerate(pictures):
        row, column = divmod(index, columns)
        left, top = GAP + column * (width + GAP), GAP + row * (height + STRIP + GAP)
        pen.text((left + 2, top + 2), text, INK, font)
        sheet.paste(picture, (left, top + STRIP))
    return sheet


def sheet_of(panels: Sequence[tuple[str, Tensor]], cell: int, columns: int) -> Tensor:
    """`contact_sheet` as a picture [1, 3, H, W] in [0, 1]."""
    sheet = np.array(contact_sheet(panels, cell, columns), dtype=np.float32)
    return rearrange(torch.from_numpy(sheet) / 255, "h w c -> 1 c h w")


def _thumbnail(picture: Tensor, cell: int) -> Image.Image:
    pixels = rearrange((picture * 255).round().byte().cpu(), "1 c h w -> h w c")
    whole = Image.fromarray(np.ascontiguousarray(pixels))
    ratio = cell / max(whole.size)
    size = (max(1, round(whole.width * ratio)), max(1, round(whole.height * ratio)))
    return whole.resize(size, Image.Resampling.LANCZOS if ratio < 1 else Image.Resampling.NEAREST)
