"""Photos that a restorer's own U-Net reads as references: at which time step, and what it then sees."""

from __future__ import annotations

import torch
from torch import Tensor

from ..diffusion.schedule import Schedule

REFERENCE_TIMESTEPS = ("zero", "same", "noised")
"""Read once as clean pictures at time step 0; anew in every step at its time step, clean; or noised to it."""


def check_reference_timestep(name: str) -> None:
    """Raise ValueError where it is none of `REFERENCE_TIMESTEPS`."""
    if name not in REFERENCE_TIMESTEPS:
        raise ValueError(f"No reference time step {name!r}; choose one of {', '.join(REFERENCE_TIMESTEPS)}.")


def as_seen(latents: Tensor, t: Tensor, reference_timestep: str, schedule: Schedule | None = None) -> Tensor:
    """Reference latents [R, C, h, w] as the U-Net gets them: clean, or noised to their time step, always by
    the same noise.

    Raises:
        ValueError: "noised" without a schedule.
    """
    if reference_timestep != "noised":
        return latents
    if schedule is None:
        raise ValueError("References are noised by the restorer's schedule, and none was given.")
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
    return schedule.q_sample(latents.float(), t, noise.to(latents.device)).to(latents.dtype)
