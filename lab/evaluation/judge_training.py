"""Training the judges on drawn people of their own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pfstorer_core.training.data import Batch
from pfstorer_core.training.loop import LoopSettings, Objective, fit
from pfstorer_core.training.progress import Progress, silent

from ..people import LANDMARKS
from .align import CROP, without_colour
from .cases import drawing
from .faces import RIM, DrawnFaces, FaceSamples, PhotoSamples, drawn_faces
from .identity import ArcFace, FaceNetwork, equal_error_rate
from .judges import Judges
from .landmarks import INPUT, LandmarkNetwork, landmark_error
from .traits import GROUPS, READABLE, trait_names


def _loop(steps: int) -> LoopSettings:
    return LoopSettings(steps, lr=2e-3, batch=64, ema=0.995)


@dataclass(frozen=True)
class JudgeTraining:
    """How to train the judges.

    Attributes:
        people, photos: to train on; each photo is a picture for the detector and a face for the embedder.
        unseen: further people, with as many photos, that the figures are measured on.
        colourless: part of the faces that are trained on as grey, contrast-normalised copies.
        trait_weight: of the traits' squared error beside ArcFace's loss.
    """

    people: int = 3000
    photos: int = 8
    unseen: int = 200
    seed: int = 0
    colourless: float = 0.35
    trait_weight: float = 30.0
    face_loop: LoopSettings = field(default_factory=lambda: _loop(6000))
    landmark_loop: LoopSettings = field(default_factory=lambda: _loop(3000))


def train_judges(
    settings: JudgeTraining, folder: Path, on_progress: Callable[[Progress], None] = silent
) -> Judges:
    """Draw people, train both networks and measure them on unseen people; resumes from `folder`."""
    everyone = drawn_faces(
        settings.people + settings.unseen, settings.photos, settings.seed, folder, on_progress
    )
    seen, unseen = everyone.part(0, settings.people), everyone.part(settings.people, settings.unseen)
    traits = seen.all("traits")
    mean, std = traits.mean(0), traits.std(0).clamp_min(1e-6)
    torch.manual_seed(settings.seed)
    face, detector = FaceObjective(settings.people, settings), LandmarkObjective()
    faces = FaceSamples(seen, (traits - mean) / std, settings.seed)
    record = {"people": settings.people, "photos": settings.photos, "drawing": drawing()}
    fit("judges-face", face, faces, settings.face_loop, folder, on_progress, record=record)
    photos = PhotoSamples(seen, settings.seed)
    fit("judges-landmarks", detector, photos, settings.landmark_loop, folder, on_progress, record=record)
    networks = face.face.eval().requires_grad_(False), detector.detector.eval().requires_grad_(False)
    r2, figures = measure(*networks, unseen, mean, std)
    return Judges(*networks, mean, std, r2, figures, {**asdict(settings), "drawing": drawing()})


class FaceObjective(Objective):
    """The embedder by ArcFace's loss over the people, its trait readings by the squared error."""

    def __init__(self, people: int, settings: JudgeTraining) -> None:
        super().__init__()
        groups = [group for group, _ in trait_names()]
        self.face = FaceNetwork(len(groups))
        self.arcface = ArcFace(people)
        self.colourless, self.trait_weight = settings.colourless, settings.trait_weight
        self.always: Tensor
        self.register_buffer(
            "always", torch.tensor([group != "colour" for group in groups]), persistent=False
        )

    def forward(self, batch: Batch) -> Tensor:
        rng = np.random.default_rng(batch["seed"])
        crops = wear(move(batch["image"].float() / 255, rng), rng, coarsest=2.0, noise=0.02)
        gray = torch.from_numpy(rng.random(len(crops)) < self.colourless).to(crops.device)
        crops = torch.where(gray[:, None, None, None], without_colour(crops), crops)
        embedding, found = self.face(crops)
        counts = self.always | ~gray[:, None]  # the colours of a grey face cannot be known
        errors = (found.float() - batch["traits"]) ** 2 * counts
        return self.arcface(embedding, batch["who"]) + self.trait_weight * errors.sum() / counts.sum()


class LandmarkObjective(Objective):
    """The detector, by the distance to the visible landmarks."""

    def __init__(self) -> None:
        super().__init__()
        self.detector = LandmarkNetwork(len(LANDMARKS))

    def forward(self, batch: Batch) -> Tensor:
        rng = np.random.default_rng(batch["seed"])
        images = wear(batch["image"].float() / 255, rng, coarsest=4.0, noise=0.05)
        gray = torch.from_numpy(rng.random(len(images)) < 0.2).to(images.device)
        images = torch.where(gray[:, None, None, None], images.mean(1, keepdim=True), images)
        errors = F.smooth_l1_loss(self.detector(images), batch["landmarks"], reduction="none", beta=0.01)
        return 10 * (errors.sum(-1) * batch["visible"]).sum() / batch["visible"].sum()


def move(crops: Tensor, rng: np.random.Generator) -> Tensor:
    """Cut [B, 3, 112, 112] out of faces with a rim, as an alignment that errs by a few pixels would."""
    count, side = len(crops), crops.shape[-1]
    scale = torch.from_numpy(rng.uniform(0.96, 1.04, count)) * CROP / side
    turn = torch.from_numpy(rng.normal(0, 0.03, count))
    shift = torch.from_numpy(rng.uniform(-0.6, 0.6, (count, 2))) * RIM / side
    cos, sin = scale * turn.cos(), scale * turn.sin()
    rows = torch.stack([cos, -sin, shift[:, 0], sin, cos, shift[:, 1]], -1).view(-1, 2, 3).to(crops)
    grid = F.affine_grid(rows, [count, 3, CROP, CROP], align_corners=False)
    return F.grid_sample(crops, grid, align_corners=False, padding_mode="border")


def wear(images: Tensor, rng: np.random.Generator, coarsest: float, noise: float) -> Tensor:
    """Pictures as restorers leave them: half of the batches coarser by up to `coarsest`, all noisy."""
    side = images.shape[-1]
    if rng.random() < 0.5:
        small = round(side / rng.uniform(1, coarsest))
        small_images = F.interpolate(images, (small, small), mode="bilinear", antialias=True)
        images = F.interpolate(small_images, (side, side), mode="bicubic")
    sigma = torch.from_numpy(rng.uniform(0, noise, (len(images), 1, 1, 1))).float()
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
    noisy = images + (sigma * torch.randn(images.shape, generator=generator)).to(images)
    return noisy.clamp(0, 1)


@torch.no_grad()
def measure(
    face: FaceNetwork, detector: LandmarkNetwork, unseen: DrawnFaces, mean: Tensor, std: Tensor
) -> tuple[Tensor, dict[str, object]]:
    """R² of each trait [T], and the judges' figures, on clean photos of people they have not seen."""
    people, photos = unseen.count, unseen.photos
    labels = torch.arange(people).repeat_interleave(photos)
    crops = unseen.all("faces")[..., RIM : RIM + CROP, RIM : RIM + CROP].flatten(0, 1)
    batches = [batch.float() / 255 for batch in crops.split(256)]
    results = [face(batch) for batch in batches]
    gray = torch.cat([face(without_colour(batch))[0] for batch in batches])
    embeddings, found = (torch.cat(parts) for parts in zip(*results, strict=True))
    true = ((unseen.all("traits") - mean) / std).repeat_interleave(photos, 0)
    r2 = 1 - ((found - true) ** 2).mean(0) / true.var(0).clamp_min(1e-6)

    parts = [unseen.all(name).flatten(0, 1).split(256) for name in ("pictures", "landmarks", "visible")]
    errors = torch.cat(
        [
            landmark_error(detector, p.float() / 255, INPUT * at, seen)
            for p, at, seen in zip(*parts, strict=True)
        ]
    )
    groups = torch.tensor([GROUPS.index(group) for group, _ in trait_names()])
    readable = r2 >= READABLE
    return r2, {
        "verification": 100 * (1 - equal_error_rate(F.normalize(embeddings, dim=1), labels)),
        "verification_gray": 100 * (1 - equal_error_rate(F.normalize(gray, dim=1), labels)),
        "lmse": float(errors.nanmean()),
        "people": people,
        "photos": photos,
        "recovery": {
            name: float((1 - (found - true) ** 2)[:, (groups == k) & readable].mean() * 100)
            for k, name in enumerate(GROUPS)
            if ((groups == k) & readable).any()
        },
        "readable": {
            name: f"{int(((groups == k) & readable).sum())} of {int((groups == k).sum())}"
            for k, name in enumerate(GROUPS)
        },
    }
