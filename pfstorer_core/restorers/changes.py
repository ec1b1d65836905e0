"""What a person, or any other guide, changes of one evaluation of a restorer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from torch import Tensor, nn

from ..models.layers import SelfAttention, Site
from .shared_attention import SharedTokens, joined

Addition = Callable[[Tensor], Tensor]
"""Features of a layer as tokens [B, N, C] -> what is added to them, of the same shape."""
Guidance = Callable[[Tensor], Tensor]
"""A predicted clean latent x0 [B, C, H, W] -> the one that the sampler goes on with."""

T = TypeVar("T")


class WeightChange(Protocol):
    """What is added to a weight, such as a LoRA's low-rank product."""

    def delta(self, weight: Tensor) -> Tensor:
        """Of the shape, number format and device of `weight`."""
        ...


@dataclass(frozen=True, eq=False)
class Changes:
    """Changes of one evaluation. What is empty changes nothing: the base, bit for bit.

    Attributes:
        sites: by the name of a layer of the U-Net's decoder ("output_blocks.4.1"), what is added to its
            features (PFStorer eq. 3).
        weights: by the name of one of the U-Net's parameters, what is added to it.
        context: text context [1, L, D] that takes the place of the empty prompt's; never of a prompt that
            somebody wrote.
        context_share: how far it does, 0…1.
        guidance: see `Guidance`, one after the other.
        attention: by the name of a self-attention (see `BlockHooks`), what it attends to besides its own.
        contrast: an evaluation that this one is led away from, see `evaluated`.
        contrast_scale: how far: above 1, as in classifier-free guidance.
    """

    sites: Mapping[str, Sequence[Addition]] = field(default_factory=dict)
    weights: Mapping[str, Sequence[WeightChange]] = field(default_factory=dict)
    context: Tensor | None = None
    context_share: float = 0.0
    guidance: Sequence[Guidance] = ()
    attention: Mapping[str, Sequence[SharedTokens]] = field(default_factory=dict)
    contrast: Changes | None = None
    contrast_scale: float = 1.0
    _changed: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False)

    def changed_weights(self, unet: nn.Module) -> dict[str, Tensor]:
        """The parameters that an evaluation of the U-Net sees in place of its own, which stay as they are.
        They are kept for as long as the changes, which are those of this one U-Net: the same ones serve all
        tiles and steps."""
        for name, parts in self.weights.items():
            if name not in self._changed:
                weight = unet.get_parameter(name)
                for part in parts:
                    weight = weight + part.delta(weight)
                self._changed[name] = weight
        return self._changed


NO_CHANGES = Changes()


def together(*changes: Changes) -> Changes:
    """Of several at once: what they add adds up. Who they are called is lost, since a prompt names one."""
    if len(changes) == 1:
        return changes[0]
    return Changes(
        _joined([change.sites for change in changes]),
        _joined([change.weights for change in changes]),
        guidance=[guide for change in changes for guide in change.guidance],
        attention=_joined([change.attention for change in changes]),
    )


def evaluated(
    evaluate: Callable[[Changes], Tensor],
    changes: Sequence[Changes],
    join: Callable[..., Changes] = together,
) -> Tensor:
    """A prediction under changes; each that has a contrast leads it away from what it is with that instead:
    one alone gives contrast + contrast_scale · (prediction - contrast).

    Args:
        evaluate: the network, under what `join` made of the changes.
    """
    found = evaluate(join(*changes))
    pulls = [
        (each.contrast_scale - 1) * (found - evaluate(join(*changes[:k], each.contrast, *changes[k + 1 :])))
        for k, each in enumerate(changes)
        if each.contrast is not None
    ]
    return found + sum(pulls) if pulls else found


def _joined(parts: Sequence[Mapping[str, Sequence[T]]]) -> dict[str, list[T]]:
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: [each for part in parts for each in part.get(name, ())] for name in names}


def sum_at(additions: Sequence[Addition]) -> Site:
    """F̂ = F + the sum of what is added at one site (PFStorer eq. 3): what the U-Net calls there."""

    def changed(features: Tensor) -> Tensor:
        """[B, N, C] -> the same shape."""
        return features + sum(addition(features) for addition in additions)

    return changed


def attention_of(changes: Changes) -> SelfAttention | None:
    """What `BlockHooks` takes for its self-attention."""
    return joined(changes.attention) if changes.attention else None


def sites_of(changes: Changes) -> dict[str, Site]:
    """What `UNet.forward` takes for its sites."""
    return {name: sum_at(additions) for name, additions in changes.sites.items() if additions}
