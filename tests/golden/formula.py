"""Weights by a formula of their names (golden README), so that none need to be stored."""

import math
import zlib

import numpy as np
import torch
from torch import Tensor, nn

PREFIXES = {"unet": "model.diffusion_model.", "lq_encoder": "structcond_stage_model.", "autoencoder": ""}


def formula(name: str, shape: tuple[int, ...], seed: int) -> Tensor:
    """The value of the parameter of that full key name."""
    start = np.uint32((zlib.crc32(name.encode()) ^ seed) & 0xFFFFFFFF)
    h = np.arange(math.prod(shape), dtype=np.uint32) * np.uint32(0x9E3779B1) + start
    h ^= h >> np.uint32(16)
    h *= np.uint32(0x85EBCA6B)
    h ^= h >> np.uint32(13)
    h *= np.uint32(0xC2B2AE35)
    h ^= h >> np.uint32(16)
    u = (h >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-23) - np.float32(1)
    if len(shape) >= 2:
        u *= np.float32(math.sqrt(3.0 / math.prod(shape[1:])))
    elif name.endswith(".weight"):
        u = np.float32(1) + np.float32(0.25) * u
    else:
        u *= np.float32(0.125)
    return torch.from_numpy(u.reshape(shape))


def filled(module: nn.Module, prefix: str, seed: int) -> nn.Module:
    """`module`, built on the meta device, with the formula's weights and ready to evaluate."""
    weights = {
        key: formula(prefix + key, tuple(value.shape), seed) for key, value in module.state_dict().items()
    }
    module.load_state_dict(weights, assign=True)
    return module.eval().requires_grad_(False)
