"""Who is it: an embedder of aligned faces, the user's own or the one trained on drawn people."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .align import CROP
from .blocks import Residual, conv

OWN_ZOOM = 0.75
"""Of the template for the trained embedder: hairline and chin are in the crop."""


@dataclass(frozen=True)
class Embedder:
    """An identity embedder.

    Attributes:
        embed: aligned faces [B, 3, 112, 112] in [0, 1] -> [B, D] of any length.
        zoom: of the template that it wants, see `align`.
        name: for the scoreboard.
    """

    embed: Callable[[Tensor], Tensor]
    zoom: float
    name: str

    @torch.no_grad()
    def __call__(self, crops: Tensor) -> Tensor:
        """Unit vectors [B, D]."""
        return F.normalize(self.embed(crops).float().flatten(1), dim=1)


class FaceNetwork(nn.Module):
    """Embedding and traits of aligned faces [B, 3, 112, 112] in [0, 1]."""

    def __init__(self, traits: int, width: int = 24, embedding: int = 128) -> None:
        super().__init__()
        widths = [width, 2 * width, 4 * width, 6 * width]
        blocks: list[nn.Module] = [conv(3, width, 5, 2), nn.SiLU()]
        for inner, outer in pairwise(widths):
            blocks += [Residual(inner, outer, 2), Residual(outer, outer)]
        self.trunk = nn.Sequential(*blocks, conv(widths[-1], 64, 1), nn.Flatten())
        features = 64 * (CROP // 16) ** 2
        self.embedding = nn.Linear(features, embedding)
        self.traits = nn.Sequential(nn.Linear(features, 64), nn.SiLU(), nn.Linear(64, traits))

    def forward(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        """Embedding [B, D], not of unit length, and traits [B, T] in standard deviations off the mean."""
        features = self.trunk(4 * (crops - 0.5))
        return self.embedding(features), self.traits(features)


class ArcFace(nn.Module):
    """The additive angular margin loss (Deng et al. 2019, eq. 3) over `people` classes."""

    def __init__(self, people: int, embedding: int = 128, scale: float = 24.0, margin: float = 0.3) -> None:
        super().__init__()
        self.centres = nn.Parameter(torch.randn(people, embedding) / embedding**0.5)
        self.scale, self.margin = scale, margin

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        with torch.autocast(
            embeddings.device.type, enabled=False
        ):  # in bf16 a cosine could be 1, and NaN next
            centres = F.normalize(self.centres.float(), dim=1)
            cosines = F.linear(F.normalize(embeddings.float(), dim=1), centres)
        angles = cosines.clamp(-1 + 1e-6, 1 - 1e-6).acos()
        own = F.one_hot(labels, len(self.centres)).bool()
        logits = torch.where(own, (angles + self.margin).clamp_max(torch.pi).cos(), cosines)
        return F.cross_entropy(self.scale * logits, labels)


def equal_error_rate(embeddings: Tensor, labels: Tensor) -> float:
    """The error rate in [0, 1] at the threshold where as many same pairs fail as different ones pass: where
    no threshold makes them equal, the smallest that both stay below.

    Args:
        embeddings: unit vectors [N, D].
        labels: the person of each, [N]; all pairs are compared.
    Raises:
        ValueError: no pair of one person, or none of two.
    """
    first, second = torch.triu_indices(len(labels), len(labels), 1)
    scores = (embeddings @ embeddings.T)[first, second]
    same = labels[first] == labels[second]
    if same.all() or not same.any():
        raise ValueError("Verification needs two people or more, with two pictures or more of one of them.")
    accepted = same[scores.argsort(descending=True, stable=True)]
    rejected = 1 - accepted.double().cumsum(0) / accepted.sum()
    passed = (~accepted).double().cumsum(0) / (~accepted).sum()
    return float(torch.maximum(rejected, passed).min())


def load_embedder(path: Path | str) -> Embedder:
    """An ArcFace-like network of the user's: ONNX, or TorchScript.

    It gets ArcFace's crop, RGB [B, 3, 112, 112] in [-1, 1], and returns one vector a face.

    Raises:
        FileNotFoundError: no such file.
        ValueError: neither kind of file, or a network that does not take such crops.
        ImportError: an ONNX file without onnxruntime.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"No embedder at {path}.")
    network = _load_onnx(path) if path.suffix.lower() == ".onnx" else _load_torchscript(path)
    embedder = Embedder(lambda crops: network(2 * crops - 1), 1.0, path.name)
    try:
        embedding = embedder(torch.full((2, 3, CROP, CROP), 0.5))
    except Exception as error:  # whatever a foreign network raises
        reason = str(error).strip().splitlines()[-1]
        raise ValueError(
            f"{path.name} does not take faces [2, 3, {CROP}, {CROP}]: {reason}. "
            "Export it with a free batch size."
        ) from error
    if len(embedding) != 2:
        raise ValueError(f"{path.name} gave a result of shape {list(embedding.shape)} for 2 faces.")
    return embedder


def _load_onnx(path: Path) -> Callable[[Tensor], Tensor]:
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError(f"{path.name} needs onnxruntime: pip install onnxruntime") from error
    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own classes have no public base
        raise ValueError(f"{path.name} is not an ONNX network that can be read ({error}).") from error
    name = session.get_inputs()[0].name
    return lambda crops: torch.from_numpy(session.run(None, {name: crops.cpu().numpy()})[0])


def _load_torchscript(path: Path) -> Callable[[Tensor], Tensor]:
    try:
        return torch.jit.load(path, map_location="cpu").eval()
    except RuntimeError as error:
        raise ValueError(
            f"{path.name} is neither ONNX (.onnx) nor TorchScript; a bare state dict does not say "
            "its network. Export it with torch.onnx.export or torch.jit.trace."
        ) from error
