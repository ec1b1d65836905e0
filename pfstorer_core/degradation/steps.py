"""The steps of a degradation: one kind of damage each, with all its parameters, and JSON for both.

A step is data. What it does is in the module that it calls; seeds say what its noise is.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from .filters import filter2d, median_blur, sharpen, to_gray
from .isp import isp_noise
from .jpeg import encoded, jpeg
from .kernels import blur_kernel, motion_kernel, sinc_kernel
from .noise import gaussian_noise, poisson_noise
from .resampling import resize, scaled_size


@dataclass(frozen=True)
class Step(ABC):
    """One kind of damage with its parameters."""

    @abstractmethod
    def apply(self, image: Tensor, full: tuple[int, int]) -> Tensor:
        """The damaged picture.

        Args:
            image: float32 [1, 3, h, w] in [0, 1].
            full: height and width of the good picture, which scales refer to.
        Returns:
            [1, 3, h', w']; it may leave [0, 1].
        """


class Filter(Step):
    """A step that is a blur kernel."""

    @abstractmethod
    def kernel(self) -> Tensor:
        """[size, size], float64."""

    def apply(self, image: Tensor, full: tuple[int, int]) -> Tensor:
        return filter2d(image, self.kernel())


class Noisy(Step):
    """A step that draws random numbers from its seed."""

    @abstractmethod
    def noisy(self, image: Tensor, there: bool = False) -> Tensor:
        """As `apply`; `there`: the numbers are drawn on the device of the picture, which is faster, and has
        numbers of its own."""

    def apply(self, image: Tensor, full: tuple[int, int]) -> Tensor:
        return self.noisy(image)


@dataclass(frozen=True)
class Blur(Filter):
    """`kernels.blur_kernel`."""

    sigma_x: float
    sigma_y: float
    theta: float = 0.0
    size: int = 21
    profile: str = "gaussian"
    beta: float = 1.0

    def kernel(self) -> Tensor:
        return blur_kernel(**asdict(self))


@dataclass(frozen=True)
class Sinc(Filter):
    """`kernels.sinc_kernel`: ringing and overshoot."""

    cutoff: float
    size: int = 21

    def kernel(self) -> Tensor:
        return sinc_kernel(self.size, self.cutoff)


@dataclass(frozen=True)
class MotionBlur(Filter):
    """`kernels.motion_kernel`."""

    length: float
    angle: float

    def kernel(self) -> Tensor:
        return motion_kernel(self.length, self.angle)


@dataclass(frozen=True)
class MedianBlur(Step):
    """`filters.median_blur`."""

    size: int

    def apply(self, image: Tensor, full: tuple[int, int]) -> Tensor:
        return median_blur(image, self.size)


@dataclass(frozen=True)
class Resize(Step):
    """`resampling.resize` to `scale` times the sides of the good picture, rounded to whole pixels: down where
    `floor` says so."""

    scale: float
    mode: str = "area"
    floor: bool = False

    def apply(self, image: Tensor, full: tuple[int, int]) -> Tensor:
        return resize(image, scaled_size(full, self.scale, self.floor), self.mode)


@dataclass(frozen=True)
class GaussianNoise(Noisy):
    """`noise.gaussian_noise`; `sigma` in grey levels."""

    sigma: float
    gray: bool = False
    seed: int = 0

    def noisy(self, image: Tensor, there: bool = False) -> Tensor:
        return gaussian_noise(image, self.sigma, gray=self.gray, seed=self.seed, there=there)


@dataclass(frozen=True)
class PoissonNoise(Noisy):
    """`noise.poisson_noise`."""

    scale: float
    gray: bool = False
    seed: int = 0

    def noisy(self, image: Tensor, there: bool = False) -> Tensor:
        return poisson_noise(image, self.scale, gray=self.gray, seed=self.seed, there=there)


@dataclass(frozen=True)
class IspNoise(Noisy):
    """`isp.isp_noise`."""

    shot: float
    read: float
    red_gain: float = 2.0
    blue_gain: float = 1.7
    crosstalk: tuple[float, ...] = (0.15, 0.05, 0.1, 0.1, 0.05, 0.2)
    seed: int = 0

    def noisy(self, image: Tensor, there: bool = False) -> Tensor:
        return isp_noise(image, **asdict(self), there=there)


@dataclass(frozen=True)
class Jpeg(Step):
    """`jpeg.jpeg`."""

    quality: float

    def apply(self, image: Tensor, full: tuple[int, int]) -> Tensor:
        return jpeg(image, self.quality)


@dataclass(frozen=True)
class JpegFile(Step):
    """`jpeg.encoded`."""

    quality: int

    def apply(self, image: Tensor, full: tuple[int, int]) -> Tensor:
        return encoded(image, self.quality)


@dataclass(frozen=True)
class EightBit(Step):
    """Round to the 256 levels of a picture file."""

    def apply(self, image: Tensor, full: tuple[int, int]) -> Tensor:
        return (image * 255).round() / 255


@dataclass(frozen=True)
class Gray(Step):
    """`filters.to_gray`."""

    def apply(self, image: Tensor, full: tuple[int, int]) -> Tensor:
        return to_gray(image)


@dataclass(frozen=True)
class Sharpen(Step):
    """`filters.sharpen`."""

    def apply(self, image: Tensor, full: tuple[int, int]) -> Tensor:
        return sharpen(image)


STEPS: dict[str, type[Step]] = {
    kind.__name__: kind
    for kind in (
        Blur, Sinc, MotionBlur, MedianBlur, Resize, GaussianNoise, PoissonNoise, IspNoise, Jpeg, JpegFile,
        EightBit, Gray, Sharpen,
    )
}  # fmt: skip
"""The steps by the names that JSON has for them."""


def step_to_json(step: Step) -> dict[str, Any]:
    """The parameters, and the step's name under "step"."""
    return {"step": type(step).__name__, **asdict(step)}


def step_from_json(data: dict[str, Any]) -> Step:
    """What `step_to_json` made, or the same decoded from JSON.

    Raises:
        ValueError: no such step, or not its parameters.
    """
    parameters = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}
    kind = parameters.pop("step", None)
    if kind not in STEPS:
        raise ValueError(f"No degradation step {kind!r}; known are {', '.join(STEPS)}.")
    try:
        return STEPS[kind](**parameters)
    except TypeError as error:
        raise ValueError(f"Not the parameters of the step {kind}: {error}.") from error
