"""BlazeFace for faces near a camera (Bazarevsky et al. 2019, arXiv:1907.05047), as MediaPipe has it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SIDE = 128
"""Of the pictures that it sees, in pixels."""
CHANNELS = (24, 28, 32, 36, 42, 48, 56, 64, 72, 80, 88, 96, 96, 96, 96, 96)
"""Of the blocks' results."""
HALVING = (2, 5, 11)
"""Blocks that halve the picture."""
FINE = 10
"""The last block at a stride of 8 pixels; the last of all has one of 16."""
ANCHORS = {8: 2, 16: 6}
"""Answers of each cell, by stride."""
VALUES = 16
"""Of an answer: middle, width and height of the box, then six landmarks (x, y)."""


class Block(nn.Module):
    """A depthwise and a pointwise convolution, around which the input goes as it is, with zeros for the
    channels that it lacks."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.depthwise = nn.Conv2d(before, before, 3, stride, padding=2 - stride, groups=before)
        self.pointwise = nn.Conv2d(before, after, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, before, H, W] -> [B, after, H / stride, W / stride]"""
        # TensorFlow pads what is halved at the right and at the bottom only.
        h = self.pointwise(self.depthwise(F.pad(x, (0, 1, 0, 1)) if self.stride == 2 else x))
        x = F.max_pool2d(x, 2) if self.stride == 2 else x
        h[:, : x.shape[1]] += x
        return F.relu(h, inplace=True)


class BlazeFace(nn.Module):
    """Scores and places of faces in pictures of 128 x 128 pixels, or of other multiples of 16."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, CHANNELS[0], 5, 2)
        before = (CHANNELS[0], *CHANNELS)
        self.blocks = nn.ModuleList(
            Block(before[n], after, 2 if n in HALVING else 1) for n, after in enumerate(CHANNELS)
        )
        fine, coarse = CHANNELS[FINE], CHANNELS[-1]
        self.scores_fine = nn.Conv2d(fine, ANCHORS[8], 1)
        self.places_fine = nn.Conv2d(fine, ANCHORS[8] * VALUES, 1)
        self.scores_coarse = nn.Conv2d(coarse, ANCHORS[16], 1)
        self.places_coarse = nn.Conv2d(coarse, ANCHORS[16] * VALUES, 1)

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Pictures [B, 3, H, W] in [-1, 1] -> logits [B, N] and places [B, N, 16], in pixels from the middles
        of `anchors`; 896 of them for 128 x 128 pixels."""
        x = F.relu(self.stem(F.pad(pictures, (1, 2, 1, 2))))
        scores, places = list[Tensor](), list[Tensor]()
        for n, block in enumerate(self.blocks):
            x = block(x)
            if n == FINE:
                scores.append(_rows(self.scores_fine(x), 1))
                places.append(_rows(self.places_fine(x), VALUES))
        scores.append(_rows(self.scores_coarse(x), 1))
        places.append(_rows(self.places_coarse(x), VALUES))
        return torch.cat(scores, 1)[..., 0], torch.cat(places, 1)


def anchors(height: int = SIDE, width: int = SIDE) -> Tensor:
    """Middles [N, 2] (x, y) in pixels of what each answer speaks of, in the answers' order."""
    found = []
    for stride, each in ANCHORS.items():
        rows, columns = ((torch.arange(side // stride) + 0.5) * stride for side in (height, width))
        y, x = torch.meshgrid(rows, columns, indexing="ij")
        found.append(torch.stack([x, y], -1).reshape(-1, 2).repeat_interleave(each, 0))
    return torch.cat(found)


def _rows(answers: Tensor, values: int) -> Tensor:
    """[B, each · values, H, W] -> [B, H · W · each, values]"""
    return answers.permute(0, 2, 3, 1).reshape(len(answers), -1, values)
