"""Restoration guidance (DiffBIR, Lin et al. 2024): every predicted x0 is pulled towards the cleaned picture,
which trades invented detail for fidelity."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import NamedTuple

import torch
import torch.nn.functional as F
from kornia.color import rgb_to_grayscale
from kornia.filters import sobel
from torch import Tensor

from .sampling import drawn, seeded
from .schedule import Schedule

Target = Callable[[int, int], Tensor]
"""(original time step, number of the repeat) -> what is pulled towards: a scaled latent [b, C, h, w], or a
picture [b, 3, H, W] in [-1, 1]; b is 1 or the number of rows."""

LUMA = (0.2989, 0.587, 0.114)
"""Of red, green and blue in the grey picture, as torchvision has it."""


class Rule(NamedTuple):
    """What a step against the gradient, `factor * scale` long, does in a published sampler.

    Attributes:
        mean: the part of it by which the mean of the next state moves.
        through_mean: between repeats, x0 moves as far as makes the mean move by the step; else by the step.
    """

    factor: float
    mean: float
    through_mean: bool


RULES = {"v1": Rule(1.0, 0.5, False), "v2": Rule(3000.0, 1.0, True)}
"""DiffBIR's latent image guidance, and what took its place."""
SPACES = ("latent", "rgb")
LOSSES = ("mse", "w_mse")


@dataclass(frozen=True)
class GuidanceSettings:
    """How strongly, where and when to guide. The defaults are DiffBIR v2's example.

    Attributes:
        scale: of the gradient; 0 changes nothing. v2's are about 0.5, v1's about 400.
        space: where predicted and cleaned picture are compared: "latent", or "rgb", with the gradient through
            the decoder.
        loss: "mse", or "w_mse", which counts flat areas more (`flatness`); of pictures only.
        rule: "v1" or "v2".
        repeats: gradient steps in each step of the sampler.
        t_start, t_stop: acts where t_stop < t + 1 < t_start, t being the original time step.

    Raises:
        ValueError: an unknown word, latents with "w_mse", a number out of range, or a window without steps.
    """

    scale: float = 0.5
    space: str = "rgb"
    loss: str = "w_mse"
    rule: str = "v2"
    repeats: int = 1
    t_start: int = 1001
    t_stop: int = -1

    def __post_init__(self) -> None:
        for word, choices in ((self.space, SPACES), (self.loss, LOSSES), (self.rule, tuple(RULES))):
            if word not in choices:
                raise ValueError(f"Restoration guidance knows {' and '.join(choices)}, not {word!r}.")
        if self.space == "latent" and self.loss == "w_mse":
            raise ValueError(
                "The loss w_mse weights the pixels of a picture and cannot compare latents: take the space "
                "rgb, or the loss mse."
            )
        if not 0 <= self.scale < float("inf") or self.repeats < 1:
            raise ValueError(
                "Restoration guidance needs a scale of 0 or more and one repeat or more, got scale "
                f"{self.scale} and {self.repeats} repeats."
            )
        if self.t_start < max(self.t_stop, 0) + 2:
            raise ValueError(
                f"Restoration guidance would never act: no time step t has t_stop {self.t_stop} < t + 1 < "
                f"t_start {self.t_start}. Raise t_start (1001 is the start of the sampling) or lower t_stop."
            )

    def acts(self, timestep: float) -> bool:
        return self.scale > 0 and self.t_stop < timestep + 1 < self.t_start


@dataclass(frozen=True, eq=False)
class RestorationGuidance:
    """A `Guide` for samplers that make the next state's mean of x0; also a post-CFG function's inside.

    Both published rules move that mean, v1 without changing x0. Here x0 itself is moved, by as much as makes
    its mean the published one, so that samplers need to know of no rule.

    Works under `torch.no_grad` and in inference mode. The weights that `decode` computes with must not have
    been made in inference mode: torch cannot save inference tensors for a backward pass. They need no
    gradients of their own.

    Args:
        schedule: the sampler's, one index a step.
        target: `posterior_target` in the space "latent", the cleaned picture in "rgb".
        decode: scaled latents [B, C, h, w] -> pictures [B, 3, H, W], about [-1, 1]; for "rgb".

    Raises:
        ValueError: the space "rgb" without `decode`.
    """

    settings: GuidanceSettings
    schedule: Schedule
    target: Target
    decode: Callable[[Tensor], Tensor] | None = None

    def __post_init__(self) -> None:
        if self.settings.space == "rgb" and self.decode is None:
            raise ValueError("Restoration guidance in the space rgb needs a decoder.")

    def __call__(self, x0: Tensor, timestep: float) -> Tensor:
        """The guided x0 [B, C, h, w] at an original time step, or near one of the schedule's."""
        if not self.settings.acts(timestep):
            return x0
        rule = RULES[self.settings.rule]
        index = int((self.schedule.timesteps - timestep).abs().argmin())
        coefficient = self.schedule.posterior_mean_coef1[index].item()
        moved, total = x0, torch.zeros_like(x0)
        for repeat in range(self.settings.repeats):
            target = self.target(int(timestep), repeat)
            step = -rule.factor * self.settings.scale * self._gradient(moved, target)
            moved = moved + (step / coefficient if rule.through_mean else step)
            total = total + step
        return x0 + rule.mean / coefficient * total

    def loss(self, x0: Tensor, target: Tensor) -> Tensor:
        """How far x0 [B, C, h, w] is from the target, [B]: a mean over channels and places."""
        predicted = self.decode(x0) if self.decode and self.settings.space == "rgb" else x0
        target = target.to(predicted.device).float()
        error = (predicted - target).square()
        if self.settings.loss == "w_mse":
            error = flatness((target + 1) / 2) * error
        return error.mean((1, 2, 3))

    def _gradient(self, x0: Tensor, target: Tensor) -> Tensor:
        with torch.inference_mode(False):  # which ends a torch.no_grad, too
            x0 = x0.detach().clone().requires_grad_()
            return torch.autograd.grad(self.loss(x0, target).sum(), x0)[0]


def posterior_target(mean: Tensor, std: Tensor, seed: int | Sequence[int]) -> Target:
    """Fresh draws from the distribution of a latent, which DiffBIR guides towards instead of its mode.

    A draw is a function of seed, time step and repeat alone: no run leaves anything for the next.

    Args:
        mean, std: of the scaled latent, [b, C, h, w].
        seed: of all, or one for each.
    """

    def draw(timestep: int, repeat: int) -> Tensor:
        def own(seed: int) -> int:
            return Random(f"{seed} {timestep} {repeat}").getrandbits(63)

        seeds = own(seed) if isinstance(seed, int) else [own(one) for one in seed]
        noise = drawn(mean.float().cpu(), seeded(seeds, len(mean)))
        return mean + std * noise.to(mean)

    return draw


def flatness(picture: Tensor) -> Tensor:
    """Weights [B, 1, H, W] of a picture's pixels, 1 where it is flat and near 0 at its edges: 1 - tanh of the
    Sobel magnitude, summed over blocks of 2 x 2 pixels.

    Args:
        picture: [B, 3, H, W] in [0, 1].

    Raises:
        ValueError: if a side is odd.
    """
    if picture.shape[-1] % 2 or picture.shape[-2] % 2:
        raise ValueError(f"expected a picture with even sides, got {list(picture.shape)}")
    grey = rgb_to_grayscale(picture.float(), picture.new_tensor(LUMA, dtype=torch.float32))
    blocks = 4 * F.avg_pool2d(sobel(grey, normalized=False, eps=0.0), 2)
    return F.interpolate(1 - blocks.tanh(), scale_factor=2, mode="nearest")
