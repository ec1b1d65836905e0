"""Networks with weights by a formula, so that none need to be stored: of their names (golden README), or of
each tensor's own numbers (README-diffbir-2)."""

from functools import cache

import torch
from torch import Tensor, nn

from harness.stand_ins import formula

from . import golden

PREFIXES = {"unet": "model.diffusion_model.", "lq_encoder": "structcond_stage_model.", "autoencoder": ""}


def filled(module: nn.Module, prefix: str, seed: int) -> nn.Module:
    """`module`, built on the meta device, with the formula's weights and ready to evaluate."""
    weights = {
        key: formula(prefix + key, tuple(value.shape), seed) for key, value in module.state_dict().items()
    }
    module.load_state_dict(weights, assign=True)
    return module.eval().requires_grad_(False)


@cache
def by_rule(name: str, group: str) -> dict[str, Tensor]:
    """The weights of a group of networks that a golden file lists by a rule."""
    return {key: _by_rule(shape, *rule) for key, shape, *rule in golden.metadata(name)["weights"][group]}


def _by_rule(shape: list[int], base: float, scale: float, a: int, b: int, c: int) -> Tensor:
    i = torch.arange(torch.Size(shape).numel())
    place = ((a * i * i + b * i + c) % 65521).double() / 65521
    return (base + scale * (2 * place - 1)).float().reshape(shape)
