"""Self-attention that also looks at what other pictures have in its place: keys and values of theirs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..models.layers import SelfAttention

EPS = 1e-5
"""Added to a variance."""


@dataclass(frozen=True, eq=False)
class Moments:
    """Mean and standard deviation over tokens, [B or 1, 1, C] each, fp32."""

    mean: Tensor
    std: Tensor

    @classmethod
    def of(cls, tokens: Tensor) -> Moments:
        """Of tokens [B, N, C], for each row."""
        variance, mean = torch.var_mean(tokens.float(), dim=1, keepdim=True, correction=0)
        return cls(mean, (variance + EPS).sqrt())


@dataclass(frozen=True, eq=False)
class SharedTokens:
    """What one self-attention attends to besides its own tokens.

    Attributes:
        key, value: [B, M, C], or [1, M, C] for all rows of a batch, as the layer's own projections made them.
        weight: how often they count, above 0: 1 as if they were tokens of the picture, 2 as if each were
            there twice. It multiplies what they have of the softmax, by log(weight) on their scores.
        rows: bool [B, 1, 1, 1], those that see them; None for all.
        match: moments of the other pictures' queries and keys; the layer's own are brought to them first, as
            far as `weight` goes to 1 (AdaIN; StyleAligned, arXiv:2312.02133, section 3.1). None leaves them.
    """

    key: Tensor
    value: Tensor
    weight: float = 1.0
    match: tuple[Moments, Moments] | None = None
    rows: Tensor | None = None

    @property
    def is_plain(self) -> bool:
        """Whether they count as the picture's own tokens do."""
        return self.weight == 1 and self.rows is None

    def scores(self, like: Tensor) -> Tensor:
        """What is added to their scores [B or 1, 1, 1, M], in the format of `like`."""
        scores = like.new_full((1, 1, 1, self.key.shape[1]), math.log(self.weight))
        return scores if self.rows is None else torch.where(self.rows, scores, -torch.inf)


def joined(shared: Mapping[str, Sequence[SharedTokens]]) -> SelfAttention:
    """The hook by which the layers of these names attend to [own, others] (ReF-LDM's CacheKV)."""

    def run(name: str, q: Tensor, k: Tensor, v: Tensor, attend: Callable[..., Tensor]) -> Tensor:
        others = shared.get(name)
        if not others:
            return attend(q, k, v)
        q, k = _matched(q, k, others)
        rows = len(q)
        keys = torch.cat([k, *(each.key.to(k).expand(rows, -1, -1) for each in others)], dim=1)
        values = torch.cat([v, *(each.value.to(v).expand(rows, -1, -1) for each in others)], dim=1)
        return attend(q, keys, values, **_counted(k, others))

    return run


def _counted(k: Tensor, others: Sequence[SharedTokens]) -> dict[str, Any]:
    """The mask by which tokens count more or less than the own keys k; none where all count alike."""
    if all(each.is_plain for each in others):
        return {}
    scores = [k.new_zeros(1, 1, 1, k.shape[1]), *(each.scores(k) for each in others)]
    rows = max(map(len, scores))
    return {"mask": torch.cat([each.expand(rows, -1, -1, -1) for each in scores], dim=-1)}


def _matched(q: Tensor, k: Tensor, others: Sequence[SharedTokens]) -> tuple[Tensor, Tensor]:
    """Queries and keys with the moments of those that ask for it; the mean where several do."""
    asking = [(each.match, min(each.weight, 1.0)) for each in others if each.match is not None]
    if not asking:
        return q, k
    return _mean([_adain(q, m[0], share) for m, share in asking]), _mean(
        [_adain(k, m[1], share) for m, share in asking]
    )


def _adain(tokens: Tensor, to: Moments, share: float) -> Tensor:
    """Tokens [B, N, C] moved to other moments by a share of the way (Huang & Belongie 2017, eq. 8)."""
    own = Moments.of(tokens)
    moved = (tokens.float() - own.mean) / own.std * to.std + to.mean
    return torch.lerp(tokens.float(), moved, share).to(tokens.dtype)


def _mean(values: Sequence[Tensor]) -> Tensor:
    return values[0] if len(values) == 1 else torch.stack([*values]).mean(0)
