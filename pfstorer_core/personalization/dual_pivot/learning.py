"""Changes of weights while they are learned: full or low-rank, in fp32 whatever the frozen weights are in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...models import UNet
from ...restorers.changes import WeightChange
from ..weights import Full, LowRank, new_low_rank


@dataclass(frozen=True, eq=False)
class Master:
    """A weight that is trained, as a change of the frozen one: weight decay pulls at the weight itself, as in
    the published recipes, and not at what was learned."""

    master: Tensor

    def delta(self, weight: Tensor) -> Tensor:
        return (self.master - weight.float()).to(weight)


class LearnedWeights(nn.Module):
    """Of some parameters of a U-Net. AdamW's state lies beside them: 16 bytes a value in all, gradients
    included, and as much as the parameters once more for the loop's average."""

    def __init__(self, unet: UNet, names: Sequence[str]) -> None:
        super().__init__()
        self.unet = [unet]  # in a list, so that it is no part of the module
        self.names = {_key(name): name for name in names}

    def base(self, name: str) -> Tensor:
        return self.unet[0].get_parameter(name).detach()

    def changes(self) -> dict[str, list[WeightChange]]:
        """Gradients flow through them."""
        raise NotImplementedError

    def learned(self) -> dict[str, Full | LowRank]:
        """A copy of what was learned so far."""
        raise NotImplementedError

    def take(self, begun: Mapping[str, Full | LowRank]) -> None:
        """Go on from what was learned before."""
        raise NotImplementedError


class FullWeights(LearnedWeights):
    """All values of them."""

    def __init__(self, unet: UNet, names: Sequence[str]) -> None:
        super().__init__(unet, names)
        self.weights = nn.ParameterDict(
            {key: nn.Parameter(self.base(name).float().clone()) for key, name in self.names.items()}
        )

    def changes(self) -> dict[str, list[WeightChange]]:
        return {name: [Master(self.weights[key])] for key, name in self.names.items()}

    @torch.no_grad()
    def learned(self) -> dict[str, Full | LowRank]:
        return {
            name: Full(self.weights[key].detach() - self.base(name).to(self.weights[key]))
            for key, name in self.names.items()
        }

    @torch.no_grad()
    def take(self, begun: Mapping[str, Full | LowRank]) -> None:
        for key, name in self.names.items():
            own = self.weights[key]
            base = self.base(name).to(own)
            own.copy_(base + begun[name].to(own.device, own.dtype).delta(base))


class LowRankWeights(LearnedWeights):
    """Low-rank changes of those that are matrices or convolutions; the others stay."""

    def __init__(self, unet: UNet, names: Sequence[str], rank: int, seed: int) -> None:
        weights = {name: unet.get_parameter(name) for name in names}
        super().__init__(unet, [name for name, weight in weights.items() if weight.ndim in (2, 4)])
        generator = torch.Generator().manual_seed(seed)
        self.rank, self.up, self.down = rank, nn.ParameterDict(), nn.ParameterDict()
        for key, name in self.names.items():
            up, down = new_low_rank(weights[name], rank, generator)
            self.up[key], self.down[key] = nn.Parameter(up), nn.Parameter(down)

    def changes(self) -> dict[str, list[WeightChange]]:
        return {
            name: [LowRank(self.up[key], self.down[key], float(self.rank))]
            for key, name in self.names.items()
        }

    def learned(self) -> dict[str, Full | LowRank]:
        return {
            name: LowRank(self.up[key].detach().clone(), self.down[key].detach().clone(), float(self.rank))
            for key, name in self.names.items()
        }

    @torch.no_grad()
    def take(self, begun: Mapping[str, Full | LowRank]) -> None:
        for key, name in self.names.items():
            change = begun[name]
            assert isinstance(change, LowRank)
            self.up[key].copy_(change.up)
            self.down[key].copy_(change.down)


def learned_weights(unet: UNet, names: Sequence[str], kind: str, rank: int, seed: int) -> LearnedWeights:
    """kind: "lora", or anything else for full ones."""
    return LowRankWeights(unet, names, rank, seed) if kind == "lora" else FullWeights(unet, names)


def _key(name: str) -> str:
    return name.replace(".", "-")
