"""Cleaners: the first stage of DiffBIR, which takes the damage out of a picture before it is restored."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from math import lcm
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ...checkpoints.errors import CheckpointError, StateDict
from ...checkpoints.layouts import UPSCALER, foreign, identify, with_prefixes
from ...checkpoints.parts import SWINIR
from ...checkpoints.parts.base import META
from ...checkpoints.reading import read_checkpoint
from ...checkpoints.tensors import is_finite, load_exactly
from ...checkpoints.words import plain
from ...imaging.resizing import resize
from ...imaging.tiling import TileGrid, tile_cells
from ...models import SwinIR

CELL = 64
"""Pixels that sides are made multiples of for a SwinIR, and tiles for all: along a window of DiffBIR's."""


@dataclass(frozen=True, eq=False)
class Cleaner:
    """A network that cleans pictures.

    Attributes:
        network: [B, 3, H, W] in [0, 1] -> [B, 3, sH, sW] with s = 1 or more.
        multiple: of the sides that it is given.
        device, dtype: of what it takes.
    """

    network: Callable[[Tensor], Tensor]
    multiple: int
    device: torch.device
    dtype: torch.dtype

    @classmethod
    def of(cls, model: SwinIR) -> Cleaner:
        """A SwinIR at work, where its weights are."""
        weight = model.conv_last.weight
        assert isinstance(weight, Tensor)
        return cls(model, lcm(CELL, model.config.multiple), weight.device, weight.dtype)

    def __call__(self, pictures: Tensor) -> Tensor:
        """`clean` of whole pictures."""
        return self.clean(pictures)

    @torch.no_grad()
    def clean(
        self,
        pictures: Tensor,
        tile: int = 0,
        overlap: int = -1,
        on_tile: Callable[[], object] = lambda: None,
    ) -> Tensor:
        """Pictures [B, 3, H, W] in [0, 1] without their damage, at the same size.

        They are padded with black below and on the right, as DiffBIR does, and what a network enlarges
        (BSRNet: fourfold) is brought back by bicubic interpolation. What a SwinIR leaves outside of [0, 1]
        is not cut off, which DiffBIR does at the end of everything.

        Args:
            tile: side in pixels of the tiles, which are blended with Gaussian weights; 0 for whole pictures.
                Multiples of `CELL` are taken, downwards. What is no larger is not cut up.
            overlap: that neighbours share; -1 for half a tile.
            on_tile: called after each tile of each picture; raise in it to stop.
        Returns:
            [B, 3, H, W] in the dtype of the pictures, on their device.
        Raises:
            ValueError: other pictures than these; a tile smaller than `CELL`, or no larger than its overlap.
        """
        if pictures.ndim != 4 or pictures.shape[1] != 3 or not pictures.numel():
            raise ValueError(f"Expected pictures [B, 3, H, W], got a tensor of shape {list(pictures.shape)}.")
        height, width = pictures.shape[-2:]
        grid = self.grid(height, width, tile, overlap)
        canvas = F.pad(pictures, (0, grid.width - width, 0, grid.height - height))

        def cleaned(piece: Tensor) -> Tensor:
            out = self.network(piece.to(self.device, self.dtype)).to(pictures)
            on_tile()
            return resize(out, (piece.shape[-2], piece.shape[-1]))

        def one(picture: Tensor) -> Tensor:
            pieces = (cleaned(piece) for piece in grid.crop(picture))
            return next(pieces) if len(grid) == 1 else grid.merge(pieces)

        return torch.cat([one(picture) for picture in canvas.split(1)])[..., :height, :width]

    def grid(self, height: int, width: int, tile: int = 0, overlap: int = -1) -> TileGrid:
        """The tiles of a picture of this size, in pixels; the canvas is that of the padded picture."""
        cells, shared = tile_cells(tile, overlap, tile, 1) if tile else (0, 0)
        cut = max(height, width) > cells > 0
        multiple = lcm(CELL, self.multiple) if cut else self.multiple
        canvas = (height + -height % multiple, width + -width % multiple)
        if not cut:
            return TileGrid(*canvas, max(canvas))
        side = max(multiple, cells // multiple * multiple)
        return TileGrid(*canvas, side, shared * side // cells)


def load_cleaner(
    path: Path | str, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> Cleaner:
    """The cleaner in a file: a SwinIR, alone or in a full DiffBIR checkpoint, or else any network that
    spandrel knows, such as BSRNet and SCUNet.

    Args:
        dtype: fp16 and bf16 are taken as fp32 by those of spandrel's networks that cannot calculate in them.
    Raises:
        FileNotFoundError, PermissionError: no such file; not readable.
        CheckpointError: the file is damaged or no cleaner; says what it is instead.
        ImportError: it is not a SwinIR, and spandrel cannot be imported.
    """
    path = Path(path)
    tensors, device = with_prefixes(read_checkpoint(path)[0]), torch.device(device)
    if weights := SWINIR.of(tensors):
        return Cleaner.of(load_swinir(weights).to(device, dtype))
    if what := _other(tensors):
        raise _no_cleaner(path.name, what)
    return _by_spandrel(tensors, path.name, device, dtype)


def load_swinir(weights: StateDict) -> SwinIR:
    """A SwinIR that keeps these weights as they are; raises CheckpointError where they do not fit."""
    config = SWINIR.config_from(weights)
    model = SWINIR.build(config, META)
    load_exactly(model, weights, SWINIR.title, assign=True)
    return model.eval().requires_grad_(False)


def _by_spandrel(tensors: StateDict, name: str, device: torch.device, dtype: torch.dtype) -> Cleaner:
    try:
        from spandrel import ImageModelDescriptor, ModelLoader, UnsupportedModelError
    except (ImportError, RuntimeError) as error:  # the latter of a torchvision that does not fit torch
        raise ImportError(
            f"{plain(name)} is no SwinIR, and other cleaners need the library spandrel, which is missing or "
            f"cannot be imported ({plain(error)}): pip install spandrel"
        ) from error
    for key, value in tensors.items():
        if not is_finite(value):
            raise CheckpointError(f"{key} of {name} holds NaN or infinity: the file is damaged.")
    try:
        found = ModelLoader("cpu").load_from_state_dict(dict(tensors))
    except UnsupportedModelError as error:
        raise _no_cleaner(name, "of a kind that is not known here") from error
    except (RuntimeError, ValueError, LookupError, TypeError, AssertionError) as error:
        raise CheckpointError(f"{name} is damaged or incomplete: {plain(error, 300)}") from error
    if not isinstance(found, ImageModelDescriptor) or (found.input_channels, found.output_channels) != (3, 3):
        raise _no_cleaner(name, f"a {found.architecture.name} that does not make colour pictures of such")
    narrow = {torch.float16: found.supports_half, torch.bfloat16: found.supports_bfloat16}
    dtype = dtype if narrow.get(dtype, True) else torch.float32
    found.eval().to(device, dtype)
    # It calculates in inference mode, whose tensors nothing could be learned through later on.
    return Cleaner(lambda pictures: found(pictures).clone(), 1, device, dtype)


def _other(tensors: StateDict) -> str:
    """What a file is that is well known and no cleaner; "" for all others."""
    with suppress(CheckpointError):
        return identify(tensors, "").name
    known = foreign(tensors)
    return known.name if known and known is not UPSCALER else ""


def _no_cleaner(name: str, what: str) -> CheckpointError:
    return CheckpointError(
        f"{name} is {what}, and no cleaner: choose a SwinIR of DiffBIR's (face_swinir_v1.ckpt for faces), "
        "BSRNet.pth or scunet_color_real_psnr.pth."
    )
