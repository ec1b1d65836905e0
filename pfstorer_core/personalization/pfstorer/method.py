"""PFStorer among the methods."""

from __future__ import annotations

from ..registry import Method
from .adapter import load
from .settings import AdapterTraining
from .train import IdentityLoss

METHOD = Method("pfstorer", "PFStorer", load, AdapterTraining, IdentityLoss)
