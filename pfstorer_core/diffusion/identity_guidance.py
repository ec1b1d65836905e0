"""Identity guidance (a reading of CLR-Face, Suin & Chellappa 2024): every predicted x0 takes a step
that makes a face recogniser find the wanted person in it, where a mask admits it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .schedule import Schedule

Likeness = Callable[[Tensor, int], Tensor]
"""(a predicted clean latent x0 [1, C, h, w], its number in the batch) -> how much it looks like its person:
the cosine of a recogniser's embeddings of what it decodes to and of the person, through which gradients
flow."""


@dataclass(frozen=True)
class IdentitySettings:
    """How strongly and when to guide.

    Attributes:
        strength: length of a step, as the root mean square over the latent, in units of `spread`; 0 changes
            nothing.
        every: acts in each so many-th step, the first of those in the window among them.
        clip: a value of the latent moves by no more than this, in the same units.
        t_start, t_stop: acts where t_stop <= t < t_start, t being the original time step.

    Raises:
        ValueError: a number out of range, or a window without steps.
    """

    strength: float = 0.01
    every: int = 1
    clip: float = 0.2
    t_start: float = 600
    t_stop: float = 0

    def __post_init__(self) -> None:
        if not 0 <= self.strength < float("inf") or not self.clip > 0 or self.every < 1:
            raise ValueError(
                "Identity guidance needs a strength of 0 or more, a clip above 0 and every 1 or more, got "
                f"strength {self.strength}, clip {self.clip} and every {self.every}."
            )
        if not self.t_stop < self.t_start:
            raise ValueError(
                f"Identity guidance would never act: no time step t has {self.t_stop:g} <= t < "
                f"{self.t_start:g}. Raise the window's start or lower its end."
            )

    def window(self, schedule: Schedule) -> list[float]:
        """The time steps of a sampler, noisiest first, in which to act."""
        timesteps = [float(t) for t in schedule.timesteps.flip(0) if self.t_stop <= t < self.t_start]
        return timesteps[:: self.every]


@dataclass(frozen=True, eq=False)
class IdentityGuidance:
    """A `Guide` for samplers, which go on with the x0 that it returns; also a post-CFG function's inside.

    x0 <- x0 - sqrt(alpha_bar_t) clip(s m g), where g is the gradient of 1 - `likeness` at x0, divided by its
    root mean square. As x0 becomes sure, the steps grow to what s says.

    Works under `torch.no_grad` and in inference mode; for the weights see `RestorationGuidance`.

    Args:
        schedule: the sampler's, one index a step. A sampler that asks between two of its steps asks for the
            noisier one.
        spread: standard deviation of the latents that are sampled, a number or one for each row [B].
        mask: how much of the step each value takes, in [0, 1], broadcast against x0; None for all of it.
            Where it is 0 everywhere, nothing is computed, and x0 stays as it is, bit for bit.
        on_step: called with the time step, the likeness before the step and the root mean square of the
            gradient, both [B]. Where the latter is 0 the recogniser sees nothing there to go by, and x0
            stays.
    """

    settings: IdentitySettings
    schedule: Schedule
    likeness: Likeness
    spread: float | Tensor = 1.0
    mask: Tensor | None = None
    on_step: Callable[[float, Tensor, Tensor], object] | None = None

    def acts(self, timestep: float) -> bool:
        settings = self.settings
        if not settings.strength or (self.mask is not None and not self.mask.any()):
            return False
        noisier = [t for t in self.schedule.timesteps.tolist() if t > timestep - 0.5]
        return min(noisier, default=self.schedule.timesteps[-1].item()) in settings.window(self.schedule)

    def __call__(self, x0: Tensor, timestep: float) -> Tensor:
        """The guided x0 [B, C, h, w] at an original time step, or near one of the schedule's."""
        if not self.acts(timestep):
            return x0
        index = int((self.schedule.timesteps - timestep).abs().argmin())
        likeness, gradient = self.gradient(x0)
        rms = gradient.square().mean((1, 2, 3)).sqrt()
        if self.on_step is not None:
            self.on_step(timestep, likeness, rms)
        signal = self.schedule.sqrt_alphas_cumprod[index].item()
        return x0 - signal * self.step(gradient, rms).to(x0)

    def gradient(self, x0: Tensor) -> tuple[Tensor, Tensor]:
        """Likeness [B], and the gradient of 1 - likeness at each x0 [B, C, h, w], fp32; one after the other,
        since a decoder's activations are many."""
        found = list[tuple[Tensor, Tensor]]()
        with torch.inference_mode(False), torch.enable_grad():
            for number, row in enumerate(x0.detach().clone().float().split(1)):
                row.requires_grad_()
                likeness = self.likeness(row, number).sum()
                found.append((likeness.detach(), torch.autograd.grad(1 - likeness, row)[0]))
        likenesses, gradients = zip(*found, strict=True)
        return torch.stack(likenesses), torch.cat(gradients)

    def step(self, gradient: Tensor, rms: Tensor) -> Tensor:
        """clip(s m g) of a gradient [B, C, h, w] and its root mean square [B], in the latent's numbers."""
        rms, spread = (_rows(value, gradient) for value in (rms, torch.as_tensor(self.spread)))
        unit = torch.where(rms > 0, gradient / rms, 0.0)
        mask = 1.0 if self.mask is None else self.mask.to(gradient)
        limit = self.settings.clip
        return spread * (self.settings.strength * mask * unit).clamp(-limit, limit)


def _rows(values: Tensor, x: Tensor) -> Tensor:
    """A number, or one for each row [B], to broadcast against x [B, C, h, w]."""
    return values.to(x).reshape(-1, *[1] * (x.ndim - 1))
