"""How pictures are restored: what holds for one as for many."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch

from ..diffusion.restoration_guidance import GuidanceSettings
from ..imaging.canvas import canvas_for
from ..imaging.color import check_color_fix
from ..imaging.tile_setting import TileSetting
from ..restorers.base import Restorer
from .picture import words_for


@dataclass(frozen=True)
class RestoreSettings:
    """The arguments of `restore` by these names, which says what they are, but for `seed`: every picture is
    restored from this one's noise, so that it does not matter which others there are."""

    upscale: float = 4.0
    prompt: str | None = None
    negative_prompt: str | None = None
    cfg: float | None = None
    steps: int = 50
    seed: int = 0
    fidelity: float = 0.0
    color_fix: str = "wavelet"
    guidance: GuidanceSettings | None = None
    quantize: bool = True
    sampler: str = "ddpm"
    tile: int = 0
    overlap: int = -1
    tile_batch: int = 4

    def __post_init__(self) -> None:
        """Raises ValueError where no restorer could do that."""
        check_color_fix(self.color_fix)

    @property
    def arguments(self) -> dict[str, Any]:
        """Of `restore`."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def check(self, restorer: Restorer) -> None:
        """Raise ValueError, before any work, where one of them is out of range or nothing for the restorer;
        the message names it."""
        header = restorer.header
        words = words_for(restorer, self.prompt, self.negative_prompt, self.cfg)
        for prompt in (words.prompt, words.negative_prompt if words.cfg > 1 else ""):
            restorer.context(prompt)
        restorer.autoencoder.check_fidelity(self.fidelity)
        restorer.visited(self.steps, self.sampler)
        TileSetting(self.tile, self.overlap, header.image_size, restorer.downscale)
        canvas_for(header, torch.zeros(1, 3, 8, 8), self.upscale, restorer.downscale)
