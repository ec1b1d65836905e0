"""LoRA (Hu et al. 2021): a person as low-rank changes of the U-Net's weights."""

from .method import METHOD

__all__ = ["METHOD"]
