"""Recognisers: networks that tell by a picture who it is. Gradients flow through them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..checkpoints.errors import CheckpointError, StateDict
from ..checkpoints.layouts import foreign
from ..checkpoints.parts.base import META, Part
from ..checkpoints.parts.dlib_resnet import DLIB_RESNET
from ..checkpoints.parts.iresnet import IRESNET
from ..checkpoints.reading import Program, read_checkpoint
from ..checkpoints.tensors import load_exactly
from ..checkpoints.words import first_keys, plain
from .view import ARCFACE, DLIB, View

CONVERTER = "python -m lab convert-recognizer FILE.onnx OUT.safetensors"
"""Makes a file that can be loaded of insightface's ONNX files, and is run by hand."""
UNLICENSED = "insightface allows its published weights for non-commercial research only."
"""Said of files that say nothing of it."""
FORMAT = "pfstorer-recognizer"
"""What a file of ours says that it is."""
KINDS: tuple[tuple[Part, View], ...] = ((IRESNET, ARCFACE), (DLIB_RESNET, DLIB))
"""What can be loaded, and what it sees of a picture, but for the size of that."""


@dataclass(frozen=True, eq=False)
class Recognizer:
    """A network that tells by a picture who it is.

    Attributes:
        network: views [B, 3, S, S] in [-1, 1] -> embeddings [B, D], of any length.
        view: what it sees of a picture.
        name: for reports.
        license: of its weights, in a sentence.
    """

    network: nn.Module
    view: View = ARCFACE
    name: str = ""
    license: str = ""

    def described(self) -> str:
        """What was loaded, in a line."""
        views = f"faces of {self.view.side} pixels"
        return f"{self.name}: {type(self.network).__name__}, {views}. {self.license}".rstrip()

    @cached_property
    def fingerprint(self) -> str:
        """128 bits of a hash of its weights, in fp16, as the first look at it finds them: which number format
        a file has does not matter, and neither does its name."""
        digest = hashlib.sha256()
        for key, value in sorted(self.network.state_dict().items()):
            stored = value.detach().cpu()
            stored = stored.half() if stored.is_floating_point() else stored
            digest.update(f"{key} {list(stored.shape)}".encode())
            digest.update(stored.contiguous().numpy().tobytes())
        return digest.hexdigest()[:32]

    def embed(self, pictures: Tensor, places: Tensor | None = None) -> Tensor:
        """Raw embeddings of pictures; gradients flow from them to the pictures.

        Args:
            pictures: RGB [B, 3, H, W] in [-1, 1], of any size.
            places: landmarks [B, 6, 2] of the faces in pixels, as `Face` has them, by which they are
                aligned. None: each picture is a face as in FFHQ, and its middle is taken.
        Returns:
            [B, D], fp32, on the pictures' device.
        Raises:
            ValueError: other pictures or landmarks than these, see `View.of`.
        """
        weight = next(self.network.parameters(), pictures)
        views = self.view.of(pictures.to(weight.device, torch.float32), places)
        return self.network(views.to(weight.dtype)).to(pictures.device, torch.float32)


def mean_of_units(embeddings: Tensor) -> Tensor:
    """The direction of a person [D] by embeddings [N, D] of pictures: the mean of unit vectors, made one."""
    return F.normalize(F.normalize(embeddings, dim=-1).mean(0), dim=0)


def cosines(embeddings: Tensor, person: Tensor) -> Tensor:
    """Likenesses [B] in [-1, 1] of embeddings [B, D] to that of a person [D], or each to its own [B, D]."""
    return F.cosine_similarity(embeddings, person, dim=-1)


def load_recognizer(path: Path | str, device: torch.device | str = "cpu") -> Recognizer:
    """The recogniser in a file: insightface's IResNet as a state dict, such as arcface_torch's
    `backbone.pth`, or dlib's in a file of ours. It calculates in fp32, in whatever format it is stored.

    Raises:
        FileNotFoundError, PermissionError: no such file; not readable.
        CheckpointError: the file is damaged, a program, or no recogniser; says what it is instead.
    """
    path = Path(path)
    if path.suffix.lower() == ".onnx":
        raise _a_program(path, "an ONNX file")
    try:
        tensors, metadata = read_checkpoint(path)
    except Program as error:
        raise _a_program(path, "a TorchScript file") from error
    for part, view in KINDS:
        if part.sign in tensors:
            weights = part.weights(tensors)
            config = part.config_from(weights)
            network = _network(part, config, weights).to(device)
            view = replace(view, side=config.side)
            return Recognizer(network, view, path.stem, metadata.get("license", UNLICENSED))
    known = foreign(tensors)
    what = known.name if known else f"of a kind that is not known here ({first_keys(tensors)})"
    raise CheckpointError(
        f"{path.name} is {what}, and no face recogniser: choose insightface's IResNet as a state dict "
        "(backbone.pth), or dlib's, which comes with the pack."
    )


def _network(part: Part, config: Any, weights: StateDict) -> nn.Module:
    """The network that has these weights, in evaluation, fp32."""
    network = part.build(config, META)
    load_exactly(network, weights, part.title, placement={"dtype": torch.float32, "device": "cpu"})
    return network.eval().requires_grad_(False)


def _a_program(path: Path, what: str) -> CheckpointError:
    return CheckpointError(
        f"{plain(path.name)} is {what}, a program, which is never executed here: get the network's state "
        f"dict (backbone.pth), or convert its ONNX file once by {CONVERTER} (insightface's w600k_r50.onnx "
        "and glintr100.onnx)."
    )
