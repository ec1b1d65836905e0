"""The files of people in a folder: their names, and what trainings that died have left beside them."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from ..checkpoints.errors import CheckpointError
from ..checkpoints.files import remove_leftovers
from ..checkpoints.names import numbered
from ..checkpoints.reading import read_metadata
from ..checkpoints.tensors import read_checkpoint, write_safetensors
from ..training.lock import TakenError, locked
from ..training.state import STATE
from .base import Adapter
from .face import PersonFace
from .header import HEADER_ENTRY
from .registry import load_identity_adapter

UNFINISHED = ".unfinished"
"""Folder beside the adapters; a training in it is named by its run key."""
RUN_KEY = re.compile("[0-9a-f]{8,64}")
"""What names the trainings in it: all else there is somebody else's."""


def find_path(file: Path, key: str) -> tuple[Path, Adapter | None]:
    """The first free name like that of `file`, or the file that has this run key, and what is in it. What was
    made elsewhere has no key, and is never taken for another."""
    for path, found in adapters_like(file):
        if found is not None and key and found.header.run_key == key:
            return path, found
    return next(path for path in _names(file) if not path.exists()), None


def saved_as(path: Path, wanted: Path) -> str:
    """Where an adapter lies, in a sentence."""
    taken = "" if path == wanted else f", since {wanted.name} is another person or another training"
    return f"Saved as {path.name} in {path.parent}{taken}."


def found_as(path: Path) -> str:
    """Where an adapter lies that was learned before, in a sentence."""
    return f"Learned before: found as {path.name} in {path.parent}."


def _names(file: Path) -> Iterator[Path]:
    number = 0
    while True:
        yield numbered(file, number := number + 1)


def adapters_like(file: Path) -> Iterator[tuple[Path, Adapter | None]]:
    """The files that have the name, a number added to it or not; None for what is no adapter."""
    for path in _names(file):
        if not path.exists():
            return
        try:
            yield path, load_identity_adapter(path)
        except CheckpointError:
            yield path, None  # somebody else's file


def write_face(path: Path, face: PersonFace, output: Path | None = None) -> None:
    """Put it into the header of an adapter's file, or of a copy of that; tensors and all else stay.

    Raises:
        CheckpointError, OSError: see `load_identity_adapter` and `write_safetensors`.
    """
    tensors, metadata = read_checkpoint(path)
    header = replace(load_identity_adapter(path).header, face=face)
    kept = {key: value.clone() for key, value in tensors.items()}  # they are mapped from the file
    write_safetensors(output or path, kept, {**metadata, **header.to_metadata()})


def clean(file: Path, keep: str = "") -> None:
    """Remove what processes that died have left beside an adapter: it is as biometric as these are. What a
    training can still go on from stays, and so does whatever is none of ours.

    Args:
        keep: run key of a training that is to go on, though an adapter of it lies there by another name.
    """
    remove_leftovers(file)
    finished = {_run_key_of(path) for path in file.parent.glob("*.safetensors")} - {keep}
    ours = [path for path in (file.parent / UNFINISHED).glob("*") if RUN_KEY.fullmatch(path.stem)]
    for lock in (path for path in ours if path.suffix == ".lock"):
        with suppress(TakenError, OSError), locked(lock):
            pass
    for run in (path for path in ours if not path.suffix and path.is_dir()):
        with suppress(TakenError, OSError), locked(run.with_suffix(".lock")):
            states = list(run.glob(f"*{STATE}"))
            for state in states:
                remove_leftovers(state)
            for pictures in ("sheets", "tensorboard"):
                shutil.rmtree(run / pictures, ignore_errors=True)
            if run.name in finished or not states:
                shutil.rmtree(run, ignore_errors=True)
    with suppress(OSError):
        (file.parent / UNFINISHED).rmdir()  # only where nothing is in it


def _run_key_of(path: Path) -> str:
    """Of an adapter, by its header alone; "" for any other file."""
    try:
        return str(json.loads(read_metadata(path)[HEADER_ENTRY])["run_key"])
    except (ValueError, LookupError, TypeError, RecursionError):
        return ""
