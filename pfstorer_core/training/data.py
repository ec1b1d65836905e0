"""Samples to train on: pictures from folders and WebDataset shards, and random crops of them."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from einops import rearrange
from PIL import Image

from ..imaging.pictures import open_picture

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
TRIES = 50
"""Pictures in a row that may be unusable before a training gives up."""

Batch = dict[str, Any]
"""Samples collated: tensors stacked, everything else as a list."""


class Samples(Protocol):
    """An endless sequence: sample k depends on k and on the seed alone, and is made the same in every
    process. `len` tells how many are different, as far as one can say.

    A sample has "seed" (for everything random that is still to be drawn), "caption", "broken" (names and
    faults of the pictures that had to be replaced), and either "image" (uint8 [3, size, size]) or
    latents ("hq" and "lq", see `pairs`); with photos of the same person also "reference".
    """

    def __getitem__(self, k: int, /) -> dict[str, Any]: ...
    def __len__(self) -> int: ...


def collate(samples: Sequence[Mapping[str, Any]]) -> Batch:
    batch: Batch = {}
    for key, value in samples[0].items():
        values = [sample[key] for sample in samples]
        batch[key] = torch.stack(values) if isinstance(value, torch.Tensor) else values
    batch["broken"] = [fault for faults in batch["broken"] for fault in faults]
    return batch


def generators(batch: Batch) -> list[np.random.Generator]:
    """One for each sample, for everything random that is still to be drawn."""
    return [np.random.default_rng(seed) for seed in batch["seed"].tolist()]


def normal(like: torch.Tensor, rngs: Sequence[np.random.Generator]) -> torch.Tensor:
    """Standard normal numbers of the shape of `like` [B, …], each sample's from its own generator."""
    rows = [torch.from_numpy(rng.standard_normal(like.shape[1:], np.float32)) for rng in rngs]
    return torch.stack(rows).to(like.device)


class Pictures(Protocol):
    """Pictures to take crops of."""

    def __len__(self) -> int: ...

    def name(self, index: int) -> str: ...

    def read(self, index: int) -> Image.Image:
        """Upright, 8-bit RGB; raises anything where it cannot be read."""
        ...

    def caption(self, index: int) -> str:
        """What it shows; "" where nobody has said so."""
        ...

    def folder(self, index: int) -> str:
        """Where it lies: with pictures of the same person, if folders are people."""
        ...


@dataclass(frozen=True)
class Entry:
    """A file, or `length` bytes inside of one."""

    path: Path
    start: int = 0
    length: int = -1
    member: str = ""

    def __str__(self) -> str:
        return f"{self.path}{f'/{self.member}' if self.member else ''}"

    def read(self) -> bytes:
        with self.path.open("rb") as file:
            file.seek(self.start)
            return file.read(self.length)


@dataclass(frozen=True)
class PictureFiles:
    """Pictures in files, and the texts that lie beside them."""

    entries: Sequence[tuple[Entry, Entry | None]]

    def __len__(self) -> int:
        return len(self.entries)

    def name(self, index: int) -> str:
        return str(self.entries[index][0])

    def read(self, index: int) -> Image.Image:
        return open_picture(io.BytesIO(self.entries[index][0].read()), self.name(index))

    def caption(self, index: int) -> str:
        text = self.entries[index][1]
        return text.read().decode("utf-8", "replace").strip() if text else ""

    def folder(self, index: int) -> str:
        return self.name(index).rpartition("/")[0]


def find_pictures(paths: Iterable[Path | str]) -> PictureFiles:
    """The pictures of folders (with theirs), picture files and WebDataset shards (.tar), by name.

    A text ``name.txt`` beside ``name.jpg`` is its caption. Shards are read in place and in any order:
    they have to be local files that are not compressed as a whole.

    Raises:
        FileNotFoundError: one of the paths does not exist.
        ValueError: none of them holds a picture, or a shard cannot be read.
    """
    paths = [Path(path) for path in paths]
    files: list[Path] = []
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(f"No pictures at {path}: there is no such folder or file.")
        files += sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    found: list[Entry] = []
    for file in files:
        found += _members(file) if file.suffix == ".tar" else [Entry(file)]
    stems: dict[str, dict[str, Entry]] = {}
    for entry in found:
        stem, suffix = _key(entry)
        stems.setdefault(stem, {})[suffix] = entry
    entries = [
        (entry, parts.get(".txt"))
        for parts in stems.values()
        for suffix, entry in parts.items()
        if suffix in SUFFIXES
    ]
    if not entries:
        raise ValueError(
            f"No pictures in {', '.join(map(str, paths))}: expected {', '.join(SUFFIXES)} files, or "
            "WebDataset shards (.tar) of them."
        )
    return PictureFiles(entries)


def _key(entry: Entry) -> tuple[str, str]:
    """What a picture and its caption share, and the suffix in lower case; in a shard everything after the
    first dot is the suffix (WebDataset's rule)."""
    if not entry.member:
        return str(entry.path.with_suffix("")), entry.path.suffix.lower()
    folder, _, name = entry.member.rpartition("/")
    stem, dot, suffix = name.partition(".")
    return f"{entry.path}/{folder}/{stem}", dot + suffix.lower()


def _members(shard: Path) -> list[Entry]:
    try:
        with tarfile.open(shard, "r:") as archive:
            return [
                Entry(shard, member.offset_data, member.size, member.name)
                for member in archive
                if member.isfile()
            ]
    except tarfile.TarError as error:
        raise ValueError(
            f"{shard} cannot be read as a shard ({error}): expected a .tar file that is whole and not "
            "compressed."
        ) from error


def hold_back(count: int, held: int = 8) -> tuple[list[int], list[int]]:
    """Indices to train on and, evenly spread, indices to look at: the same ones where there are few."""
    if count < 4 * held:
        return list(range(count)), list(range(count))[:held]
    kept = set(range(0, count, count // held)[:held])
    return [index for index in range(count) if index not in kept], sorted(kept)


class Others(Protocol):
    """Draws pictures of the same person, see `People.others`."""

    def __call__(self, index: int, *, rng: np.random.Generator) -> list[int]: ...


@dataclass
class Crops:
    """`Samples`: square crops of random place and scale, brought to one size, half of them mirrored or none
    (alignment-free, PFStorer section 3.4).

    Every picture comes once an epoch, in another order each time. One that cannot be used, because it is
    damaged or smaller than `size`, is replaced by another and named in the sample.

    Attributes:
        indices: of the pictures to use.
        size: side of the crops in pixels.
        mix: makes another picture of one (of this number) before it is cropped; None leaves all as they are.
        others: draws pictures of the same person, which are cropped as well: "reference" of a sample, uint8
            [R, 3, size, size], and "person" and "picture", names; None: no such pictures.
        mirrored: whether half of them are.
    """

    pictures: Pictures
    indices: Sequence[int]
    size: int
    seed: int = 0
    mix: Callable[[Image.Image, int, np.random.Generator], Image.Image] | None = None
    others: Others | None = None
    mirrored: bool = True

    def __post_init__(self) -> None:
        self._order: tuple[int, np.ndarray] = (-1, np.empty(0))

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, k: int) -> dict[str, Any]:
        """Raises ValueError where `TRIES` pictures in a row are unusable."""
        rng = np.random.default_rng([self.seed, k])
        place, broken = self._place(k), list[tuple[str, str]]()
        for _ in range(TRIES):
            index = self.indices[place]
            try:
                image = self._crop(index, rng)
                shown = [self._crop(other, rng) for other in self._others(index, rng)]
            except Exception as error:  # what a damaged file leads to has no limits
                broken.append((self.pictures.name(index), str(error) or type(error).__name__))
                place = int(rng.integers(len(self)))
                continue
            sample = {
                "image": rearrange(torch.from_numpy(image), "h w c -> c h w"),
                "seed": torch.tensor(int(rng.integers(2**62))),
                "caption": self.pictures.caption(index),
                "broken": broken,
            }
            if self.others:
                reference = rearrange(torch.from_numpy(np.stack(shown)), "r h w c -> r c h w")
                person, picture = self.pictures.folder(index), self.pictures.name(index)
                sample |= {"reference": reference, "person": person, "picture": picture}
            return sample
        raise ValueError(
            f"{TRIES} pictures in a row cannot be used; the first is {broken[0][0]}: {broken[0][1]}."
        )

    def _crop(self, index: int, rng: np.random.Generator) -> np.ndarray:
        picture = self.pictures.read(index)
        picture = self.mix(picture, index, rng) if self.mix else picture
        return random_crop(picture, self.size, rng, self.mirrored)

    def _others(self, index: int, rng: np.random.Generator) -> list[int]:
        return self.others(index, rng=rng) if self.others else []

    def _place(self, k: int) -> int:
        epoch, place = divmod(k, len(self))
        if self._order[0] != epoch:
            self._order = epoch, np.random.default_rng([self.seed, epoch, 1]).permutation(len(self))
        return int(self._order[1][place])


def random_crop(image: Image.Image, size: int, rng: np.random.Generator, mirrored: bool = True) -> np.ndarray:
    """uint8 [size, size, 3] of a random square, half of the time mirrored where that may be; raises
    ValueError where the picture is smaller."""
    short = min(image.size)
    if short < size:
        raise ValueError(f"it has {image.width} × {image.height} pixels, too few for crops of {size}")
    side = round(size * (short / size) ** rng.random())
    left, top = (int(rng.integers(length - side + 1)) for length in image.size)
    crop = image.resize((size, size), Image.Resampling.BICUBIC, (left, top, left + side, top + side))
    pixels = np.array(crop)
    return np.ascontiguousarray(pixels[:, ::-1]) if rng.random() < 0.5 and mirrored else pixels
