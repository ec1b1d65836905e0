"""The networks: U-Net with SFT, LQ encoder, autoencoder with CFW, text tower. One architecture a module."""

from .autoencoder import Autoencoder, AutoencoderConfig
from .lq_encoder import LQEncoder, LQEncoderConfig
from .ops import Backend
from .text import TextTower, TextTowerConfig
from .unet import BlockHooks, UNet, UNetConfig

__all__ = [
    "Autoencoder",
    "AutoencoderConfig",
    "Backend",
    "BlockHooks",
    "LQEncoder",
    "LQEncoderConfig",
    "TextTower",
    "TextTowerConfig",
    "UNet",
    "UNetConfig",
]
