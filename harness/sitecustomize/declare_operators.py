"""Declares torchvision's compiled operators where its compiled part cannot be loaded.

The harness's interpreters run this at start, only where `make setup` saw that the plain import fails:
torchvision registers Python implementations of the operators below and needs their schemas to exist.
Waiting for the import of torchvision keeps torch from being imported before the host has set up its
environment.
"""

import importlib.abc
import sys

SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


class DeclareOperators(importlib.abc.MetaPathFinder):
    """Finds nothing; declares the operators just before torchvision is looked for."""

    def find_spec(self, fullname, path=None, target=None):
        if fullname == "torchvision":
            sys.meta_path.remove(self)
            import torch

            # The declarations live as long as this object.
            self.library = torch.library.Library("torchvision", "DEF")
            for name in ("nms", "qnms"):
                self.library.define(name + SIGNATURE)
        return None


FINDER = DeclareOperators()
sys.meta_path.insert(0, FINDER)
