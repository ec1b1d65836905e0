"""Ancestral DDPM sampling of a restoration model (StableSR, Wang et al. 2024)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .schedule import PredictionType, Schedule

Denoiser = Callable[[Tensor, Tensor], Tensor]
"""(x [B, C, H, W], original time steps [B] int64) -> the network's output, of x's shape.
Whatever else the network needs is bound beforehand."""
Guide = Callable[[Tensor, int], Tensor]
"""(predicted clean sample x0 [B, C, H, W], original time step) -> the x0 that the sampler goes on with."""
Generators = torch.Generator | Sequence[torch.Generator] | None
"""What draws noise: one for all rows of a batch, or one for each; None for torch's default one."""


@dataclass(frozen=True, eq=False)
class SamplerStep:
    """What a callback sees after each step.

    Attributes:
        number: 0 for the first (noisiest) step executed, `total - 1` for the last.
        total: the number of steps.
        timestep: the original time step that the network was told.
        x0: the clean sample predicted in this step.
        x: the state after this step; after the last step it is the result.
    """

    number: int
    total: int
    timestep: int
    x0: Tensor
    x: Tensor


def start_latent(schedule: Schedule, lq_latent: Tensor, noise: Tensor, timestep: int | None = None) -> Tensor:
    """Where a restoration starts: the low-quality latent, noised to the last time step.

    What is left of the latent there (0.068 of it, in Stable Diffusion's schedule) fixes the overall
    colours.

    Args:
        schedule: the *full* schedule that the model was trained with, not the sampler's respaced
            one.
        lq_latent: [B, C, H, W], scaled as the U-Net sees it.
        noise: standard normal, of the same shape.
        timestep: an index of `schedule`; None for the last.
    """
    return schedule.q_sample(lq_latent, len(schedule) - 1 if timestep is None else timestep, noise)


@torch.no_grad()
def sample_ddpm(
    model: Denoiser,
    x: Tensor,
    schedule: Schedule,
    prediction_type: PredictionType,
    *,
    noises: Sequence[Tensor] | Tensor | None = None,
    generator: Generators = None,
    guide: Guide | None = None,
    callback: Callable[[SamplerStep], object] | None = None,
) -> Tensor:
    """DDPM's reverse process (Ho et al. 2020, algorithm 2), with the fixed small variance.

    The predicted x0 is not clipped.

    Args:
        model: called once a step with the state and the original time steps.
        x: the state to start from, [B, C, H, W] (`start_latent`). The state is kept in at least
            float32.
        schedule: of the sampler, one index a step: `full.respaced(steps)`.
        noises: the noise of every step, noisiest first, [steps, B, C, H, W] or a list (that of the
            last step is not used and may be left out). None to draw it.
        generator: draws the noise, on its own device, so that a CPU generator gives every device
            the same. One for each row makes a row what it is without its neighbours.
        guide: changes each predicted x0, of which the mean of the next state is made; for instance
            `restoration_guidance.RestorationGuidance`.
        callback: called after each step. To stop early, raise in it.

    Returns:
        The sample, [B, C, H, W].

    Raises:
        ValueError: if the schedule has more steps than `noises` serves.
    """
    total = len(schedule)
    if noises is not None and len(noises) < total - 1:
        raise ValueError(f"{total} steps need {total - 1} noises or more, got {len(noises)}")
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    timesteps = schedule.timesteps.tolist()

    for number, index in enumerate(reversed(range(total))):
        t = torch.full((x.shape[0],), timesteps[index], dtype=torch.int64, device=x.device)
        x0 = schedule.predict_x0(x, index, model(x, t).to(x), prediction_type)
        if guide is not None:
            x0 = guide(x0, timesteps[index])
        x, _, log_variance = schedule.posterior(x0, x, index)
        if index > 0:
            noise = drawn(x, generator) if noises is None else noises[number].to(x)
            x = x + (0.5 * log_variance).exp() * noise
        if callback is not None:
            callback(SamplerStep(number, total, timesteps[index], x0, x))
    return x


def seeded(seed: int | Sequence[int], rows: int) -> torch.Generator | list[torch.Generator]:
    """A generator on the CPU, or one for each of so many rows; raises ValueError where there are not as many
    seeds."""
    if isinstance(seed, int):
        return torch.Generator().manual_seed(seed)
    if len(seed) != rows:
        raise ValueError(f"{rows} pictures need one seed, or as many, got {len(seed)}.")
    return [torch.Generator().manual_seed(one) for one in seed]


def drawn(x: Tensor, generator: Generators) -> Tensor:
    """Standard normal noise like x [B, ...], of generators on whatever device."""
    if isinstance(generator, Sequence):
        return torch.cat([drawn(row, own) for row, own in zip(x.split(1), generator, strict=True)])
    device = x.device if generator is None else generator.device
    return torch.randn(x.shape, generator=generator, device=device, dtype=x.dtype).to(x.device)
