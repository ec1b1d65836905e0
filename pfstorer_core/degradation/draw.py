"""Drawing the parameters of degradations from a preset."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from .pipeline import Degradation
from .presets import PRESETS, Isp, Kernels, Noise, Preset, Range, Round
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

SHAPES = [(profile, same) for profile in ("gaussian", "generalized", "plateau") for same in (True, False)]
"""Profile and isotropy, in the order of `Kernels.weights`."""


def draw(
    preset: str | Preset, count: int, generator: torch.Generator, p_hq: float = 0.0
) -> list[Degradation]:
    """Draw `count` degradations.

    Args:
        preset: a name of `PRESETS`, or another one.
        generator: advanced by one number a degradation, whatever the preset.
        p_hq: probability that LQ is HQ as it is (PFStorer: 0.03).

    Raises:
        ValueError: no preset of this name.
    """
    if isinstance(preset, str):
        if preset not in PRESETS:
            raise ValueError(f"No degradation preset {preset!r}; choose one of {', '.join(PRESETS)}.")
        preset = PRESETS[preset]
    device = generator.device
    seeds = [torch.randint(2**63 - 1, (), generator=generator, device=device) for _ in range(count)]
    return [_draw(preset, np.random.default_rng(int(seed)), p_hq) for seed in seeds]


def draw_alike(preset: Preset, seeds: Sequence[int], p_hq: float = 0.0) -> list[Degradation]:
    """Degradations, one a seed, of the same steps and sizes, which the first seed says; the strength of each
    step is each one's own. What `degrade_together` carries out for all pictures at once.

    Args:
        p_hq: probability that the LQ pictures of all are HQ as it is.
    """
    return [
        _draw(preset, np.random.default_rng(seed), p_hq, np.random.default_rng([seeds[0], 1]))
        for seed in seeds
    ]


def _draw(
    preset: Preset, rng: np.random.Generator, p_hq: float, plan: np.random.Generator | None = None
) -> Degradation:
    """Args: plan: draws the steps and the sizes; None for `rng`, which draws everything else."""
    plan = plan or rng
    gray = (Gray(),) if plan.random() < preset.gray else ()
    target = (*((Sharpen(),) if preset.sharpen_target else ()), *gray)
    if plan.random() < p_hq:
        return Degradation((), target)
    lq_scale = 1 / _uniform(plan, preset.downsample)
    steps: list[Step] = []
    for round_ in preset.rounds[:-1]:
        _add_round(steps, round_, 1.0, preset, plan, rng)
        steps.append(_jpeg(round_, preset, rng))
    last = preset.rounds[-1]
    _add_round(steps, last, lq_scale, preset, plan, rng)
    compression = _jpeg(last, preset, rng)
    early = plan.random() < 0.5
    if early:
        steps.append(compression)
    _add_resize(steps, lq_scale, preset, plan)
    if plan.random() < preset.final_sinc:
        steps.append(Sinc(_uniform(rng, (math.pi / 3, math.pi)), _odd(rng, last.kernels.sizes)))
    if not early:
        steps.append(compression)
    back = "bilinear" if preset.opencv else "bicubic"
    return Degradation((*steps, *gray, EightBit()), target, back)


def _add_round(
    steps: list[Step],
    round_: Round,
    base: float,
    preset: Preset,
    plan: np.random.Generator,
    rng: np.random.Generator,
) -> None:
    """A round but its JPEG; `base` is the scale that its resizing is relative to."""
    if plan.random() < round_.motion:
        steps.append(MotionBlur(_uniform(rng, round_.motion_length), _uniform(rng, (0, math.pi))))
    if plan.random() < round_.blur:
        steps.append(_blur(round_.kernels, rng))
    _add_resize(steps, base * _resize_factor(round_, plan), preset, plan)
    if plan.random() < round_.isp:
        steps.append(_isp(round_.cameras, rng))
    steps.append(_noise(round_.noise, rng))
    if plan.random() < round_.median:
        steps.append(MedianBlur(_odd(plan, round_.median_sizes)))


def _add_resize(steps: list[Step], scale: float, preset: Preset, rng: np.random.Generator) -> None:
    present = next((step.scale for step in reversed(steps) if isinstance(step, Resize)), 1.0)
    if scale != present:
        mode = preset.modes[int(rng.integers(len(preset.modes)))]
        steps.append(Resize(scale, mode, preset.opencv))


def _blur(kernels: Kernels, rng: np.random.Generator) -> Step:
    size = _odd(rng, kernels.sizes)
    if rng.random() < kernels.sinc:
        return Sinc(_uniform(rng, (math.pi / (3 if size < 13 else 5), math.pi)), size)
    weights = np.array(kernels.weights)
    profile, isotropic = SHAPES[rng.choice(len(SHAPES), p=weights / weights.sum())]
    sigma, theta = _uniform(rng, kernels.sigma), 0.0
    other = sigma
    if not isotropic:
        other, theta = _uniform(rng, kernels.sigma), _uniform(rng, (-math.pi, math.pi))
    beta = 1.0
    if profile != "gaussian":
        low, high = kernels.plateau_beta if profile == "plateau" else kernels.generalized_beta
        beta = _uniform(rng, (low, 1) if rng.random() < 0.5 else (1, high))
    return Blur(sigma, other, theta, size, profile, beta)


def _resize_factor(round_: Round, rng: np.random.Generator) -> float:
    low, high = round_.resize
    chance = rng.random()
    if chance < round_.enlarge:
        return _uniform(rng, (1, high))
    return _uniform(rng, (low, 1)) if chance < round_.enlarge + round_.shrink else 1.0


def _noise(noise: Noise, rng: np.random.Generator) -> Step:
    kind, strengths = (
        (GaussianNoise, noise.sigma) if rng.random() < noise.gaussian else (PoissonNoise, noise.poisson_scale)
    )
    return kind(_uniform(rng, strengths), gray=bool(rng.random() < noise.gray), seed=_seed(rng))


def _isp(isp: Isp, rng: np.random.Generator) -> Step:
    log_shot = _uniform(rng, (math.log(isp.shot[0]), math.log(isp.shot[1])))
    return IspNoise(
        shot=math.exp(log_shot),
        read=math.exp(2.18 * log_shot + 1.2 + float(rng.normal(0, 0.26))),
        red_gain=_uniform(rng, isp.red_gain),
        blue_gain=_uniform(rng, isp.blue_gain),
        crosstalk=tuple(_uniform(rng, isp.crosstalk) for _ in range(6)),
        seed=_seed(rng),
    )


def _jpeg(round_: Round, preset: Preset, rng: np.random.Generator) -> Step:
    quality = _uniform(rng, round_.jpeg)
    return JpegFile(int(quality)) if preset.opencv else Jpeg(quality)


def _uniform(rng: np.random.Generator, bounds: Range) -> float:
    return float(rng.uniform(*bounds))


def _odd(rng: np.random.Generator, bounds: tuple[int, int]) -> int:
    low, high = bounds
    return low + 2 * int(rng.integers((high - low) // 2 + 1))


def _seed(rng: np.random.Generator) -> int:
    return int(rng.integers(2**31))
