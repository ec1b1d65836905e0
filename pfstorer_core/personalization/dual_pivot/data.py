"""What the two pivots learn from: whole squares about a face, and nothing of them cropped or mirrored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from ...imaging.canvas import resize
from ...restorers.base import Restorer
from ...training.data import PictureFiles
from ...training.pairs import moments
from ...training.progress import OnTick
from ..photos import Pairs, square


def whole(image: Tensor, size: int) -> Tensor:
    """A square [3, S, S], brought to `size`."""
    return resize(image[None], (size, size)).clamp(0, 1)[0]


def read_square(pictures: PictureFiles, index: int, size: int) -> Tensor:
    """The square in the middle of a picture [3, size, size]; raises ValueError where it cannot be read."""
    pixels = torch.from_numpy(np.array(pictures.read(index), dtype=np.float32) / 255)
    return whole(square(rearrange(pixels, "h w c -> c h w"), None), size)


def moments_of(restorer: Restorer, image: Tensor) -> Tensor:
    """Mean and log-variance of the latent of a picture [1, 3, S, S] in [0, 1], [1, 2·C, h, w] in fp32."""
    return moments(restorer.autoencoder, image.to(restorer.null_context)).float()


@dataclass(frozen=True)
class Seeds:
    """`Samples` that say nothing but what is drawn for them."""

    seed: int

    def __len__(self) -> int:
        return 1

    def __getitem__(self, k: int) -> dict[str, Any]:
        drawn = int(np.random.default_rng([self.seed, k, 6]).integers(2**62))
        return {"seed": torch.tensor(drawn), "broken": []}


class PivotPairs(Pairs):
    """`Pairs` of whole squares, which have the "moments" of the good picture, too; a share of them is made of
    `generic` pictures, whose "photo" is -1."""

    generic: PictureFiles | None = None
    share: float = 0.0

    def picture(self, rng: np.random.Generator) -> tuple[Tensor, int]:
        size = self.restorer.header.image_size
        if self.generic is not None and rng.random() < self.share:
            return read_square(self.generic, int(rng.integers(len(self.generic))), size), -1
        photo = int(rng.integers(len(self.photos.images)))
        return whole(self.photos.images[photo], size), photo

    def latents(self, hq: Tensor, lq: Tensor) -> dict[str, Tensor]:
        return {**super().latents(hq, lq), "moments": moments_of(self.restorer, hq)[0].cpu()}


def moments_of_files(restorer: Restorer, pictures: PictureFiles, on_tick: OnTick) -> Tensor:
    """Of each [N, 2·C, h, w]."""
    found = []
    for index in range(len(pictures)):
        on_tick()
        found.append(moments_of(restorer, read_square(pictures, index, restorer.header.image_size)[None]))
    return torch.cat(found)
