"""Restoring without a host: a picture from start to end, its faces each as who it is, and folders of them."""

from .picture import restore

__all__ = ["restore"]
