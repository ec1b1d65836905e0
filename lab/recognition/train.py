"""Training a small recogniser, which is neither of the judges."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pfstorer_core.checkpoints.tensors import write_safetensors
from pfstorer_core.models.iresnet import IResNet, IResNetConfig
from pfstorer_core.recognition.recognizer import FORMAT
from pfstorer_core.training.data import Batch, collate
from pfstorer_core.training.loop import LoopSettings, Objective, fit
from pfstorer_core.training.progress import Progress, silent

from ..evaluation.cases import drawing
from ..evaluation.faces import drawn_faces
from ..evaluation.identity import ArcFace, equal_error_rate
from ..evaluation.judge_training import wear
from .faces import SIDE, ZOOM, FaceSamples, photographs

STAGE = "recognizer"
NETWORK = IResNetConfig(12, (24, 48, 80, 128), (1, 1, 2, 1), features=128, side=64)
LICENSE = "GPL-3.0-or-later, as PFStorer: learned from drawn people and from people who do not exist."
FFHQ = 0.84
"""Zoom of the template by which ReF-LDM's view shows faces from FFHQ."""
GREY, CALIBRATION = 0.2, 60
"""Part of the faces that are grey; batches that normalizations are measured on once more at the end."""


@dataclass(frozen=True)
class RecognizerTraining:
    """How to train the recogniser.

    Attributes:
        network: its sizes.
        people, photos: drawn ones to train on.
        bent: people made of each photographed one, himself included.
        unseen: further drawn people, with as many photos, that errors are measured on.
        left_out: photographed people who are for that alone.
    """

    network: IResNetConfig = NETWORK
    people: int = 200
    photos: int = 4
    bent: int = 60
    unseen: int = 50
    left_out: tuple[str, ...] = ("P004", "P007", "P008")
    seed: int = 7
    loop: LoopSettings = field(
        default_factory=lambda: LoopSettings(450, 3e-3, 64, weight_decay=0.01, ema=0.99, bf16=False)
    )

    def __post_init__(self) -> None:
        if self.people < 1 or self.photos < 2 or self.bent < 1 or self.unseen < 2:
            raise ValueError(
                f"people and bent must be 1 or more, photos and unseen 2 or more, got {self.people}, "
                f"{self.bent}, {self.photos} and {self.unseen}."
            )


class RecognizerObjective(Objective):
    """The network by ArcFace's loss over the people."""

    def __init__(self, network: IResNet, people: int) -> None:
        super().__init__()
        self.network = network
        self.arcface = ArcFace(people, network.config.features)

    def forward(self, batch: Batch) -> Tensor:
        rng = np.random.default_rng(batch["seed"])
        return self.arcface(self.network(seen(batch["image"], self.network.config.side, rng)), batch["who"])


def seen(faces: Tensor, side: int, rng: np.random.Generator) -> Tensor:
    """Faces [B, 3, SIDE, SIDE], uint8 -> what a recogniser may get to see of them [B, 3, side, side] in
    [-1, 1]: of other sizes, a little aside, turned or mirrored, in other light, coarse or noisy."""
    count = len(faces)
    zoom = ZOOM / torch.from_numpy(rng.uniform(0.78, 1.05, count))
    turn = torch.from_numpy(rng.normal(0, 0.05, count))
    shift = torch.from_numpy(rng.normal(0, 0.02, (count, 2)))
    mirror = torch.from_numpy(rng.choice([-1.0, 1.0], count))
    cos, sin = zoom * turn.cos(), zoom * turn.sin()
    rows = torch.stack([mirror * cos, -sin, shift[:, 0], mirror * sin, cos, shift[:, 1]], -1)
    grid = F.affine_grid(rows.view(-1, 2, 3).float(), [count, 3, 2 * side, 2 * side], align_corners=False)
    pictures = F.avg_pool2d(F.grid_sample(faces.float() / 255, grid, align_corners=False), 2)
    tint = rng.uniform(0.92, 1.08, (count, 3, 1, 1))
    light = torch.from_numpy(rng.uniform(0.75, 1.25, (count, 1, 1, 1)) * tint)
    curve = torch.from_numpy(rng.uniform(0.7, 1.4, (count, 1, 1, 1)))
    pictures = (pictures.clamp_min(1e-4) ** curve.float() * light.float()).clamp(0, 1)
    grey = torch.from_numpy(rng.random(count) < GREY)[:, None, None, None]
    pictures = torch.where(grey, pictures.mean(1, keepdim=True), pictures)
    return 2 * wear(pictures, rng, coarsest=2.5, noise=0.03) - 1


def train_recognizer(
    settings: RecognizerTraining,
    folder: Path,
    photos: Path | None = None,
    on_progress: Callable[[Progress], None] = silent,
) -> tuple[IResNet, dict[str, float]]:
    """Train on drawn people, and on those in a folder of photographs (see `photographs`); resumes from
    `folder`.

    Returns:
        the network, and what part of pairs of unseen people's pictures it judges wrongly at equal error.
    """
    count = settings.people + settings.unseen
    everyone = drawn_faces(count, settings.photos, settings.seed, folder, on_progress)
    own = photographs(photos) if photos else {}
    left_out = {person: own.pop(person) for person in settings.left_out if person in own}
    samples = FaceSamples(everyone.part(0, settings.people), own, settings.bent, settings.seed)
    torch.manual_seed(settings.seed)
    objective = RecognizerObjective(IResNet(settings.network), samples.people)
    record: dict[str, Any] = {**asdict(settings), "drawing": drawing(), "photographed": sorted(own)}
    record.pop("loop")
    fit(STAGE, objective, samples, settings.loop, folder, on_progress, record=record, pictures=False)
    network = objective.network
    calibrate(network, samples, settings.loop.batch)
    unseen = everyone.part(settings.people, settings.unseen).all("faces").unbind()
    errors = {"drawn": verification_error(network, unseen)}
    if len(left_out) > 1:
        errors["photographed"] = verification_error(network, list(left_out.values()))
    return network, errors


@torch.no_grad()
def calibrate(network: IResNet, samples: FaceSamples, batch: int) -> None:
    """Measure what the normalizations see once more: the weights are averages of those that were trained."""
    for name, seen_before in network.named_buffers():
        seen_before.fill_(name.endswith("var"))
    network.train()
    for number in range(CALIBRATION):
        found = collate([samples[k] for k in range(number * batch, (number + 1) * batch)])
        network(seen(found["image"], network.config.side, np.random.default_rng(number)))
    network.eval().requires_grad_(False)


@torch.no_grad()
def verification_error(network: IResNet, people: Sequence[Tensor]) -> float:
    """The equal error rate in [0, 1] on people's faces, each [P, 3, SIDE, SIDE], cut as from FFHQ."""
    side = network.config.side
    margin = round(SIDE * (1 - ZOOM / FFHQ) / 2)
    labels = torch.cat([torch.full((len(faces),), number) for number, faces in enumerate(people)])
    faces = torch.cat(list(people))[..., margin : SIDE - margin, margin : SIDE - margin]
    views = [F.interpolate(part.float() / 127.5 - 1, (side, side), mode="area") for part in faces.split(256)]
    return equal_error_rate(F.normalize(torch.cat([network(view) for view in views]), dim=1), labels)


def save_recognizer(network: IResNet, path: Path, errors: dict[str, float]) -> None:
    """Write the network as one fp16 file for `load_recognizer`."""
    said = ", ".join(f"{100 * error:.1f} % of unseen {who} people" for who, error in errors.items())
    about = {"source": "train-recognizer", "license": LICENSE, "verification_error": said}
    metadata = {"format": FORMAT, "format_version": "1", **about}
    write_safetensors(path, network.state_dict(), metadata, torch.float16)
