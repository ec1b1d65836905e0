"""The judges: an identity embedder with trait readings and a landmark detector, in one file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pfstorer_core.checkpoints.errors import CheckpointError
from pfstorer_core.checkpoints.tensors import load_exactly, read_checkpoint, write_safetensors

from ..people import LANDMARKS
from .align import align, without_colour
from .cases import Case
from .identity import OWN_ZOOM, Embedder, FaceNetwork
from .landmarks import LandmarkNetwork, landmark_error
from .traits import GROUPS, READABLE, recovery, spots_recovery, trait_names

FORMAT = "pfstorer-judges"


@dataclass(frozen=True, eq=False)
class Judges:
    """What reads restored faces.

    Attributes:
        face: embedding and traits of aligned faces.
        detector: landmarks of whole pictures.
        trait_mean, trait_std: of the population, [T].
        trait_r2: part of each trait's variance that is read off clean pictures of unseen people, [T].
        figures: how good the judges are on unseen people's clean pictures: `verification`,
            `verification_gray` (percent right at equal error), `lmse`, and the traits' `recovery` by group.
        training: the record of it.
    """

    face: FaceNetwork
    detector: LandmarkNetwork
    trait_mean: Tensor
    trait_std: Tensor
    trait_r2: Tensor
    figures: Mapping[str, Any]
    training: Mapping[str, Any]

    @property
    def embedder(self) -> Embedder:
        return Embedder(lambda crops: self.face(crops)[0], OWN_ZOOM, "drawn people")

    def group(self, name: str) -> Tensor:
        """Which traits make a group: those of it that can be read; bool [T]."""
        member = torch.tensor([group == name for group, _ in trait_names()])
        return member & (self.trait_r2 >= READABLE)

    def traits(self, crops: Tensor) -> Tensor:
        """Traits [B, T] in standard deviations off the mean, of faces aligned with `OWN_ZOOM`."""
        with torch.no_grad():
            return self.face(crops)[1].float()

    def judge(self, images: Tensor, case: Case, embedder: Embedder | None = None) -> dict[str, Tensor]:
        """What of the person is in the restored pictures [M, 3, S, S] of a case.

        Args:
            embedder: of the ID; the judges' own where None.
        Returns:
            one value a picture: `lmse`, `id`, `id_gray` (on grey, contrast-normalised copies: ID without what
            colour alone wins) in percent of a cosine, the recovery of each group of traits and of the
            `spots`.
        """
        embedder = embedder or self.embedder
        true, found = (align(pictures, case.five, embedder.zoom) for pictures in (case.hq, images))
        own = align(images, case.five, OWN_ZOOM)
        traits, actual = self.traits(own), (case.traits - self.trait_mean) / self.trait_std
        return {
            "lmse": landmark_error(self.detector, images, case.landmarks, case.visible),
            "id": likeness(embedder, found, true),
            "id_gray": likeness(embedder, without_colour(found), without_colour(true)),
            **{name: recovery(traits, actual, self.group(name)) for name in GROUPS},
            "spots": spots_recovery(images, case.hq, case.plain),
        }


def likeness(embedder: Embedder, found: Tensor, true: Tensor) -> Tensor:
    """100 · cosine of the embeddings of aligned faces, [B]."""
    return 100 * (embedder(found) * embedder(true)).sum(1)


def save_judges(judges: Judges, path: Path | str) -> None:
    """Write the judges as one fp16 safetensors file."""
    tensors = {f"face.{key}": value for key, value in judges.face.state_dict().items()}
    tensors |= {f"detector.{key}": value for key, value in judges.detector.state_dict().items()}
    about = {
        "landmarks": LANDMARKS,
        "traits": [".".join(name) for name in trait_names()],
        "trait_mean": judges.trait_mean.tolist(),
        "trait_std": judges.trait_std.tolist(),
        "trait_r2": judges.trait_r2.tolist(),
        "figures": judges.figures,
        "training": judges.training,
    }
    metadata = {"format": FORMAT, "format_version": "1", "judges": json.dumps(about)}
    write_safetensors(path, tensors, metadata, torch.float16)


def load_judges(path: Path | str) -> Judges:
    """Read what `save_judges` wrote.

    Raises:
        FileNotFoundError: no such file: the registry's archive of the node pack comes without judges.
        CheckpointError: another kind of file, or judges of another drawing's landmarks or traits.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"The scoreboard's judges are missing: {path} is not there. Only a clone of the repository "
            "brings them, ComfyUI's registry does not: put the file there, or make one with `train-judges`."
        )
    tensors, metadata = read_checkpoint(path)
    if metadata.get("format") != FORMAT:
        raise CheckpointError(f"{path.name} holds no judges: make them with `train-judges`.")
    about = json.loads(metadata["judges"])
    names = [".".join(name) for name in trait_names()]
    if tuple(about["landmarks"]) != LANDMARKS or about["traits"] != names:
        raise CheckpointError(
            f"{path.name} was trained for other landmarks or traits than the drawing has: "
            "run `train-judges` again."
        )
    face, detector = FaceNetwork(len(names)), LandmarkNetwork(len(LANDMARKS))
    for prefix, network in (("face.", face), ("detector.", detector)):
        own = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        load_exactly(network, own, f"judges' {prefix[:-1]} network")
        network.float().eval().requires_grad_(False)
    mean, std, r2 = (torch.tensor(about[f"trait_{name}"]) for name in ("mean", "std", "r2"))
    return Judges(face, detector, mean, std, r2, about["figures"], about["training"])
