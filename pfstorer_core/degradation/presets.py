"""How strong degradations are: frozen data, and presets by name.

Ranges are (lowest, highest) and drawn from uniformly; single numbers are probabilities.
"""

from __future__ import annotations

from dataclasses import dataclass

Range = tuple[float, float]


@dataclass(frozen=True)
class Kernels:
    """Which blur kernels.

    Attributes:
        sigma: of both axes, in pixels of the picture as it then is.
        sizes: smallest and largest, odd.
        weights: of isotropic and anisotropic Gaussian, generalized Gaussian and plateau kernels, in
            that order.
        generalized_beta, plateau_beta: shapes; half of them are drawn below 1, half above.
        sinc: of a sinc kernel in place of these.
    """

    sigma: Range
    sizes: tuple[int, int] = (7, 21)
    weights: tuple[float, float, float, float, float, float] = (0.45, 0.25, 0.12, 0.03, 0.12, 0.03)
    generalized_beta: Range = (0.5, 2)
    plateau_beta: Range = (1, 1.5)
    sinc: float = 0.1


@dataclass(frozen=True)
class Noise:
    """Which noise.

    Attributes:
        gaussian: of Gaussian noise; otherwise it is Poisson noise.
        sigma: of the Gaussian noise, in grey levels.
        poisson_scale: of the Poisson noise.
        gray: of the same noise in all channels.
    """

    sigma: Range
    gaussian: float = 1.0
    poisson_scale: Range = (0, 0)
    gray: float = 0.0


@dataclass(frozen=True)
class Isp:
    """Which cameras; the numbers are those of Brooks et al. 2019 for shot noise, read noise and gains.

    Attributes:
        shot: drawn uniformly by its logarithm.
        crosstalk: each of `isp.color_matrix`'s shares.
    """

    shot: Range = (1e-4, 0.012)
    red_gain: Range = (1.9, 2.4)
    blue_gain: Range = (1.5, 1.9)
    crosstalk: Range = (0.02, 0.22)


@dataclass(frozen=True)
class Round:
    """One pass of motion blur, blur, resizing, ISP noise, noise, median blur and JPEG.

    Attributes:
        blur, motion, median, isp: of each of these.
        enlarge, shrink: of resizing by more or by less than 1; otherwise the size is kept. `resize` is
            the range. In the last round it is relative to the LQ size, else to the HQ size.
        motion_length: pixels.
        median_sizes: smallest and largest, odd.
        jpeg: qualities.
    """

    kernels: Kernels
    noise: Noise
    jpeg: Range
    blur: float = 1.0
    enlarge: float = 0.0
    shrink: float = 0.0
    resize: Range = (1, 1)
    motion: float = 0.0
    motion_length: Range = (0, 0)
    median: float = 0.0
    median_sizes: tuple[int, int] = (3, 3)
    isp: float = 0.0
    cameras: Isp = Isp()


@dataclass(frozen=True)
class Preset:
    """A whole degradation.

    Attributes:
        downsample: by which HQ is larger than LQ.
        modes: of resizing.
        final_sinc: of a sinc filter at the end, before or after the last JPEG.
        sharpen_target: make HQ by unsharp masking (`filters.sharpen`) of the picture.
        gray: of a gray pair, HQ and LQ.
        opencv: as data sets make pairs with OpenCV: sizes are rounded down, an encoder does the JPEG at a
            whole quality, and LQ is brought back bilinearly. Else as they are made on a GPU.
    """

    rounds: tuple[Round, ...]
    downsample: Range
    modes: tuple[str, ...] = ("area", "bilinear", "bicubic")
    final_sinc: float = 0.0
    sharpen_target: bool = False
    gray: float = 0.0
    opencv: bool = False


def first_order(
    sigma: Range,
    downsample: Range,
    noise: Range,
    jpeg: Range,
    *,
    modes: tuple[str, ...] = ("bilinear",),
    gray: float = 0.0,
    opencv: bool = False,
) -> Preset:
    """Blur, downsampling, Gaussian noise, JPEG: what faces are commonly degraded by (GFPGAN, section 4.1).

    Args:
        sigma, downsample, noise, jpeg, modes, gray, opencv: `Kernels.sigma`, `Preset.downsample`,
            `Noise.sigma`, `Round.jpeg`, `Preset.modes`, `Preset.gray`, `Preset.opencv`.
    """
    kernels = Kernels(sigma, sizes=(41, 41), weights=(0.5, 0.5, 0, 0, 0, 0), sinc=0)
    return Preset((Round(kernels, Noise(noise), jpeg),), downsample, modes, gray=gray, opencv=opencv)


STABLESR = Preset(
    rounds=(
        Round(
            Kernels(sigma=(0.2, 1.5)),
            Noise(sigma=(1, 15), gaussian=0.5, poisson_scale=(0.05, 2), gray=0.4),
            jpeg=(60, 95),
            enlarge=0.2,
            shrink=0.7,
            resize=(0.3, 1.5),
        ),
        Round(
            Kernels(sigma=(0.2, 1.0)),
            Noise(sigma=(1, 12), gaussian=0.5, poisson_scale=(0.05, 1), gray=0.4),
            jpeg=(60, 100),
            blur=0.5,
            enlarge=0.3,
            shrink=0.4,
            resize=(0.6, 1.2),
        ),
    ),
    downsample=(4, 4),
    final_sinc=0.8,
    sharpen_target=True,
)

HEAVY = Preset(
    rounds=(
        Round(
            Kernels(sigma=(0.2, 4.0)),
            Noise(sigma=(1, 30), gaussian=0.5, poisson_scale=(0.05, 3), gray=0.4),
            jpeg=(30, 90),
            enlarge=0.2,
            shrink=0.7,
            resize=(0.3, 1.5),
            motion=0.4,
            motion_length=(4, 24),
            median=0.2,
            median_sizes=(3, 5),
        ),
        Round(
            Kernels(sigma=(0.2, 1.5)),
            Noise(sigma=(5, 30), gaussian=0.5, poisson_scale=(0.5, 4), gray=0.4),
            jpeg=(30, 90),
            blur=0.5,
            enlarge=0.3,
            shrink=0.4,
            resize=(0.6, 1.2),
            isp=0.5,
        ),
    ),
    downsample=(4, 16),
    final_sinc=0.8,
)

PRESETS: dict[str, Preset] = {
    "stablesr": STABLESR,
    "face": first_order(sigma=(0.1, 15), downsample=(0.8, 32), noise=(0, 20), jpeg=(30, 100), gray=0.01),
    "codeformer": first_order((0.1, 12), (1, 12), (0, 15), (30, 100), opencv=True),
    "diffbir": first_order((0.1, 10), (0.8, 8), (0, 20), (60, 100), opencv=True),
    "light": first_order(sigma=(0, 2), downsample=(1, 4), noise=(0, 8), jpeg=(70, 100)),
    "heavy": HEAVY,
    "moderate": first_order(sigma=(0, 8), downsample=(1, 8), noise=(0, 15), jpeg=(60, 100)),
    "severe": first_order(sigma=(8, 16), downsample=(8, 32), noise=(0, 20), jpeg=(30, 100)),
}
"""`stablesr`: StableSR's general configuration, second-order Real-ESRGAN. `face`: its configuration for
faces, which is DifFace's too. `codeformer`: what DiffBIR's general cleaner learned from. `diffbir`: what its
control network for faces did, and Dual-Pivot Tuning. `light`, `heavy`: ours. `moderate`, `severe`: ReF-LDM's
benchmark levels. Made for HQ of 512 px."""

LARGE = 384
"""Pixels of pictures from which on presets are applied to them as they are: kernels made for 512 leave
nothing of a face of 256."""
SMALL_AT = 448
"""Side to which smaller ones are enlarged first, since presets would leave nothing of them."""
MILD = ("light",)
"""Presets that small pictures can bear at their own size, and that could not be seen in them otherwise."""


def applied_at(preset: str, size: int) -> int:
    """Side in pixels at which a preset is applied to pictures of `size` pixels."""
    return size if size >= LARGE or preset in MILD else SMALL_AT
