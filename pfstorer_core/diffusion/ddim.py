"""DDIM sampling (Song et al. 2021), as the latent diffusion models were sampled when they were published."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .sampling import Denoiser, Generators, Guide, SamplerStep, drawn
from .schedule import PredictionType, Schedule

SPACINGS = ("uniform", "uniform_trailing", "trailing")


def ddim_timesteps(steps: int, spacing: str = "uniform", total: int = 1000) -> list[int]:
    """Which of `total` time steps DDIM visits, increasing.

    Args:
        spacing: "uniform": latent diffusion's, every (total // steps)-th, plus one. "uniform_trailing":
            ReF-LDM's, of the same stride, counted down from the last. Where `steps` does not divide `total`
            both have more than `steps`, as published. "trailing": exactly `steps`, as ReF-LDM's where they
            divide it, else evenly spread.

    Raises:
        ValueError: an unknown spacing; a number of steps that is not from 1 to `total`; or one whose list
            has a time step that does not exist, as "uniform" has for some.
    """
    if not 1 <= steps <= total:
        raise ValueError(f"DDIM takes 1 to {total} steps, got {steps}.")
    stride = total // steps
    if spacing == "uniform":
        found = [t + 1 for t in range(0, total, stride)]
    elif spacing == "uniform_trailing":
        found = [t - 1 for t in range(total, 0, -stride)][::-1]
    elif spacing == "trailing":
        found = [total - 1 - round(k * total / steps) for k in reversed(range(steps))]
    else:
        raise ValueError(f"DDIM knows the spacings {', '.join(SPACINGS)}, not {spacing!r}.")
    if found[-1] >= total:
        raise ValueError(
            f"{steps} steps of the spacing {spacing} end at time step {found[-1]}, and {total - 1} is the "
            "last: take another number, or the spacing trailing."
        )
    return found


@torch.no_grad()
def sample_ddim(
    model: Denoiser,
    x: Tensor,
    schedule: Schedule,
    timesteps: Sequence[int],
    prediction_type: PredictionType,
    *,
    eta: float = 0.0,
    rederive: bool = False,
    noises: Sequence[Tensor] | Tensor | None = None,
    generator: Generators = None,
    guide: Guide | None = None,
    callback: Callable[[SamplerStep], object] | None = None,
) -> Tensor:
    """DDIM's reverse process (eq. 12), whose last step ends at the schedule's first noise level, as
    published: the sample is not quite the last x0, and with `eta` there is noise in it.

    Args:
        model: called once a step with the state and the original time steps.
        x: the state to start from, [B, C, H, W], at the level of the last of `timesteps`.
        schedule: the *full* one that the model was trained with.
        timesteps: indices of it, increasing, such as `ddim_timesteps` gives, or the first of them where a
            picture's latent is the start.
        eta: of the noise that each step adds: 0 none, 1 DDPM's.
        rederive: the direction to the next state is that of the guided x0, as in samplers that only see the
            denoised picture; else the network's own, as published with `quantize_denoised`.
        noises: of every step, noisiest first, [steps, B, C, H, W] or a list. None to draw it.
        generator, guide, callback: see `sample_ddpm`.

    Returns:
        The sample, [B, C, H, W].

    Raises:
        ValueError: time steps that are no increasing indices, or more of them than `noises` serves.
    """
    visited = schedule.respaced(timesteps)
    total = len(visited)
    if noises is not None and len(noises) < total:
        raise ValueError(f"{total} steps need as many noises, got {len(noises)}")
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    signal = visited.alphas_cumprod
    following = torch.cat([schedule.alphas_cumprod[:1], signal[:-1]])
    sigmas = eta * ((1 - following) / (1 - signal) * (1 - signal / following)).clamp(min=0).sqrt()

    for number, index in enumerate(reversed(range(total))):
        time = int(visited.timesteps[index])
        t = torch.full((x.shape[0],), time, dtype=torch.int64, device=x.device)
        output = model(x, t).to(x)
        x0 = visited.predict_x0(x, index, output, prediction_type)
        eps = visited.predict_eps(x, index, output, prediction_type)
        if guide is not None:
            x0 = guide(x0, time)
            if rederive:
                eps = visited.noise_between(x, index, x0)
        sigma = sigmas[index].item()
        x = following[index].sqrt().item() * x0 + (1 - following[index] - sigma**2).sqrt().item() * eps
        if sigma:
            x = x + sigma * (drawn(x, generator) if noises is None else noises[number].to(x))
        if callback is not None:
            callback(SamplerStep(number, total, time, x0, x))
    return x
