"""What a training keeps beside the network: averages of its weights, and copies of its first stage."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from .errors import CheckpointError, StateDict
from .words import first_keys

AVERAGES = "model_ema."
NETWORK = "model."
"""In front of the keys of what is averaged, which the names of the averages lack."""
COPIES = re.compile(r"cond_stage_model\.(lq|ref)_image\.")
"""Of ReF-LDM's first stage, which stand where others have a text tower."""


def with_averages(tensors: Mapping[str, Tensor], prefix: str) -> StateDict:
    """A checkpoint whose network under `prefix` has the averages of its weights, where the file has them: the
    published scripts of latent diffusion and ReF-LDM sample with those. A name of an average is that of the
    weight without any dot.

    Raises:
        CheckpointError: averages of some of the weights only.
    """
    own = {
        key: AVERAGES + key.removeprefix(NETWORK).replace(".", "")
        for key in tensors
        if key.startswith(prefix)
    }
    missing = [key for key, name in own.items() if name not in tensors]
    if len(missing) == len(own):
        return dict(tensors)
    if missing:
        raise CheckpointError(
            f"This checkpoint has averages of some of the U-Net's weights only, not of "
            f"{first_keys(missing)}: it is damaged or of another architecture."
        )
    averaged = {key: tensors[name] for key, name in own.items()}
    return {key: value for key, value in tensors.items() if not key.startswith(AVERAGES)} | averaged


def without_copies(tensors: Mapping[str, Tensor]) -> StateDict:
    """A checkpoint less the copies of its first stage, which are not looked at."""
    return {key: value for key, value in tensors.items() if not COPIES.match(key)}
