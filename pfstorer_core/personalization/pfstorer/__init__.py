"""PFStorer (Varanka et al., CVPR 2024): blocks that attend to photos of the person."""

from .method import METHOD

__all__ = ["METHOD"]
