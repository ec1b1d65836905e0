"""What BlazeFace says of a picture, in pixels, and how answers about one face become one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

from ...models.blazeface import BlazeFace, anchors

SAME = 0.3
"""Overlap (intersection over union) from which two squares are of one face; MediaPipe's."""
INSIDE = 0.6
"""Part of a square that lies in another one from which it shows a part of the same face."""


@dataclass(frozen=True, eq=False)
class Answers:
    """What may be faces: scores [N], middles [N, 2] and sides [N] of squares, landmarks [N, 6, 2]."""

    scores: Tensor
    middles: Tensor
    sides: Tensor
    landmarks: Tensor

    @classmethod
    def none(cls) -> Answers:
        return cls(torch.zeros(0), torch.zeros(0, 2), torch.zeros(0), torch.zeros(0, 6, 2))

    @classmethod
    def joined(cls, several: Sequence[Answers]) -> Answers:
        return cls(*(torch.cat(values) for values in zip(*(vars(a).values() for a in several), strict=True)))

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, chosen: Tensor) -> Answers:
        return Answers(*(values[chosen] for values in vars(self).values()))

    def moved(self, scale: float, x: float = 0, y: float = 0) -> Answers:
        """In a picture that is larger by `scale` and begins (x, y) before this one."""
        shift = torch.tensor([x, y])
        return Answers(
            self.scores, self.middles * scale + shift, self.sides * scale, self.landmarks * scale + shift
        )

    def mean(self) -> Answers:
        """One of all, weighted by their scores; its score is the greatest."""
        weights = self.scores / self.scores.sum()
        middle, landmarks = (
            torch.einsum("n,n...->...", weights, places)[None] for places in (self.middles, self.landmarks)
        )
        return Answers(self.scores.max()[None], middle, (weights * self.sides).sum()[None], landmarks)


def answers_of(network: BlazeFace, pictures: Tensor) -> list[Answers]:
    """All that the network says of pictures [B, 3, H, W] in [-1, 1], sides multiples of 16."""
    scores, places = network(pictures.to(memory_format=torch.channels_last))
    middles = anchors(pictures.shape[-2], pictures.shape[-1])
    places = rearrange(places, "b n (k xy) -> b n k xy", xy=2)
    return [
        Answers(score, place[:, 0] + middles, place[:, 1].mean(1), place[:, 2:] + middles[:, None])
        for score, place in zip(scores.sigmoid(), places, strict=True)
    ]


def merge(answers: Answers) -> Answers:
    """One answer for each face, the best first: those that overlap are averaged (weighted non-maximum
    suppression, as BlazeFace's paper has it), and parts of a face are left out."""
    rest = answers[answers.scores.argsort(descending=True)]
    merged = [Answers.none()]
    while len(rest):
        half = rest.sides[:, None] / 2
        first, last = rest.middles - half, rest.middles + half
        shared = (torch.minimum(last[0], last) - torch.maximum(first[0], first)).clamp(min=0).prod(1)
        areas = rest.sides.square()
        same = shared > SAME * (areas[0] + areas - shared)
        same[0] = True
        merged.append(rest[same].mean())
        rest = rest[~(same | (shared > INSIDE * areas.clamp(max=float(areas[0]))))]
    return Answers.joined(merged)
