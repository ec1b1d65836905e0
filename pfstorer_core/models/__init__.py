"""The networks: U-Net, LQ encoder, control network, autoencoder, text tower, SwinIR. One a module."""

from .autoencoder import Autoencoder, AutoencoderConfig
from .conditioning import Conditioning
from .control import ControlConfig, ControlNetwork
from .layers import BlockHooks
from .lq_encoder import LQEncoder, LQEncoderConfig
from .ops import Backend
from .swinir import SwinIR, SwinIRConfig
from .text import TextTower, TextTowerConfig
from .unet import UNet, UNetConfig

__all__ = [
    "Autoencoder",
    "AutoencoderConfig",
    "Backend",
    "BlockHooks",
    "Conditioning",
    "ControlConfig",
    "ControlNetwork",
    "LQEncoder",
    "LQEncoderConfig",
    "SwinIR",
    "SwinIRConfig",
    "TextTower",
    "TextTowerConfig",
    "UNet",
    "UNetConfig",
]
