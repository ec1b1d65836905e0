"""What is finished in a folder of results: a line of JSON for each, in a hidden file beside them.

While several processes write there, each adds lines to a file of its own. When the next run begins, or all
are done, these become one. A line that a process did not live to end is no line.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from ..checkpoints.files import atomic_write

RECORD, LOCK = ".pfstorer.jsonl", ".pfstorer.lock"
"""Names of the record, and of what is locked by who may write there."""
JOURNALS = ".pfstorer.*.jsonl"
END = 2**20
"""Bytes at the beginning and the end of a file by which it is told: a list of its tensors, or checksums, is
among them."""


def read_record(folder: Path) -> dict[str, str]:
    """The mark of each result by its path in the folder: empty for what was begun and not finished."""
    marks = dict[str, str]()
    for path in (folder / RECORD, *sorted(folder.glob(JOURNALS))):
        for line in _lines(path):
            output, mark = line.get("output"), line.get("mark", "")
            if isinstance(output, str) and isinstance(mark, str):
                marks[output] = mark
    return marks


def merged_record(folder: Path) -> dict[str, str]:
    """`read_record`, of which one file is made."""
    marks = read_record(folder)
    if journals := sorted(folder.glob(JOURNALS)):
        with atomic_write(folder / RECORD) as temporary:
            lines = (json.dumps({"output": output, "mark": mark}) for output, mark in sorted(marks.items()))
            temporary.write_text("".join(f"{line}\n" for line in lines), "utf-8")
        for path in journals:
            path.unlink()
    return marks


def forget_journals(folder: Path) -> None:
    """Remove what processes told each other, where results say themselves that they are finished."""
    for path in folder.glob(JOURNALS):
        path.unlink(missing_ok=True)


def ended(folder: Path) -> int:
    """How many things the processes that write there are done with, for good or bad."""
    return sum("mark" in line or "failed" in line for path in folder.glob(JOURNALS) for line in _lines(path))


def key_of(values: Iterable[object], files: Iterable[Path]) -> str:
    """Tells results that depend on these from all others.

    Args:
        values: dataclasses, and what else has a name of its own.
        files: told by their size, beginning and end, whatever they are called.
    """
    plain = [
        asdict(value) if is_dataclass(value) and not isinstance(value, type) else str(value)
        for value in values
    ]
    digest = hashlib.sha256(json.dumps(plain, sort_keys=True).encode())
    for path in files:
        with path.open("rb") as file:
            digest.update(f"{path.stat().st_size}".encode())
            digest.update(file.read(END))
            file.seek(max(0, path.stat().st_size - END))
            digest.update(file.read())
    return digest.hexdigest()[:32]


class Journal:
    """One process's file; to be closed."""

    def __init__(self, folder: Path, process: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = (folder / f".pfstorer.{process}.jsonl").open("a", encoding="utf-8")

    def begin(self, output: str) -> None:
        """Before a result is written: from now on a file of that name is one of ours."""
        self._add({"output": output})

    def finish(self, output: str, mark: str) -> None:
        self._add({"output": output, "mark": mark})

    def fail(self, name: str) -> None:
        self._add({"failed": name})

    def close(self) -> None:
        self._file.close()

    def _add(self, line: dict[str, str]) -> None:
        self._file.write(f"{json.dumps(line)}\n")
        self._file.flush()


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    try:
        text = path.read_text("utf-8", "replace")
    except OSError:  # there is none
        return
    for line in text.splitlines():
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(found, dict):
            yield found
