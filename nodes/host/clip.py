"""CLIP and the context of the empty prompt."""

from __future__ import annotations

import logging
from functools import partial
from typing import Any, NoReturn

import comfy.sd
import comfy.supported_models
import comfy.utils
import folder_paths
import torch
from comfy.supported_models_base import ClipTarget
from torch import Tensor, nn

from ...pfstorer_core.checkpoints.parts import TEXT
from ...pfstorer_core.models import TextTowerConfig
from ...pfstorer_core.restorers.files import RestorerFile, file_context

FEWEST_LAYERS = 2
"""Of a text tower in the host, which always runs one and skips one."""


class NoText(nn.Module):
    """Stands where the host's CLIP has its text tower, for a restorer that has none: empty, so that every
    node that moves, patches, merges or saves a CLIP has nothing to do."""

    dtypes: frozenset[torch.dtype] = frozenset()

    def __init__(self, **_: Any) -> None:
        super().__init__()

    def set_clip_options(self, options: dict[str, Any]) -> None:
        """Nothing to set."""

    def reset_clip_options(self) -> None:
        """Nothing to reset."""


class NoTokenizer:
    """Says that there is no text tower as soon as somebody writes a prompt for it."""

    def __init__(self, checkpoint: str, **_: Any) -> None:
        self._checkpoint = checkpoint

    def tokenize_with_weights(self, *_: Any, **__: Any) -> NoReturn:
        raise ValueError(
            f"{self._checkpoint} has no text tower, so it cannot read prompts. Leave positive and negative "
            "of the PFStorer nodes unconnected."
        )

    def state_dict(self) -> dict[str, Tensor]:
        """What the host's save nodes ask for."""
        logging.getLogger(__name__).warning(
            "%s has no text tower: of its CLIP there is nothing to save.", self._checkpoint
        )
        return {}

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("_"):  # also asked of an instance that is only being copied
            raise AttributeError(name)
        # An AttributeError, since the host asks everything in its cache by hasattr what it can do.
        raise AttributeError(f"{self._checkpoint} has no text tower, so that its CLIP has no {name}.")


def build_clip(file: RestorerFile, checkpoint: str) -> comfy.sd.CLIP:
    """The host's SD 2.x CLIP from the restorer's text tower, of whatever size; an empty one that says so
    when it is given a prompt where the tower is missing."""
    sizes = TEXT.config_from(file.text) if file.text else None
    if sizes is None or sizes.layers < FEWEST_LAYERS:
        target = ClipTarget(partial(NoTokenizer, checkpoint), NoText)
        return comfy.sd.CLIP(target)
    config = comfy.supported_models.SD20({})
    tensors = config.process_clip_state_dict(TEXT.prefixed(file.text))
    # Many files leave it out, and the host would take what lies in memory.
    tensors.setdefault("clip_h.transformer.text_projection.weight", torch.eye(sizes.width))
    target = config.clip_target(tensors)
    target.params.update(layer="hidden", layer_idx=sizes.layers - FEWEST_LAYERS)
    clip = comfy.sd.CLIP(
        target,
        embedding_directory=folder_paths.get_folder_paths("embeddings"),
        tokenizer_data={**tensors, "clip_h_max_length": sizes.context_length},
        parameters=comfy.utils.calculate_parameters(tensors),
        state_dict=tensors,
        model_options={"clip_h_model_config": _host_config(sizes)},
    )
    tokenizer: Any = clip.tokenizer
    tokenizer.clip_h.embedding_size = sizes.width
    return clip


def _host_config(sizes: TextTowerConfig) -> dict[str, int]:
    """The sizes of a text tower in the host's words."""
    return {
        "hidden_size": sizes.width,
        "intermediate_size": 4 * sizes.width,
        "num_attention_heads": sizes.heads,
        "num_hidden_layers": sizes.layers,
        "max_position_embeddings": sizes.context_length,
        "projection_dim": sizes.width,
        "vocab_size": sizes.vocab,
    }


def null_context(file: RestorerFile, clip: Any, checkpoint: str) -> Tensor:
    """The context [1, M, C] of the empty prompt: the file's own, else that of its text tower; a large one
    runs where the host wants it."""
    if file.null_context is None and file.text and TEXT.config_from(file.text) == TextTowerConfig():
        return clip.encode_from_tokens(clip.tokenize("")).float()
    return file_context(file, checkpoint)
