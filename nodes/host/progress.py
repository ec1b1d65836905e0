"""One progress bar for a picture: its tiles through the autoencoder, through every step, and back."""

from __future__ import annotations

from collections.abc import Sequence
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
        steps: of a sampling.
        tiles: of one evaluation of the model, in each sampling.
        part: which of how many pictures this is, where a node makes several alike, by one bar.
    """

    def __init__(
        self, model: ModelPatcher, pixel_tiles: tuple[int, int], steps: int, tiles: Sequence[int],
        part: tuple[int, int] = (0, 1),
    ) -> None:  # fmt: skip
        self.pixel_tiles, self.steps, self.tiles = pixel_tiles, steps, tiles
        self._whole, self._part = sum(pixel_tiles) + steps * sum(tiles), part
        self._bar = ProgressBar(self._whole * part[1])
        self._previewer = latent_preview.get_previewer(model.load_device, model.model.latent_format)
        self._done = self._number = self._step = 0

    def begin(self, number: int) -> None:
        """The sampling of that number: there are several where pictures are sampled one after the other."""
        self._number, self._step = number, 0

    def on_pixel_tile(self) -> None:
        self._reach(self._done + 1)

    def on_tiles(self, done: int, of: int) -> None:
        """Of a batch in this evaluation; a sampler may need several evaluations a step."""
        self._reach(self._sampled() + self.tiles[self._number] * done // of)

    def on_step(self, step: int, x0: Tensor, x: Tensor, total: int) -> None:
        """The host's callback after each step."""
        preview = self._previewer and self._previewer.decode_latent_to_preview_image("JPEG", x0)
        self._step = step + 1
        self._reach(self._sampled(), preview)

    def _sampled(self) -> int:
        """Tiles up to the steps that are done."""
        before = self.steps * sum(self.tiles[: self._number])
        return self.pixel_tiles[0] + before + min(self._step, self.steps) * self.tiles[self._number]

    def _reach(self, done: int, preview: Any = None) -> None:
        mm.throw_exception_if_processing_interrupted()
        if done <= self._done and not preview:
            return
        self._done = min(max(done, self._done), self._whole)
        reached = self._whole * self._part[0] + self._done
        if self._bar.hook is not None:  # the bar itself leaves out what is less than half a per cent
            self._bar.hook(reached, self._bar.total, preview, node_id=self._bar.node_id)
