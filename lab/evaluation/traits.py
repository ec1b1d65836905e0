"""What of a person came back: the traits, by group, and the spots (moles and scars) in their places."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..people import Person, draw_person

GROUPS = ("colour", "geometry", "marks")
"""Of the drawing's traits. Moles and scars, which are places and no numbers, are measured there: `spots`."""

READABLE = 0.5
"""A trait counts where the judges explain at least this part of its variance on clean pictures."""

SPOT_LEAST = 0.05
"""Spots count where they change the picture by more than this somewhere."""


def trait_names() -> list[tuple[str, str]]:
    """(group, name) of each entry of `trait_vector`."""
    return [name for name, _ in _numbers(draw_person(np.random.default_rng(0)))]


def trait_vector(person: Person) -> Tensor:
    """[T], in the order of `trait_names`: colours by the logarithm of each channel, as they are seen, and of
    what has kinds (glasses) whether there is any."""
    return torch.tensor([value for _, value in _numbers(person)])


def _numbers(person: Person) -> Iterator[tuple[tuple[str, str], float]]:
    for trait in person.traits():
        value = trait.value
        if isinstance(value, (int, float)):
            yield (trait.group, trait.name), float(value)
        elif isinstance(value, str):
            yield (trait.group, trait.name), float(bool(value))
        elif len(value) == 3 and all(isinstance(channel, float) for channel in value):
            for channel, level in zip("rgb", value, strict=True):
                yield (trait.group, f"{trait.name}.{channel}"), math.log(level)


def recovery(found: Tensor, true: Tensor, counts: Tensor) -> Tensor:
    """How much of a group of traits was recovered, in percent: 100 is all, 0 is an average person's face.

    Args:
        found: [B, T] in standard deviations off the population's mean.
        true: [T] likewise.
        counts: bool [T]: which traits make the group; NaN where none does.
    Returns:
        100·(1 - mean squared error) [B], negative where the average person would be nearer.
    """
    return 100 * (1 - ((found - true) ** 2)[:, counts].mean(1))


def spotless(person: Person) -> Person:
    """The same person without moles and scar: what the picture would be without its spots."""
    return replace(person, moles=(), scar=())


def spots_recovery(images: Tensor, spotted: Tensor, plain: Tensor) -> Tensor:
    """How much of the spots came back, in percent, measured where they are known to be.

    The difference D of the true picture with and without the spots says where they are and how dark. Of
    both pictures only what is finer than a smooth shade counts, so that a shift in colour does not matter:
    100·<image - plain, D> / <D, D>.

    Args:
        images: [B, 3, H, W] to be measured.
        spotted, plain: the true pictures with and without spots, likewise.
    Returns:
        [B] in [-100, 100]: 100 where the spots are all there, about 0 where they are not, NaN where there
        are no visible spots.
    """
    difference = spotted - plain
    fine = _fine(difference)
    share = (_fine(images - plain) * fine).sum((1, 2, 3)) / (fine * fine).sum((1, 2, 3)).clamp_min(1e-12)
    seen = difference.abs().amax((1, 2, 3)) > SPOT_LEAST
    return torch.where(seen, 100 * share.clamp(-1, 1), torch.nan)


def _fine(images: Tensor) -> Tensor:
    """Minus the mean of a window of a sixteenth of the side."""
    window = 2 * (images.shape[-1] // 32) + 1
    smooth = F.avg_pool2d(images, window, 1, window // 2, count_include_pad=False)
    return images - smooth
