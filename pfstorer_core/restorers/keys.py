"""Under which keys a checkpoint has the networks of a restorer."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ..checkpoints.errors import StateDict
from ..checkpoints.parts import AUTOENCODER, CONTROL, LQ_ENCODER, SWINIR, TEXT, UNET

NULL_CONTEXT = "null_context"
"""Key of the empty prompt's context; not in files of restorers that read no text."""
CHILDREN = {"lq_encoder.": LQ_ENCODER, "control_model.": CONTROL}
"""Where a U-Net has what reads the LQ latent for it."""


def file_tensors(
    unet: Mapping[str, Tensor],
    autoencoder: Mapping[str, Tensor],
    text: Mapping[str, Tensor],
    null_context: Tensor,
    cleaner: Mapping[str, Tensor] | None = None,
) -> StateDict:
    """The state dicts of the networks under the keys of a StableSR or DiffBIR checkpoint."""
    networks = unet_keys(unet) | AUTOENCODER.prefixed(autoencoder) | TEXT.prefixed(text)
    networks |= SWINIR.prefixed(cleaner or {})
    return networks if not null_context.numel() else {NULL_CONTEXT: null_context, **networks}


def unet_keys(unet: Mapping[str, Tensor]) -> StateDict:
    """The state dict of a U-Net, with what reads the LQ latent for it, under the keys of a checkpoint."""
    keys = StateDict()
    for key, value in unet.items():
        child = next((child for child in CHILDREN if key.startswith(child)), "")
        prefix = CHILDREN[child].prefix if child else UNET.prefix
        keys[prefix + key.removeprefix(child)] = value
    return keys


def unet_weights(tensors: Mapping[str, Tensor]) -> StateDict:
    """The state dict of a file's U-Net, with what reads the LQ latent for it inside."""
    unet = UNET.of(tensors)
    for child, part in CHILDREN.items():
        unet |= {child + key: value for key, value in part.of(tensors).items()}
    return unet
