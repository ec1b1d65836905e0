"""DiffBIR's control network in a checkpoint."""

from __future__ import annotations

from ...models import ControlConfig, ControlNetwork
from ..header import RestorerHeader
from .base import Part, Tensors
from .encoder import FIRST, transformer_encoder_sizes


def sizes(tensors: Tensors, header: RestorerHeader) -> ControlConfig:
    return ControlConfig(**transformer_encoder_sizes(tensors, header))


CONTROL = Part("control network", "control_model.", FIRST, sizes, ControlNetwork)
