"""What BlazeFace detects in a picture, in pixels, and how several detections of one face become one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

from ...models.blazeface import BlazeFace, anchors

SAME_FACE = 0.3
"""Overlap (intersection over union) from which two squares are of one face; MediaPipe's."""
PART_OF_FACE = 0.6
"""Part of a square that lies in another one from which it shows a part of the same face."""


@dataclass(frozen=True, eq=False)
class Detections:
    """What may be faces: scores [N], centres [N, 2] and sides [N] of squares, landmarks [N, 6, 2]."""

    scores: Tensor
    centres: Tensor
    sides: Tensor
    landmarks: Tensor

    @classmethod
    def none(cls) -> Detections:
        return cls(torch.zeros(0), torch.zeros(0, 2), torch.zeros(0), torch.zeros(0, 6, 2))

    @classmethod
    def joined(cls, several: Sequence[Detections]) -> Detections:
        return cls(*(torch.cat(values) for values in zip(*(vars(a).values() for a in several), strict=True)))

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, chosen: Tensor) -> Detections:
        return Detections(*(values[chosen] for values in vars(self).values()))

    def moved(self, scale: float, x: float = 0, y: float = 0) -> Detections:
        """In a picture that is larger by `scale` and begins (x, y) before this one."""
        shift = torch.tensor([x, y])
        return Detections(
            self.scores, self.centres * scale + shift, self.sides * scale, self.landmarks * scale + shift
        )

    def mean(self) -> Detections:
        """One of all, weighted by their scores; its score is the greatest."""
        weights = self.scores / self.scores.sum()
        centre, landmarks = (
            torch.einsum("n,n...->...", weights, points)[None] for points in (self.centres, self.landmarks)
        )
        return Detections(self.scores.max()[None], centre, (weights * self.sides).sum()[None], landmarks)


def detections_of(network: BlazeFace, pictures: Tensor) -> list[Detections]:
    """All that the network detects in pictures [B, 3, H, W] in [-1, 1], sides multiples of 16."""
    scores, boxes = network(pictures.to(memory_format=torch.channels_last))
    centres = anchors(pictures.shape[-2], pictures.shape[-1])
    points = rearrange(boxes, "b n (k xy) -> b n k xy", xy=2)
    return [
        Detections(score, point[:, 0] + centres, point[:, 1].mean(1), point[:, 2:] + centres[:, None])
        for score, point in zip(scores.sigmoid(), points, strict=True)
    ]


def weighted_nms(detections: Detections) -> Detections:
    """One detection for each face, the best first. Those that overlap are averaged: weighted non-maximum
    suppression, as BlazeFace's paper has it (kornia's keeps the best alone). Parts of a face are left out."""
    rest = detections[detections.scores.argsort(descending=True)]
    merged = [Detections.none()]
    while len(rest):
        half = rest.sides[:, None] / 2
        low, high = rest.centres - half, rest.centres + half
        shared = (torch.minimum(high[0], high) - torch.maximum(low[0], low)).clamp(min=0).prod(1)
        areas = rest.sides.square()
        same = shared > SAME_FACE * (areas[0] + areas - shared)
        same[0] = True
        merged.append(rest[same].mean())
        rest = rest[~(same | (shared > PART_OF_FACE * areas.clamp(max=float(areas[0]))))]
    return Detections.joined(merged)
