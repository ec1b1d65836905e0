"""Personalized face restoration without a host.

    import pfstorer_core as pf
    restorer = pf.load_restorer("restorer.safetensors", text=True)
    adapter = pf.train_identity_adapter(restorer, photos)
    image = pf.restore(restorer, lq, upscale=4, steps=50, seed=0, identities=[pf.Identity(adapter)])

Pictures are float tensors [B, 3, H, W] in [0, 1].
"""

from .checkpoints.errors import CheckpointError
from .checkpoints.header import RestorerHeader
from .personalization.identity import Identity
from .personalization.pfstorer.adapter import IdentityAdapter
from .personalization.pfstorer.settings import AdapterTraining
from .personalization.reference_attention.references import References, ReferenceSettings
from .personalization.registry import load_identity_adapter
from .personalization.training import train_identity_adapter
from .restore import restore
from .restorers.base import Restorer
from .restorers.files import load_restorer, save_restorer

__all__ = [
    "AdapterTraining",
    "CheckpointError",
    "Identity",
    "IdentityAdapter",
    "ReferenceSettings",
    "References",
    "Restorer",
    "RestorerHeader",
    "load_identity_adapter",
    "load_restorer",
    "restore",
    "save_restorer",
    "train_identity_adapter",
]
