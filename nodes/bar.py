"""One progress bar for a picture: its tiles through the autoencoder, through every step, and back."""

from __future__ import annotations

from typing import Any

import comfy.model_management as mm
import latent_preview
from comfy.model_patcher import ModelPatcher
from comfy.utils import ProgressBar
from torch import Tensor


class TileBar:
    """Counts tiles, and stops at the next one when the user cancels.

    Args:
        pixel_tiles: of encoding, and of decoding.
        tiles: of one evaluation of the model.
    """

    def __init__(self, model: ModelPatcher, pixel_tiles: tuple[int, int], steps: int, tiles: int) -> None:
        self.pixel_tiles, self.steps, self.tiles = pixel_tiles, steps, tiles
        self._bar = ProgressBar(sum(pixel_tiles) + steps * tiles)
        self._previewer = latent_preview.get_previewer(model.load_device, model.model.latent_format)
        self._done = self._step = 0

    def on_pixel_tile(self) -> None:
        self._reach(self._done + 1)

    def on_tiles(self, done: int, of: int) -> None:
        """Of a batch in this evaluation; a sampler may need several evaluations a step."""
        self._reach(self.pixel_tiles[0] + self._step * self.tiles + self.tiles * done // of)

    def on_step(self, step: int, x0: Tensor, x: Tensor, total: int) -> None:
        """The host's callback after each step."""
        preview = self._previewer and self._previewer.decode_latent_to_preview_image("JPEG", x0)
        self._step = min(step + 1, self.steps)
        self._reach(self.pixel_tiles[0] + self._step * self.tiles, preview)

    def _reach(self, done: int, preview: Any = None) -> None:
        mm.throw_exception_if_processing_interrupted()
        if done > self._done or preview:
            self._done = max(done, self._done)
            self._bar.update_absolute(self._done, preview=preview)
