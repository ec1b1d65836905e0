"""Where the weights of a perceptual distance come from: a file that the user has."""

from __future__ import annotations

from pathlib import Path

from ...checkpoints.parts.base import check_fit
from ...checkpoints.reading import read_checkpoint
from ...checkpoints.tensors import load_exactly
from ...models.lpips import LPIPS

BESIDE = "loss.perceptual_loss."
"""Where checkpoints of first stages, latent diffusion's and ReF-LDM's, keep it."""
TWICE = "lins."
"""Of the library lpips, which names its last layers twice."""


def load_lpips(path: Path | str) -> LPIPS:
    """LPIPS with the weights in a file: the library lpips's state dict, or a checkpoint of a first stage that
    was trained by it.

    Raises:
        FileNotFoundError, PermissionError, CheckpointError: not readable, damaged or without it.
    """
    tensors = read_checkpoint(path)[0]
    beside = {key.removeprefix(BESIDE): value for key, value in tensors.items() if key.startswith(BESIDE)}
    weights = beside or {key: value for key, value in tensors.items() if not key.startswith(TWICE)}
    model = LPIPS()
    check_fit(model.state_dict(), weights, "LPIPS network")
    load_exactly(model, weights, "LPIPS network")
    return model
