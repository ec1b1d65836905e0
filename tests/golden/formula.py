"""Networks with weights by a formula of their names (golden README), so that none need to be stored."""

from torch import nn

from harness.stand_ins import formula

PREFIXES = {"unet": "model.diffusion_model.", "lq_encoder": "structcond_stage_model.", "autoencoder": ""}


def filled(module: nn.Module, prefix: str, seed: int) -> nn.Module:
    """`module`, built on the meta device, with the formula's weights and ready to evaluate."""
    weights = {
        key: formula(prefix + key, tuple(value.shape), seed) for key, value in module.state_dict().items()
    }
    module.load_state_dict(weights, assign=True)
    return module.eval().requires_grad_(False)
