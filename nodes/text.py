"""CLIP and the context of the empty prompt."""

from __future__ import annotations

from typing import Any, NoReturn

import comfy.sd
import comfy.supported_models
import comfy.utils
import folder_paths
from torch import Tensor

from ..pfstorer_core.layouts import PREFIXES
from ..pfstorer_core.restorer import RestorerFile, file_context


class NoTextTower:
    """The CLIP of a restorer without a text tower: says so as soon as somebody uses it."""

    def __init__(self, checkpoint: str) -> None:
        self._checkpoint = checkpoint

    def __getattr__(self, name: str) -> NoReturn:
        # An AttributeError, since the host asks everything in its cache by hasattr what it can do.
        raise AttributeError(
            f"{self._checkpoint} has no text tower, so it cannot read prompts. Leave positive and "
            "negative of the PFStorer nodes unconnected; for a LoRA use LoraLoaderModelOnly."
        )


def build_clip(file: RestorerFile, checkpoint: str) -> Any:
    """The host's SD 2.x CLIP from the restorer's text tower, or a `NoTextTower`."""
    if not file.text:
        return NoTextTower(checkpoint)
    config = comfy.supported_models.SD20({})
    tensors = config.process_clip_state_dict(
        {PREFIXES["text"] + key: value for key, value in file.text.items()}
    )
    return comfy.sd.CLIP(
        config.clip_target(tensors),
        embedding_directory=folder_paths.get_folder_paths("embeddings"),
        tokenizer_data=tensors,
        parameters=comfy.utils.calculate_parameters(tensors),
        state_dict=tensors,
    )


def null_context(file: RestorerFile, clip: Any, checkpoint: str) -> Tensor:
    """The context [1, M, C] of the empty prompt: the file's own, else CLIP's."""
    if file.null_context is None and file.text:
        return clip.encode_from_tokens(clip.tokenize("")).float()
    return file_context(file, checkpoint)
