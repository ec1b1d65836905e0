"""The noise of a camera, which is made on its sensor and then developed with the picture.

After SCUNet (Zhang et al. 2023, section 3.2) and Brooks et al. 2019 ("Unprocessing images for learned
raw denoising"): a picture is taken back to the mosaic of a raw file, gets noise there, and is developed
again. The noise comes out correlated over pixels and channels, and stronger in shadows. Tone mapping
is left out.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from kornia.color import CFA, linear_rgb_to_rgb, rgb_to_linear_rgb, rgb_to_raw
from torch import Tensor

from .filters import filter2d
from .noise import seeded

BAYER = CFA.BG
"""RGGB, which kornia and OpenCV name by the second row and column."""
NEIGHBOURS = ((0.25, 0.5, 0.25), (0.5, 1.0, 0.5), (0.25, 0.5, 0.25))


def isp_noise(
    image: Tensor,
    *,
    shot: float,
    read: float,
    red_gain: float,
    blue_gain: float,
    crosstalk: tuple[float, ...],
    seed: int,
    there: bool = False,
) -> Tensor:
    """Unprocess, add shot and read noise, develop.

    Args:
        image: float32 [B, 3, H, W] in [0, 1], sRGB.
        shot, read: the variance of a raw value x in [0, 1] is shot · x + read.
        red_gain, blue_gain: of the white balance, ≥ 1; green has 1.
        crosstalk: `color_matrix`'s.
        seed: of the noise, which is drawn on the CPU; `there`: on the device of the picture.
    Returns:
        [B, 3, H, W] in [0, 1].
    """
    to_camera = color_matrix(crosstalk)
    gains = image.new_tensor([red_gain, 1.0, blue_gain])[:, None, None]
    height, width = image.shape[-2:]
    whole_cells = F.pad(image, (0, width % 2, 0, height % 2), mode="replicate")

    raw = rgb_to_raw(_mix(rgb_to_linear_rgb(whole_cells), to_camera) / gains, BAYER)
    generator = seeded(image, seed, there)
    noise = torch.randn(raw.shape, generator=generator, device=generator.device).to(raw)
    # Black lies above 0 on a sensor, so that noise below it is not lost, which would tint shadows.
    raw = (raw + noise * (shot * raw + read).sqrt()).clamp(max=1)

    developed = _mix((demosaic(raw) * gains).clamp(max=1), torch.linalg.inv(to_camera))
    return linear_rgb_to_rgb(developed.clamp(0, 1))[..., :height, :width]


def color_matrix(crosstalk: tuple[float, ...]) -> Tensor:
    """Linear sRGB to a camera's colours, float64 [3, 3]; rows sum to 1, so that gray stays gray.

    Args:
        crosstalk: what red sees of green and of blue, green of red and of blue, blue of red and of
            green. Six shares below 1/4 always make a matrix that can be inverted.

    Raises:
        ValueError: not six shares in [0, 1/4).
    """
    if len(crosstalk) != 6 or not all(0 <= share < 0.25 for share in crosstalk):
        raise ValueError(f"The crosstalk is six shares in [0, 1/4), not {crosstalk}.")
    matrix = torch.zeros(3, 3, dtype=torch.float64)
    matrix[~torch.eye(3, dtype=torch.bool)] = torch.tensor(crosstalk, dtype=torch.float64)
    return matrix + torch.diag(1 - matrix.sum(1))


def demosaic(raw: Tensor) -> Tensor:
    """All three colours of a mosaic [B, 1, H, W] of even sides: each pixel from the nearest that see them.

    Bilinear: the weighted mean of those among its 3 × 3 neighbours. Returns [B, 3, H, W].
    """
    # Not kornia's raw_to_rgb, which takes green as it is where it was seen: 1.5 times as much noise in it.
    colours = torch.eye(3).to(raw)[..., None, None].expand(-1, -1, *raw.shape[-2:])
    seen = raw * rgb_to_raw(colours, BAYER).transpose(0, 1)
    # Of a pixel's neighbours, green ones weigh 2 in all wherever it is, at the mirrored edges, too; others 1.
    return filter2d(seen, raw.new_tensor(NEIGHBOURS)) / raw.new_tensor([1, 2, 1])[:, None, None]


def _mix(image: Tensor, matrix: Tensor) -> Tensor:
    return torch.einsum("oc,bchw->bohw", matrix.to(image), image)
