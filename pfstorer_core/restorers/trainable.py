"""A restorer whose networks are to be trained, and the file that it becomes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..checkpoints.errors import CheckpointError, StateDict
from ..checkpoints.header import CONTROL_FORMAT, RestorerHeader
from ..checkpoints.parts import CONTROL, SWINIR, TEXT
from ..checkpoints.tensors import is_finite, load_exactly, write_safetensors
from ..models import Backend, SwinIR
from ..models.tokenizer import tokenize
from .base import Restorer
from .context import null_context
from .diffbir.cleaner import Cleaner
from .files import RestorerFile, file_context
from .keys import file_tensors


@dataclass
class TrainableRestorer:
    """The networks of a restorer, to be trained.

    Attributes:
        restorer: its `text` reads captions; None where only the empty prompt is wanted.
        kept: tensors of the U-Net that stay as they are in the file, in its precision.
        kept_text, kept_autoencoder: the same; empty where the networks here are the source.
    """

    restorer: Restorer
    kept: StateDict
    kept_text: StateDict
    kept_autoencoder: StateDict

    def write(self, path: Path, header: RestorerHeader, dtype: torch.dtype) -> None:
        """Write the restorer that it has become; see `write_safetensors` for the errors."""
        restorer, text = self.restorer, self.kept_text
        unet = {**restorer.unet.state_dict(), **self.kept}
        autoencoder = self.kept_autoencoder or restorer.autoencoder.state_dict()
        context = restorer.null_context
        if not text and restorer.text is not None:
            text = restorer.text.state_dict()
            context = null_context(text)
        tensors = file_tensors(unet, autoencoder, text, context, self._cleaner())
        write_safetensors(path, tensors, header.to_metadata(), dtype)

    def write_control(self, path: Path, header: RestorerHeader, dtype: torch.dtype) -> None:
        """Write its control network and its cleaner alone, which go on top of the restorer that they were
        trained on; see `write_safetensors` for the errors."""
        assert self.restorer.unet.control_model is not None
        control = CONTROL.prefixed(self.restorer.unet.control_model.state_dict())
        tensors = control | SWINIR.prefixed(self._cleaner())
        write_safetensors(path, tensors, header.to_metadata(CONTROL_FORMAT), dtype)

    def _cleaner(self) -> StateDict:
        """Of a SwinIR: other cleaners have files of their own."""
        cleaner = self.restorer.cleaner
        network = cleaner.network if isinstance(cleaner, Cleaner) else None
        return network.state_dict() if isinstance(network, SwinIR) else {}


def trainable(
    file: RestorerFile,
    name: str,
    *,
    train: str,
    captions: bool = False,
    frozen_dtype: torch.dtype = torch.float32,
) -> TrainableRestorer:
    """The networks of an opened restorer.

    Args:
        name: of the file, for errors.
        train: see `is_trained`.
        captions, frozen_dtype: see `open_start`.
    Raises:
        CheckpointError: the weights do not fit or are not finite.
        ValueError: captions are wanted, and there is no text tower.
    """
    backend = Backend(device="meta")
    unet, autoencoder = file.build(backend)
    weights: StateDict = {}
    for key, value in file.unet.items():
        if not is_finite(value):
            raise CheckpointError(f"{key} of the U-Net holds NaN or infinity: the file is damaged.")
        weights[key] = value.to(torch.float32 if is_trained(train, key) else frozen_dtype, copy=True)
    load_exactly(unet, weights, "U-Net", assign=True)
    load_exactly(autoencoder, file.autoencoder, "autoencoder", placement={"dtype": torch.float32})
    tower = None
    if captions:
        if not file.text:
            raise ValueError(
                f"{name} has no text tower to read captions with: train with empty prompts only."
            )
        tower = TEXT.build(TEXT.config_from(file.text), backend)
        load_exactly(tower, TEXT.weights(file.text), "text tower", placement={"dtype": frozen_dtype})
        tower.requires_grad_(False)
    for key, parameter in unet.named_parameters():
        parameter.requires_grad_(is_trained(train, key))
    kept = {key: value for key, value in file.unet.items() if not is_trained(train, key)}
    restorer = Restorer(unet, autoencoder, file_context(file, name), file.header, tower)
    return TrainableRestorer(restorer, kept, file.text, file.autoencoder)


def is_trained(train: str, key: str) -> bool:
    """Whether a training trains a parameter of the U-Net.

    "sft": StableSR's, the SFT layers and the LQ encoder on a frozen U-Net. "unet": the U-Net without them.
    "all": both. "control": the control network on a frozen U-Net. "prior": all of a U-Net that has neither.

    Raises:
        ValueError: none of these five.
    """
    if train not in ("sft", "unet", "all", "control", "prior"):
        raise ValueError(f"No training of {train!r}; choose sft, unet or all.")
    if train == "control":
        return key.startswith("control_model.")
    own = ".spade." in key or key.startswith("lq_encoder.")
    return train in ("all", "prior") or own == (train == "sft")


def contexts(restorer: Restorer, captions: Sequence[str]) -> Tensor:
    """Text contexts [B, M, context_dim]; of the empty prompt for all where nothing reads captions."""
    if restorer.text is None:
        return restorer.null_context.expand(len(captions), -1, -1)
    device = restorer.text.model.positional_embedding.device
    return restorer.text(tokenize(list(captions), restorer.text.config.context_length).to(device))
