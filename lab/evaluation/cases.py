"""Cases: unseen people and their degraded photos, drawn from a seed."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from pfstorer_core.degradation import PRESETS, SMALL_AT, applied_at, degrade, draw, ground_truth
from pfstorer_core.imaging.canvas import resize

from ..people import LANDMARKS, Person, Photo, draw_person, draw_shot, photograph
from .align import FIVE
from .traits import spotless, trait_vector

STREAM = 0x63617365
"""First word of every seed here: no training draws these people."""

CLEAN = "clean"
"""The preset without a degradation: what is good already has to stay so (PFStorer's p_HQ)."""


@dataclass(frozen=True)
class CaseSettings:
    """Which photos.

    Attributes:
        photos: of each person.
        references: further clean photos of each person, for methods that learn from them.
        size: side of the pictures in pixels.
        damage_at: side in pixels at which the photos are drawn and degraded, before both are brought to
            `size`; 0 for what suits preset and size, see `applied_at`. Lower is heavier, since blur and noise
            stay what they are. By default the heavy preset leaves pictures of 128 pixels with about the PSNR
            of the paper's input, 22.6 dB.
        fill: lowest and highest height of the head as a part of the frame: portraits, as the paper's.
        draws: times that each photo is in its case. Methods that draw begin each from noise of its own, and
            a mean over several says more of a method than of its noise.
    """

    photos: int = 4
    references: int = 0
    size: int = 128
    damage_at: int = 0
    fill: tuple[float, float] = (0.6, 0.85)
    seed: int = 0
    draws: int = 1

    @property
    def drawn_at(self) -> int:
        return self.damage_at or max(self.size, SMALL_AT)


@dataclass(frozen=True, eq=False)
class Case:
    """A person with M pictures: the photos, as many times over as there are draws.

    Attributes:
        person: number of the person.
        preset: of the degradation.
        hq, lq: true and degraded pictures [M, 3, S, S] in [0, 1].
        plain: the true pictures without the person's moles and scars, likewise.
        references: clean photos of other shots [R, 3, D, D] in [0, 1], as large as they were drawn.
        landmarks: [M, K, 2] pixels (x, y) of the drawing's LANDMARKS; `visible` bool [M, K].
        traits: [T], see `trait_vector`.
        seed: for methods that need randomness.
    """

    person: int
    preset: str
    hq: Tensor
    lq: Tensor
    plain: Tensor
    references: Tensor
    landmarks: Tensor
    visible: Tensor
    traits: Tensor
    seed: int

    @property
    def five(self) -> Tensor:
        """The landmarks that faces are aligned by, [M, 5, 2]."""
        return self.landmarks[:, [LANDMARKS.index(name) for name in FIVE]]

    def only(self, photo: int) -> Case:
        """The case of one of the photos."""
        one = slice(photo, photo + 1)
        return Case(
            self.person, self.preset, self.hq[one], self.lq[one], self.plain[one], self.references,
            self.landmarks[one], self.visible[one], self.traits, self.seed,
        )  # fmt: skip


def draw_case(settings: CaseSettings, person: int, preset: str) -> Case:
    """Person number `person` of `settings`, degraded by `preset` (a name of `PRESETS`, or "clean").

    The same numbers give the same case; the photos are the same for all presets.

    Raises:
        ValueError: no such preset; no photo.
    """
    if preset not in (CLEAN, *PRESETS):
        raise ValueError(f"No degradation preset {preset!r}; choose one of {CLEAN}, {', '.join(PRESETS)}.")
    for name in ("photos", "draws"):
        if getattr(settings, name) < 1:
            raise ValueError(f"{name} must be 1 or more, got {getattr(settings, name)}.")
    who = draw_person(np.random.default_rng([STREAM, settings.seed, person, 0]))
    photos = [_photo(settings, who, person, number) for number in range(settings.photos)]
    plain = [_photo(settings, spotless(who), person, number) for number in range(settings.photos)]
    further = range(settings.photos, settings.photos + settings.references)
    references = [_photo(settings, who, person, number) for number in further]
    hq, noises = _pictures(photos), _seed(settings, person, preset)
    lq = hq
    if preset != CLEAN:
        drawn = draw(preset, len(hq), torch.Generator().manual_seed(noises))
        side = settings.damage_at or applied_at(preset, settings.size)
        hq = resize(hq, (side, side)).clamp(0, 1)
        hq = ground_truth(hq, drawn)
        lq = degrade(hq, drawn)
    size, drawn_size = ((side, side) for side in (settings.size, settings.drawn_at))
    scale = settings.size / settings.drawn_at
    hq, lq, bare = (resize(images, size).clamp(0, 1) for images in (hq, lq, _pictures(plain)))
    landmarks = scale * torch.from_numpy(np.stack([photo.landmarks for photo in photos]))
    visible = torch.from_numpy(np.stack([photo.visible for photo in photos]))

    def drawn_often(of_photos: Tensor) -> Tensor:
        return torch.cat([of_photos] * settings.draws)

    return Case(
        person=person,
        preset=preset,
        hq=drawn_often(hq),
        lq=drawn_often(lq),
        plain=drawn_often(bare),
        references=_pictures(references) if references else hq.new_empty(0, 3, *drawn_size),
        landmarks=drawn_often(landmarks),
        visible=drawn_often(visible),
        traits=trait_vector(who),
        seed=noises,
    )


def drawing() -> str:
    """Tells one state of the drawing from another, by a small picture: what was drawn by the one must not be
    mixed with the other."""
    rng = np.random.default_rng([STREAM, 0])
    image = photograph(draw_person(rng), draw_shot(rng), 64).image
    return f"{zlib.crc32((image * 255).round().astype(np.uint8).tobytes()):08x}"


def _photo(settings: CaseSettings, who: Person, person: int, number: int) -> Photo:
    rng = np.random.default_rng([STREAM, settings.seed, person, 1 + number])
    fill = float(rng.uniform(*settings.fill))
    room = max(0.0, 0.4 * (0.96 - fill))
    shift = (room * float(rng.uniform(-1, 1)), room * float(rng.uniform(-1, 1)))
    return photograph(who, draw_shot(rng, fill=fill, shift=shift), settings.drawn_at)


def _pictures(photos: list[Photo]) -> Tensor:
    return torch.from_numpy(rearrange([photo.image for photo in photos], "b h w c -> b c h w")).contiguous()


def _seed(settings: CaseSettings, person: int, preset: str) -> int:
    words = [STREAM, settings.seed, person, zlib.crc32(preset.encode())]
    return int(np.random.SeedSequence(words).generate_state(1)[0])
