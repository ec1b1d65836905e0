"""Personalized face restoration without a host.

    import pfstorer_core as pf
    restorer = pf.load_restorer("restorer.safetensors")
    image = pf.restore(restorer, lq, upscale=4, steps=50, seed=0)

Pictures are float tensors [B, 3, H, W] in [0, 1].
"""

from .header import RestorerHeader
from .layouts import CheckpointError
from .restore import restore
from .restorer import Restorer, load_restorer, save_restorer

__all__ = ["CheckpointError", "Restorer", "RestorerHeader", "load_restorer", "restore", "save_restorer"]
