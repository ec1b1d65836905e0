"""StableSR (Wang et al. 2024): a frozen Stable Diffusion, steered by the features of the LQ latent."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ...checkpoints.header import RestorerHeader
from ..registry import Architecture


def published(name: str, tensors: Mapping[str, Tensor], variant: str | None) -> RestorerHeader:
    """There are no variants, and tensors do not tell what a network predicts."""
    return RestorerHeader.from_name(name)


ARCHITECTURE = Architecture(
    "stablesr", condition=("sft",), start=("lq", "noise"), size_rule=("tiled",), published=published
)
