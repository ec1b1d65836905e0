"""The pictures of a folder, and where their results go."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..checkpoints.names import check_place
from ..checkpoints.words import plain
from ..imaging.pictures import WRITTEN, opened
from ..training.data import SUFFIXES


@dataclass(frozen=True)
class Source:
    """A picture in a folder.

    Attributes:
        name: its path in that folder, with slashes.
        output: that of its result in the other one.
        version: tells it from what had its name before, by size and date.
    """

    name: str
    output: str
    version: str


@dataclass(frozen=True)
class Sources:
    """The pictures of a folder and of those in it, by name; and how many other files there are, by ending."""

    pictures: Sequence[Source] = ()
    others: Mapping[str, int] = field(default_factory=dict)


def pictures_in(folder: Path, output: Path, ending: str = "") -> Sources:
    """Which pictures are to be restored into which files. Hidden ones are let be.

    Args:
        ending: of the results, such as ".png"; empty for that of each picture.
    Raises:
        ValueError: no folder, no pictures in it, an unknown ending, two pictures with one result, or one of
            the folders lies in the other.
        OSError: nothing can be written into `output`.
    """
    if not folder.is_dir():
        raise ValueError(f"{plain(folder, 200)} is no folder.")
    if ending and ending not in WRITTEN:
        raise ValueError(f"No format named {plain(ending)!r}; choose one of {', '.join(WRITTEN)}.")
    here, there = folder.resolve(), output.resolve()
    if here == there or here in there.parents or there in here.parents:
        raise ValueError(
            f"{plain(folder, 200)} and {plain(output, 200)} lie in one another, so that results would be "
            "taken for pictures, or replace them: name a folder beside it."
        )
    found, others, results = list[Source](), Counter[str](), dict[str, str]()
    for path in _files(folder):
        if path.suffix.lower() not in SUFFIXES:
            others[path.suffix.lower() or path.name] += 1
            continue
        name = path.relative_to(folder)
        result = (name.with_suffix(ending) if ending else name).as_posix()
        if result in results:
            raise ValueError(
                f"{plain(results[result], 200)} and {plain(name.as_posix(), 200)} would both become "
                f"{plain(result, 200)}: rename one of them, or leave out the format."
            )
        results[result] = name.as_posix()
        stat = path.stat()
        found.append(Source(name.as_posix(), result, f"{stat.st_size}.{int(stat.st_mtime)}"))
    if not found:
        raise ValueError(f"{plain(folder, 200)} holds no pictures ({', '.join(SUFFIXES)}).")
    check_place(output / found[0].output)
    return Sources(found, others)


def pixels_of(path: Path) -> int:
    """How many a picture says that it has; 0 where it cannot be read."""
    try:
        with opened(path, path.name) as image:
            return image.width * image.height
    except ValueError:
        return 0


def _files(folder: Path) -> Iterator[Path]:
    """All that are not hidden, those of a folder by name."""
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(place, name) for name in sorted(files) if not name.startswith("."))
