"""Restoring a folder of pictures into another one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from ..checkpoints.files import remove_leftovers
from ..checkpoints.words import plain
from ..imaging.originals import Original
from ..training.journal import RECORD, Journal, merged_record
from ..training.processes import Processes
from ..training.progress import Progress, silent
from ..training.shared import Summary, noted, only_one_run, shares, told_of_all
from .people import Guess
from .restorer import PictureRestorer, Restored
from .sources import Source, Sources, pictures_in, pixels_of


def restore_folder(
    restorer: PictureRestorer,
    folder: Path,
    output: Path,
    *,
    key: str = "",
    ending: str = "",
    overwrite: bool = False,
    processes: Processes | None = None,
    on_progress: Callable[[Progress], None] = silent,
) -> Summary:
    """Restore all pictures of a folder, and of the folders in it, into files of the same names in another.

    Processes that were launched together share the work: each picture is one's. A second run leaves what is
    finished as it is; a result is written at once or not at all. What is kept of a picture is in `Original`.

    Args:
        key: tells results of one restorer and settings from those of others, which are made anew.
        ending: of the results, see `pictures_in`.
        overwrite: make all anew, also in the place of files that were not made here.
        processes: those that share the work; None for this one alone.
        on_progress: called by the main process, from a thread of its own; what it raises is lost.
    Returns:
        what became of each picture, the same in all processes.
    Raises:
        ValueError: see `pictures_in`; or a file that was not made here lies in the place of a result.
        OSError: nothing can be written any more.
    """
    processes = processes or Processes(restorer.restorer.device)
    sources = pictures_in(folder, output, ending) if processes.is_main else Sources()
    with only_one_run(output, processes):
        todo, skipped = list[Source](), list[str]()
        if processes.is_main:
            todo, skipped = _left(folder, output, sources.pictures, key, overwrite)
        todo, others = processes.same((todo, sources.others))
        size = max(1, min(restorer.batch, -(-len(todo) // processes.count)))
        chunks = [todo[k : k + size] for k in range(0, len(todo), size)]
        journal = Journal(output, processes.index)
        share = _Share(restorer, folder, output, key, journal, Summary(skipped=skipped))
        try:
            with told_of_all(output, "restore", len(todo), processes, on_progress):
                for chunk in shares(chunks, processes):
                    share.restore(chunk)
                found = processes.gather([(share.summary, share.faces)])
        finally:
            journal.close()
        if processes.is_main:
            merged_record(output)
    summary = sum((part for part, _ in found), Summary())
    summary.notes += _who([face for _, faces in found for face in faces])
    if others:
        kinds = ", ".join(f"{number} {plain(kind)}" for kind, number in sorted(others.items()))
        summary.notes.append(f"No pictures by their names, and left out: {kinds}.")
    return summary


def _left(
    folder: Path, output: Path, sources: Sequence[Source], key: str, overwrite: bool
) -> tuple[list[Source], list[str]]:
    """The pictures that are to be restored, large ones first, and names of those that are done."""
    remove_leftovers(output / RECORD)
    marks = merged_record(output)
    there = {source.output for source in sources if (output / source.output).exists()}
    strange = sorted(there - marks.keys())
    if strange and not overwrite:
        raise ValueError(
            f"{_count(len(strange), 'file')} in {plain(output, 200)} would be replaced and were not made "
            f"here, such as {plain(strange[0], 200)}: name an empty folder, or replace them by --overwrite."
        )
    done, todo = list[str](), list[Source]()
    for source in sources:
        finished = source.output in there and marks.get(source.output) == _mark(source, key)
        if finished and not overwrite:
            done.append(source.name)
        else:
            todo.append(source)
    return sorted(todo, key=lambda source: -pixels_of(folder / source.name)), done


@dataclass(eq=False)
class _Share:
    """What one process does.

    Attributes:
        summary: of that so far.
        faces: who was found, and in which picture.
    """

    restorer: PictureRestorer
    folder: Path
    output: Path
    key: str
    journal: Journal
    summary: Summary
    faces: list[tuple[str, Guess]] = field(default_factory=list)

    def restore(self, sources: Sequence[Source]) -> None:
        """A few pictures together; one by one where that fails."""
        originals, failed = dict[Source, Original](), dict[str, str]()
        for source in sources:
            with noted(source.name, failed):
                originals[source] = Original.read(self.folder / source.name)
        for source, restored in self._restored(originals, failed).items():
            with noted(source.name, failed):
                self.journal.begin(source.output)
                originals[source].write(restored.image, self.output / source.output)
                self.journal.finish(source.output, _mark(source, self.key))
                self.summary.done.append(source.name)
                self.faces += [(source.name, guess) for guess in restored.faces]
        for name in failed:
            self.journal.fail(name)
        self.summary.failed |= failed

    def _restored(
        self, originals: Mapping[Source, Original], failed: dict[str, str]
    ) -> Mapping[Source, Restored]:
        pictures = {source: original.picture for source, original in originals.items()}
        together, found = dict[str, str](), dict[Source, Restored]()
        if len(pictures) > 1:
            with noted("", together):
                return dict(zip(pictures, self.restorer.restore([*pictures.values()]), strict=True))
            if self.restorer.restorer.device.type == "cuda":
                torch.cuda.empty_cache()  # it may have been too much at once
        for source, picture in pictures.items():
            with noted(source.name, failed):
                [found[source]] = self.restorer.restore([picture])
        return found


def _who(faces: Sequence[tuple[str, Guess]]) -> list[str]:
    """Who was found in how many pictures, and how near nobody's faces were to somebody's, a sentence each."""
    people = Counter(guess.name for _, guess in faces if guess.person is not None)
    told = [f"{name}: in {_count(number, 'picture')}." for name, number in sorted(people.items())]
    strangers = [face for face in faces if face[1].person is None]
    if strangers:
        where, like = max(strangers, key=lambda face: face[1].likeness)
        told.append(
            f"{_count(len(strangers), 'face')} of nobody; the nearest, in {plain(where, 200)}, has a "
            f"likeness of {like.likeness:.2f} to {like.name}."
        )
    return told


def _mark(source: Source, key: str) -> str:
    """What the record says of its result when that is finished."""
    return f"{key} {source.version}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
