"""What trainings are told alike: which pictures, and what differs from the loop's settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from ..training.data import Crops, Pictures, find_pictures, hold_back
from ..training.degradation import check_shares
from ..training.loop import LoopSettings
from ..training.mixing import FaceMixture
from ..training.people import People


@dataclass(frozen=True)
class Data:
    """What to train on.

    Attributes:
        paths: see `find_pictures`.
        size: side of the crops in pixels; 0 for what suits the restorer.
        degradation: name of a preset, or "" for what suits the size.
        mix: share of the pictures that get the face of another, see `FaceMixture`.
    """

    paths: Sequence[Path] = ()
    size: int = 0
    degradation: str = ""
    mix: float = 0.0

    def pictures(self) -> Pictures:
        """Raises ValueError where no paths are given, and what `find_pictures` does."""
        if not self.paths:
            raise ValueError(
                "No pictures to train on: name folders or WebDataset shards of them by --data. "
                "`python -m lab draw-people FOLDER`, in a clone of the project, draws some to try with."
            )
        return find_pictures(self.paths)

    def crops(self, pictures: Pictures, seed: int, size: int, references: int = 0) -> tuple[Crops, Crops]:
        """To train on, and to look at.

        Args:
            references: so many other pictures of the same person come with each; folders are people then.
        Raises:
            ValueError: no crop can be made, or what `People` raises.
        """
        size = self.size or size
        train, held = hold_back(len(pictures))
        check_shares(mix=self.mix)
        mix = FaceMixture(pictures, train, self.mix) if self.mix else None
        others = None
        if references:
            if self.mix:
                raise ValueError("A mixture of two faces is nobody's: take either --mix or --references.")
            others = partial(People(pictures, range(len(pictures))).others, count=references)
        crops = (
            Crops(pictures, train, size, seed, mix, others),
            Crops(pictures, held, size, seed, None, others),
        )
        crops[0][0]  # so that what is wrong with all pictures is said here, and once
        return crops


@dataclass(frozen=True)
class Changes:
    """Settings of the loop that differ from what suits the networks: `LoopSettings`, None for as it is."""

    steps: int | None = None
    lr: float | None = None
    batch: int | None = None
    accumulate: int | None = None
    seed: int | None = None
    bf16: bool | None = None
    save_every: int | None = None
    validate_every: int | None = None
    workers: int | None = None
    muon: float | None = None

    def to(self, loop: LoopSettings) -> LoopSettings:
        given: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(loop, **{name: value for name, value in given.items() if value is not None})
