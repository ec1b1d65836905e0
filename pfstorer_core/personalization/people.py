"""Learning many people: a folder of folders of photos becomes a folder of adapters."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from ..checkpoints.names import check_place, checked_name, is_hidden
from ..checkpoints.words import plain
from ..imaging.pictures import read_picture
from ..training.data import SUFFIXES
from ..training.journal import Journal, forget_journals
from ..training.processes import Processes
from ..training.progress import Progress, silent
from ..training.shared import Summary, noted, only_one_run, shares, told_of_all
from .folder import found_as, saved_as
from .learn import FACE_KNOWN, Learned

ENDING = ".safetensors"


def photos_in(folder: Path) -> list[Path]:
    """The picture files right in a folder, by name; hidden ones are let be."""
    found = (path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    return sorted(path for path in found if path.is_file() and not is_hidden(path.name))


def people_in(folder: Path) -> dict[str, list[Path]]:
    """The photos of people: of each folder in a folder that holds some, by its name.

    Raises:
        ValueError: no folder, nobody in it, or a folder of a name that no adapter's file can have.
    """
    if not folder.is_dir():
        raise ValueError(f"{plain(folder, 200)} is no folder: give one with a folder for each person.")
    folders = sorted(path for path in folder.iterdir() if path.is_dir() and not is_hidden(path.name))
    found = {path.name: photos for path in folders if (photos := photos_in(path))}
    if not found:
        raise ValueError(
            f"{plain(folder, 200)} holds no folders of photos ({', '.join(SUFFIXES)}): make one for each "
            "person, named after them. For one person alone name an adapter's file (.safetensors)."
        )
    for name in found:
        checked_name(name, ENDING)
    return found


def learn_people(
    people: Mapping[str, Sequence[Path]],
    output: Path,
    learn_one: Callable[[Sequence[Tensor], Path], Learned[Any]],
    processes: Processes,
    on_progress: Callable[[Progress], None] = silent,
) -> Summary:
    """An adapter for each person in a folder, by processes that share the work: each person is one's. Who was
    learned before is found again, what was stopped goes on.

    Args:
        people: photos by their names, see `people_in`.
        learn_one: (photos [1, 3, H, W] in [0, 1], file) -> what `learn` gives.
        on_progress: see `training.shared.told_of_all`.
    Returns:
        who was learned now and before, and who was not and why; the same in all processes.
    Raises:
        ValueError: another run is writing there. OSError: nothing can be written there.
    """
    own = Summary()
    with only_one_run(output, processes):
        with processes.main_first():
            check_place(output / f"{next(iter(people))}{ENDING}")
            if processes.is_main:
                forget_journals(output)
        journal = Journal(output, processes.index)
        try:
            with told_of_all(output, "people", len(people), processes, on_progress):
                for name in shares([*people], processes):
                    failed = dict[str, str]()
                    with noted(name, failed):
                        photos = [read_picture(path) for path in people[name]]
                        file = output / f"{name}{ENDING}"
                        learned = learn_one(photos, file)
                        (own.skipped if learned.before else own.done).append(name)
                        usual = FACE_KNOWN, saved_as(file, file), found_as(file)
                        own.notes += [f"{name}: {note}" for note in learned.notes if note not in usual]
                        journal.finish(learned.file.name, "")
                    for who in failed:
                        journal.fail(who)
                    own.failed |= failed
                found = processes.gather([own])
        finally:
            journal.close()
        if processes.is_main:
            forget_journals(output)
    return sum(found, Summary())
