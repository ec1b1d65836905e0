"""Changes of a U-Net's weights: low-rank or full, which layers have some, and at which resolution."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ..checkpoints.parts import CONTROL
from ..models import UNetConfig


@dataclass(frozen=True, eq=False)
class LowRank:
    """ΔW = alpha / rank · up · down, added to a weight W (Hu et al. 2021, section 4.1).

    Attributes:
        up: [out, rank], or [out, rank, 1, 1] of a convolution.
        down: [rank, in], or [rank, in, kh, kw].
    """

    up: Tensor
    down: Tensor
    alpha: float

    @property
    def rank(self) -> int:
        return len(self.down)

    def delta(self, weight: Tensor) -> Tensor:
        """ΔW in the shape and number format of W."""
        product = self.up.flatten(1) @ self.down.flatten(1)
        return (self.alpha / self.rank * product).view_as(weight).to(weight)

    def fits(self, weight: Tensor) -> bool:
        return len(self.up) == len(weight) and self.down[0].numel() == weight[0].numel()

    def scaled(self, strength: float) -> LowRank:
        return replace(self, alpha=strength * self.alpha)

    def to(self, device: torch.device | str, dtype: torch.dtype) -> LowRank:
        return replace(self, up=self.up.to(device, dtype), down=self.down.to(device, dtype))


@dataclass(frozen=True, eq=False)
class Full:
    """ΔW = strength · `change`, of the shape of the weight."""

    change: Tensor
    strength: float = 1.0

    def delta(self, weight: Tensor) -> Tensor:
        return (self.strength * self.change).to(weight)

    def fits(self, weight: Tensor) -> bool:
        return self.change.shape == weight.shape

    def scaled(self, strength: float) -> Full:
        return replace(self, strength=strength * self.strength)

    def to(self, device: torch.device | str, dtype: torch.dtype) -> Full:
        return replace(self, change=self.change.to(device, dtype))


def changeable(unet: nn.Module) -> dict[str, Tensor]:
    """The weights of all linear layers and 2-D convolutions, by the names of these layers."""
    suffix = ".weight"
    return {
        name.removesuffix(suffix): weight
        for name, weight in unet.named_parameters()
        if name.endswith(suffix) and weight.ndim in (2, 4)
    }


def new_low_rank(weight: Tensor, rank: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """`up` and `down` of a change that changes nothing yet, in fp32."""
    down = torch.randn(rank, *weight.shape[1:], generator=generator) / weight[0].numel() ** 0.5
    return torch.zeros(len(weight), rank, *[1] * (weight.ndim - 2)), down


def feature_scale(sizes: UNetConfig, layer: str) -> int | None:
    """How much smaller than the latent the features are that a layer of the U-Net, or a parameter, acts on:
    1, 2, 4, …; None for what is in no block: time embeddings and the LQ encoder. The blocks of a control
    network are as large as the U-Net's own."""
    part, *rest = layer.removeprefix(CONTROL.prefix).split(".")
    last, a_level = len(sizes.channel_mult) - 1, sizes.num_res_blocks + 1
    if part in ("input_blocks", "zero_convs"):
        return 2 ** (max(int(rest[0]) - 1, 0) // a_level)
    if part == "output_blocks":
        return 2 ** (last - int(rest[0]) // a_level)
    return {"middle_block": 2**last, "middle_block_out": 2**last, "out": 1}.get(part)


def factor_at(scale: int | None, factors: Mapping[int, float]) -> float:
    """Of the features of a scale, see `feature_scale`. What is smaller than the last factor's has that one;
    1 where there is none. What is in no block acts as far as anything does: by the largest, but no more than
    it has learned."""
    if not factors:
        return 1.0
    if scale is None:
        return min(1.0, max(factors.values())) if 1 in factors else 1.0
    return factors.get(min(scale, max(factors)), 1.0)
