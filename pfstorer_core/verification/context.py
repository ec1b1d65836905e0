"""The empty prompt's context of Stable Diffusion 2.1, of which some figures are known."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

FIGURES = {
    0: (-0.3134, -0.4476, -0.0082, -0.2280, 0.1786, -0.2343),
    1: (1.4114, 0.0076, -0.4288, 0.0896),
    2: (1.8676, -1.0888, -1.0656, -1.5463),
    76: (-0.0707, -2.6132, -1.0513, 0.8518),
}
"""The first numbers of some of its rows, from the file that comes with Dual-Pivot's published code."""
MEAN, STD = -0.16837, 1.03855
SHAPE = (1, 77, 1024)

TOLERANCE = 0.05
"""Of each figure, for towers that are stored in 16 bits: 24 layers let their rounding grow."""
ALIKE = 0.99
"""Correlation with the figures from which on another context counts as that of a tower trained further."""
SMOOTH = 0.1
"""Cosine of neighbouring positions' embeddings, on the average. Trained towers put neighbours close to each
other; drawn numbers are as good as orthogonal."""


def differences(context: Tensor) -> tuple[float, float]:
    """How a context [1, 77, 1024] compares with the figures: the largest difference, mean and deviation
    included, and the correlation with them."""
    rows = context[0].float().cpu()
    expected = torch.tensor([value for values in FIGURES.values() for value in values])
    found = torch.cat([rows[row, : len(values)] for row, values in FIGURES.items()])
    moments = abs(float(rows.mean()) - MEAN), abs(float(rows.std()) - STD)
    together = torch.corrcoef(torch.stack([expected, found]))[0, 1]
    return max(float((found - expected).abs().max()), *moments), float(together.nan_to_num())


def looks_trained(text: Mapping[str, Tensor]) -> bool:
    """Whether a text tower, as a state dict, has learned something; see `SMOOTH`."""
    positions = text["model.positional_embedding"].float()
    return float(F.cosine_similarity(positions[1:], positions[:-1]).mean()) > SMOOTH
