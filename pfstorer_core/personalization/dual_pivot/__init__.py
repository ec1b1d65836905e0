"""Dual-Pivot Tuning (arXiv:2312.17234): the generator around a token, then what guides it."""

from .method import METHOD

__all__ = ["METHOD"]
