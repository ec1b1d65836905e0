"""CLIP and the context of the empty prompt."""

from __future__ import annotations

from typing import Any, NoReturn

import comfy.sd
import comfy.supported_models
import comfy.utils
import folder_paths
import torch
from torch import Tensor

from ..pfstorer_core.checkpoint import load_exactly
from ..pfstorer_core.layouts import PREFIXES
from ..pfstorer_core.models import TextTower, TextTowerConfig
from ..pfstorer_core.restorer import RestorerFile, file_context
from ..pfstorer_core.sizes import text_config, text_weights
from ..pfstorer_core.tokenizer import tokenize


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


class SmallTextTower:
    """The CLIP of a restorer whose text tower is not of the one size that the host builds, ViT-H's.

    It reads prompts, by the methods of the host's CLIP that prompt nodes call; parentheses in a prompt
    weigh nothing.
    """

    def __init__(self, weights: dict[str, Tensor], checkpoint: str) -> None:
        self._checkpoint = checkpoint
        self._tower = TextTower(text_config(weights)).eval().requires_grad_(False)
        load_exactly(self._tower, text_weights(weights), "text tower")

    def tokenize(self, text: str, **_: Any) -> Tensor:
        return tokenize([text], self._tower.config.context_length)

    def encode_from_tokens(self, tokens: Tensor, **_: Any) -> Tensor:
        with torch.no_grad():
            return self._tower(tokens)

    def encode_from_tokens_scheduled(self, tokens: Tensor, **_: Any) -> list[list[Any]]:
        return [[self.encode_from_tokens(tokens), {}]]

    def get_sd(self) -> dict[str, Tensor]:
        return {PREFIXES["text"] + key: value for key, value in self._tower.state_dict().items()}

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(
            f"The text tower of {self._checkpoint} is a small one, which reads prompts and nothing else "
            f"({name}): for a LoRA use LoraLoaderModelOnly."
        )


def build_clip(file: RestorerFile, checkpoint: str) -> Any:
    """The host's SD 2.x CLIP from the restorer's text tower; a stand-in where that is small or missing."""
    if not file.text:
        return NoTextTower(checkpoint)
    if text_config(file.text).width != TextTowerConfig().width:
        return SmallTextTower(file.text, checkpoint)
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
