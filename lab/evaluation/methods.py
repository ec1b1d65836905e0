"""Methods: whatever turns a case's bad pictures into better ones."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pfstorer_core.restore import restore
from pfstorer_core.restorers.base import Restorer

from .cases import Case

Method = Callable[[Case], Tensor]
"""A case of M photos -> its restored pictures [M, 3, S, S] in [0, 1]."""


def standard_methods(restorer: Restorer, steps: int = 50, fidelity: float = 0.0) -> dict[str, Method]:
    """The rows that every scoreboard has.

    `input` is the bad picture itself, `autoencoder` the true picture through the first stage and back (the
    most that a restorer in this latent space can reach), `base` the restorer without any identity.
    """

    def autoencoder(case: Case) -> Tensor:
        return round_trip(restorer, case.hq)

    def base(case: Case) -> Tensor:
        return restore(restorer, case.lq, upscale=1, steps=steps, fidelity=fidelity, seed=case.seed)

    return {"input": lambda case: case.lq, "autoencoder": autoencoder, "base": base}


@torch.no_grad()
def round_trip(restorer: Restorer, images: Tensor) -> Tensor:
    """Pictures [B, 3, H, W] in [0, 1], encoded and decoded; sides multiples of the autoencoder's factor."""
    pictures = 2 * images.to(restorer.null_context) - 1
    decoded = restorer.autoencoder.decode(restorer.autoencoder.encode(pictures))
    return ((decoded.float() + 1) / 2).clamp(0, 1).cpu()
