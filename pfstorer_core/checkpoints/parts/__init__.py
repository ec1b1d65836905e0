"""The networks in a checkpoint, one a module: where it is, what its tensors tell, how it is built."""

from .autoencoder import AUTOENCODER
from .base import Part
from .control import CONTROL
from .lq_encoder import LQ_ENCODER
from .swinir import SWINIR
from .text import TEXT
from .unet import UNET

PARTS: tuple[Part, ...] = (UNET, LQ_ENCODER, CONTROL, AUTOENCODER, TEXT, SWINIR)

__all__ = ["AUTOENCODER", "CONTROL", "LQ_ENCODER", "PARTS", "SWINIR", "TEXT", "UNET", "Part"]
