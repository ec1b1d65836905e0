"""Personalized face restoration without a host.

    import pfstorer_core as pf
    restorer = pf.load_restorer("restorer.safetensors", text=True)
    adapter = pf.train_identity_adapter(restorer, photos)
    image = pf.restore(restorer, lq, upscale=4, steps=50, seed=0, identities=[pf.Identity(adapter)])

Pictures are float tensors [B, 3, H, W] in [0, 1].
"""

from .checkpoints.header import RestorerHeader
from .checkpoints.layouts import CheckpointError
from .personalization.pfstorer.adapter import IdentityAdapter, load_identity_adapter
from .personalization.pfstorer.apply import Identity
from .personalization.pfstorer.train import AdapterTraining, train_identity_adapter
from .restore import restore
from .restorers.base import Restorer, load_restorer, save_restorer

__all__ = [
    "AdapterTraining",
    "CheckpointError",
    "Identity",
    "IdentityAdapter",
    "Restorer",
    "RestorerHeader",
    "load_identity_adapter",
    "load_restorer",
    "restore",
    "save_restorer",
    "train_identity_adapter",
]
