"""Identities: whom to restore, how strongly and where."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..restorers.base import Restorer
from ..restorers.changes import Changes
from .base import BoundAdapter, Knowledge

MAX_GAMMA = 2.0

ROUNDING = 1e-6
"""What complementary areas may fail to add up to 1 by."""


@dataclass(frozen=True, eq=False)
class Identity:
    """An identity to restore.

    Attributes:
        adapter: what is known of the person: an adapter, or photos as they are.
        gamma: strength, 0…2: multiplies what was learned. 0 is the base restorer, bit for bit.
        area: where the identity acts [1, 1, H, W] in [0, 1], of any size; None for the whole picture.
        factors: further factors on gamma by how much smaller than the latent the features are (1, 2, 4).
    """

    adapter: Knowledge
    gamma: float = 1.0
    area: Tensor | None = None
    factors: Mapping[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 <= self.gamma <= MAX_GAMMA:  # NaN is in no range
            raise ValueError(f"gamma must be from 0 to {MAX_GAMMA:g}, got {self.gamma}.")

    def bound(self, restorer: Restorer) -> BoundAdapter:
        """At work in a restorer; raises ValueError where it is of another base, or does not fit."""
        self.adapter.check_base(restorer.fingerprint)
        self.adapter.check_fit(restorer.unet, restorer.header.image_size)
        adapter = self.adapter.to(restorer.device, restorer.dtype)
        return adapter.bind(restorer.unet, restorer.schedule, self.gamma, self.factors)


def each_in_its_area(predict: Callable[[Sequence[int]], Tensor], areas: Sequence[Tensor | None]) -> Tensor:
    """The prediction for identities of which some act in a part of the picture only.

    What acts inside the network is seen everywhere, by attention and normalization. So each bounded identity
    gets an evaluation of its own, of which its area counts, and what is nobody's area is the base's; where
    areas overlap, the changes add up. An evaluation that counts nowhere is left out.

    Args:
        predict: evaluates the network with the identities of these numbers.
        areas: of each identity [B, 1, H, W] in [0, 1], as large as the prediction; None for everywhere.
    """
    everywhere = [k for k, area in enumerate(areas) if area is None]
    bounded = {k: area for k, area in enumerate(areas) if area is not None}
    if not bounded:
        return predict(everywhere)
    shares = [(everywhere, 1 - torch.stack([*bounded.values()]).sum(0))]
    shares += [([*everywhere, k], area) for k, area in bounded.items()]
    counting = [(who, share) for who, share in shares if (share.abs() > ROUNDING).any()]
    return sum((share * predict(who) for who, share in counting), torch.zeros(()))


def personal_context(
    null_context: Tensor, changes: Sequence[Changes], areas: Sequence[Tensor | None]
) -> Tensor:
    """The context in place of the empty prompt's: one identity that acts everywhere is called by its name, as
    far as its gamma goes; with several, or in a part of the picture, nobody is."""
    if len(changes) != 1 or areas[0] is not None or changes[0].context is None:
        return null_context
    own = changes[0].context.to(null_context)
    if changes[0].context_share == 1:
        return own
    own, null = of_one_length(own, null_context)
    return torch.lerp(null, own.expand_as(null), changes[0].context_share)


def of_one_length(*contexts: Tensor) -> list[Tensor]:
    """Text contexts [B, L, D], repeated until all are as long: what is there equally often is attended to as
    if it were there once."""
    length = math.lcm(*(context.shape[1] for context in contexts))
    return [context.repeat(1, length // context.shape[1], 1) for context in contexts]
