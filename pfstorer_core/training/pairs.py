"""Latents of HQ and LQ pictures that are encoded beforehand: training without an accelerator needs it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..checkpoints.tensors import read_checkpoint, write_safetensors
from ..models import Autoencoder
from .data import Crops
from .degradation import RandomDegradation
from .people import drawn
from .progress import Progress, silent

CERTAIN = -60.0
"""Logarithm of a variance that no draw shows."""

Clean = Callable[[Tensor], Tensor]
"""Takes the damage out of pictures [B, 3, H, W] in [0, 1]."""


@dataclass(frozen=True, eq=False)
class LatentPairs:
    """`Samples` of latents: "hq" and "lq" [2·C, side, side], mean and log-variance of the distribution
    that a training draws from.

    Attributes:
        hq, lq: [N, 2·C, h, w] in fp16.
        crop: side of the random crops of latents; every `whole_every`-th step of `batch` samples sees
            whole ones instead, for the sake of the attention. 0: always whole ones.
        people: whom each shows; where `references` are wanted.
        references: so many whole latents of other pictures of the same person are "reference"
            [R, 2·C, h, w]; those of whom there is but one picture have no part in it.
        pictures: which each is a crop of, where one may be of several crops; empty: each of its own.

    Raises:
        ValueError: there are no two pictures of anybody.
    """

    hq: Tensor
    lq: Tensor
    captions: Sequence[str]
    batch: int
    crop: int = 0
    whole_every: int = 8
    seed: int = 0
    _known: dict[int, list[int]] = field(default_factory=dict, init=False, repr=False)
    _usable: Sequence[int] = field(default=(), init=False, repr=False)
    people: Sequence[str] = ()
    references: int = 0
    pictures: Sequence[str] = ()

    def __post_init__(self) -> None:
        known: dict[str, list[int]] = {}
        for index, person in enumerate(self.people):
            known.setdefault(person, []).append(index)
        own = self.pictures or range(len(self.hq))
        rows: dict[int, list[int]] = {}
        for index, person in enumerate(self.people):
            if others := [each for each in known[person] if own[each] != own[index]]:
                rows[index] = others
        if self.references and not rows:
            raise ValueError("Among these pairs are no two of the same person: encode more of them.")
        object.__setattr__(self, "_known", rows)
        object.__setattr__(self, "_usable", list(rows) if self.references else range(len(self.hq)))

    def __len__(self) -> int:
        return len(self._usable)

    def __getitem__(self, k: int) -> dict[str, Any]:
        rng = np.random.default_rng([self.seed, k, 2])
        index = self._usable[int(rng.integers(len(self)))]
        whole = self.hq.shape[-1]
        side = whole if (k // self.batch) % self.whole_every == 0 else self.crop or whole
        top, left = (int(rng.integers(length - side + 1)) for length in self.hq.shape[-2:])
        window = (index, slice(None), slice(top, top + side), slice(left, left + side))
        sample = {
            "hq": self.hq[window].float(),
            "lq": self.lq[window].float(),
            "seed": torch.tensor(int(rng.integers(2**62))),
            "caption": self.captions[index],
            "broken": [],
        }
        if self.references:
            sample["reference"] = self.hq[drawn(self._known[index], self.references, rng)].float()
        return sample


class EncodedPairs(NamedTuple):
    """`hq`, `lq`: [N, 2·C, h, w] in fp16. `people`, `pictures`: whom each shows, and what it is a crop of,
    where crops tell; else empty."""

    hq: Tensor
    lq: Tensor
    captions: list[str]
    people: list[str]
    pictures: list[str]


@torch.no_grad()
def moments(autoencoder: Autoencoder, images: Tensor) -> Tensor:
    """Pictures [B, 3, H, W] in [0, 1] -> mean and log-variance of their latents, [B, 2·C, h, w]. A VQ
    autoencoder tells no distribution: its latents are certain."""
    if not autoencoder.config.double_z:
        latents = autoencoder.encode(2 * images - 1)
        return torch.cat([latents, torch.full_like(latents, CERTAIN)], dim=1)
    return torch.cat(autoencoder.moments(2 * images - 1), dim=1)


@torch.no_grad()
def pair_moments(
    autoencoder: Autoencoder, hq: Tensor, lq: Tensor, cleaner: Clean | None = None
) -> tuple[Tensor, Tensor]:
    """`moments` of good pictures and of bad ones, which are cleaned before where there is a cleaner."""
    seen = lq if cleaner is None else cleaner(lq)
    of_hq, of_lq = moments(autoencoder, torch.cat([hq, seen])).chunk(2)
    return of_hq, of_lq


def latent_pairs(
    autoencoder: Autoencoder,
    crops: Crops,
    count: int,
    degradation: RandomDegradation,
    p_hq: float,
    path: Path,
    on_progress: Callable[[Progress], None] = silent,
    cleaner: Clean | None = None,
) -> EncodedPairs:
    """Moments of the latents of crops 0 … count - 1 and of their degraded copies.

    Made on the first call, then read from `path` as long as autoencoder, cleaner, crops and settings are the
    same.
    Raises what `Crops` and `write_safetensors` do.
    """
    settings: list[Any] = [count, asdict(degradation), p_hq]
    if crops.mix is not None:
        settings.append(["mix", getattr(crops.mix, "share", None)])
    if crops.others is not None:
        settings.append("people and pictures")
    if not crops.mirrored:
        settings.append("not mirrored")
    if cleaner is not None:
        first = cleaner(crops[0]["image"][None].float() / 255)
        settings.append(round(first.double().abs().sum().item(), 2))
    key = _key(autoencoder, crops, settings)
    metadata = read_checkpoint(path)[1] if path.exists() else {}
    if metadata.get("key") != key:
        found: dict[str, list[Tensor]] = {"hq": [], "lq": []}
        like = next(autoencoder.encoder.parameters())
        captions, people, pictures = list[str](), list[str](), list[str]()
        for k in range(count):
            sample = crops[k]
            rng = np.random.default_rng(int(sample["seed"]))
            hq, lq = degradation(sample["image"][None].float() / 255, [rng], p_hq)
            pair = hq.to(like), lq.to(like)
            for name, latents in zip(found, pair_moments(autoencoder, *pair, cleaner), strict=True):
                found[name].append(latents[0].half())
            captions.append(sample["caption"])
            people += [sample["person"]] if crops.others else []
            pictures += [sample["picture"]] if crops.others else []
            on_progress(Progress("latents", k + 1, count))
        stacked = {name: torch.stack(latents) for name, latents in found.items()}
        said = {"captions": captions, "people": people, "pictures": pictures}
        texts = {name: json.dumps(value) for name, value in said.items()}
        write_safetensors(path, stacked, {"key": key, **texts})
    tensors, metadata = read_checkpoint(path)
    told = (json.loads(metadata.get(name, "[]")) for name in ("captions", "people", "pictures"))
    return EncodedPairs(tensors["hq"], tensors["lq"], *told)


def _key(autoencoder: Autoencoder, crops: Crops, settings: list[Any]) -> str:
    """Names what latents depend on; a few sums tell one training's weights and pictures from another's.

    Weights count as a restorer's file has them, in fp16, so that its stages share the latents.
    """
    weights = [round(p.half().double().sum().item(), 6) for p in autoencoder.encoder.parameters()][::8]
    seen = [int(crops[k]["image"].long().sum()) for k in (0, len(crops) // 2, len(crops) - 1)]
    return json.dumps([*settings, crops.size, crops.seed, len(crops), weights, seen])
