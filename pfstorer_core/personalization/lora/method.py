"""LoRA among the methods."""

from __future__ import annotations

from ..registry import Method
from .adapter import load
from .files import is_lora
from .train import LoRALoss, LoRATraining

METHOD = Method("lora", "LoRA", load, LoRATraining, LoRALoss, is_lora)
