"""What steers one evaluation of a U-Net from outside: SFT features, residuals, further channels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

Residuals = Mapping[str, Sequence[Tensor | None]]
"""Of a control network: lists under "input", "middle" and "output", last one first used."""


@dataclass(frozen=True, eq=False)
class Conditioning:
    """What is given to the U-Net beside the noisy latent [B, C, H, W] and the text; empty: nothing.

    Attributes:
        features: for SFT, one map [b, F, h, w] a level, finest first. b is B, or divides it where rows
            i, i + b, i + 2b, … share them.
        residuals: of one control network or more, which are added to the features of the U-Net's blocks.
            The lists are not changed.
        channels: stand beside the noisy latent's own [B, C', H, W].
        rows: bool [B, 1, 1, 1], those that the features have a part in; None for all. One graph for rows
            with and without them is what a compiled training wants.
    """

    features: Sequence[Tensor] | None = None
    residuals: Sequence[Residuals] = ()
    channels: Tensor | None = None
    rows: Tensor | None = None

    def of_first(self, rows: int) -> Conditioning:
        """For so many rows, of which the first ones see it and the others nothing."""

        def padded(part: Tensor | None) -> Tensor | None:
            return part if part is None else F.pad(part, (0,) * 7 + (rows - len(part),))

        residuals = [
            {part: [padded(one) for one in row] for part, row in each.items()} for each in self.residuals
        ]
        seeing = None
        if self.features is not None:
            number = torch.arange(rows, device=self.features[0].device)
            seeing = (number < len(self.features[0]))[:, None, None, None]
        return replace(self, residuals=residuals, channels=padded(self.channels), rows=seeing)


UNCONDITIONED = Conditioning()


class Conditioner(Protocol):
    """A network that makes a `Conditioning` of a picture."""

    def conditioning(
        self, picture: Tensor, x: Tensor, timesteps: Tensor, context: Tensor | None
    ) -> Conditioning:
        """
        Args:
            picture: latent [b, C, H, W]; b is B, or divides it where rows i, i + b, … share their picture.
            x, timesteps, context: see `UNet.forward`.
        """
        ...


def for_rows(picture: Tensor, x: Tensor) -> Tensor:
    """A picture [b, …] for each of the rows of x; b divides their number."""
    if len(picture) == 1:
        return picture.expand(len(x), *[-1] * (picture.ndim - 1))
    times = len(x) // len(picture)
    return picture if times == 1 else picture.repeat(times, *[1] * (picture.ndim - 1))


def nothing_beside(x: Tensor, channels: int) -> Conditioning:
    """Zeros, as trainings put them in place of a condition that they drop."""
    return Conditioning(channels=x.new_zeros(len(x), channels, *x.shape[2:]))


@dataclass(frozen=True)
class Concatenation:
    """Puts the picture's channels beside the noisy latent's (latent diffusion's upscaler, ReF-LDM), for a
    U-Net that has `in_channels` in all."""

    in_channels: int

    def conditioning(
        self, picture: Tensor, x: Tensor, timesteps: Tensor, context: Tensor | None
    ) -> Conditioning:
        if x.shape[1] + picture.shape[1] != self.in_channels:
            raise ValueError(
                f"A condition of {picture.shape[1]} channels was given, but this U-Net has no LQ encoder, no "
                "control network and no channels for it: load a StableSR restorer."
            )
        return Conditioning(channels=for_rows(picture, x))
