"""The text context that the U-Net reads: of the empty prompt, or of any."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..checkpoints.errors import CheckpointError, StateDict
from ..checkpoints.parts import TEXT
from ..checkpoints.parts.base import META
from ..checkpoints.tensors import is_finite
from ..models.tokenizer import tokenize


@torch.no_grad()
def null_context(text: Mapping[str, Tensor]) -> Tensor:
    """Context [1, 77, context_dim] of the empty prompt, in fp32 whatever the weights are stored in.

    Each layer holds its weights only while it runs, so that this takes little memory.

    Args:
        text: state dict of a text tower, without prefix.
    Raises:
        CheckpointError: a tower that is not complete or of another kind, or whose context is not finite.
        ImportError: see `tokenize`.
    """
    sizes, weights = TEXT.config_from(text), TEXT.weights(text)
    TEXT.check_fit(weights, sizes)
    tower = TEXT.build(sizes, META).eval()
    layers = tower.model
    layers.positional_embedding = nn.Parameter(weights["model.positional_embedding"].float())
    blocks = {f"transformer.resblocks.{i}": block for i, block in enumerate(layers.transformer["resblocks"])}  # type: ignore[arg-type]
    for name, layer in {
        "token_embedding": layers.token_embedding,
        "ln_final": layers.ln_final,
        **blocks,
    }.items():
        prefix = f"model.{name}."
        _lend(layer, {key[len(prefix) :]: value for key, value in weights.items() if key.startswith(prefix)})
    tokens = tokenize([""], tower.config.context_length)
    if tower.config.vocab <= tokens.max():
        raise CheckpointError(
            f"The text tower knows only {tower.config.vocab} tokens: it is not CLIP's. Choose another file."
        )
    context = tower(tokens)
    if not is_finite(context):
        raise CheckpointError("The text tower holds NaN or infinity: the file is damaged, download it again.")
    return context


def _lend(layer: nn.Module, weights: StateDict) -> None:
    """Give a layer its weights when it is called, and take them back afterwards."""

    def give(*_: object) -> None:
        layer.load_state_dict({key: value.float() for key, value in weights.items()}, assign=True)

    def take(*_: object) -> None:
        layer.to("meta")

    layer.register_forward_pre_hook(give)
    layer.register_forward_hook(take)
