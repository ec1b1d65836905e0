"""Recognisers in the host: in its memory management, with gradients through them wherever it calls."""

from __future__ import annotations

from dataclasses import dataclass

import comfy.model_management as mm
import torch
from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io
from torch import Tensor

from ...pfstorer_core.recognition import Recognizer, load_recognizer
from .guidance import to_normal_tensors

MEMORY_PER_VIEW = 2**27
"""Bytes that a recogniser of insightface's size keeps of each picture, at most, for a backward pass."""

FaceRecognizerType = io.Custom("FACE_RECOGNIZER")


@dataclass(frozen=True, eq=False)
class HostedRecognizer:
    """A recogniser as FACE_RECOGNIZER: what it calculates is in `recognizer`, where it is loaded and when it
    is put away in `patcher`, which is never streamed."""

    recognizer: Recognizer
    patcher: ModelPatcher

    @classmethod
    def load(cls, path: str) -> HostedRecognizer:
        """Of a file; raises what `load_recognizer` does. torch saves no tensor that was made in the host's
        inference mode for a backward pass: the weights are read outside of it."""
        with torch.inference_mode(False), torch.no_grad():
            recognizer = load_recognizer(path)
        patcher = ModelPatcher(recognizer.network, mm.get_torch_device(), mm.unet_offload_device())
        return cls(recognizer, patcher)

    @property
    def name(self) -> str:
        return self.recognizer.name

    def embed(self, pictures: Tensor, places: Tensor | None = None) -> Tensor:
        """As `Recognizer.embed`, with the network where the host has put it: in a sampling as one of MODEL's
        additional models, else by `loaded`."""
        to_normal_tensors(self.recognizer.network, self.patcher.load_device)
        return self.recognizer.embed(pictures, places)

    def loaded(self, pictures: int = 1) -> HostedRecognizer:
        """Itself, loaded for the work on so many pictures at once."""
        mm.load_models_gpu([self.patcher], memory_required=pictures * MEMORY_PER_VIEW)
        return self
