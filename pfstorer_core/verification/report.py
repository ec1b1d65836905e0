"""The report: what was found, as Markdown that can be pasted where others read it."""

from __future__ import annotations

import platform
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ..checkpoints.version import VERSION
from ..checkpoints.words import bytes_in_words, plain
from .given import GivenFile
from .settings import Settings

PASSED, FAILED, NOT_APPLICABLE = "passed", "FAILED", "n/a"
LONGEST = 400
"""Characters of what was measured."""
MARKUP = str.maketrans({"|": "/", "`": "'", "<": "‹", ">": "›", "@": "(at)", "\n": " "})
"""What would break a table or call somebody."""
FOLDERS = re.compile(r"(?<![\w.])(?:[A-Za-z]:|~)?(?:[\\/][^\s\\/'\"`:,;|]+){2,}[\\/]?")
"""Paths of two or more folders."""


@dataclass(frozen=True)
class Result:
    """What a check found.

    Attributes:
        value: what was measured, or why it could not be.
        outcome: `PASSED`, `FAILED` or `NOT_APPLICABLE`.
    """

    name: str
    value: str
    limit: str
    outcome: str


@dataclass(frozen=True)
class Report:
    """What a verification found.

    Attributes:
        seconds: that it took; memory: peaks by what they are of, in bytes.
    """

    files: Sequence[GivenFile]
    settings: Settings
    results: Sequence[Result]
    seconds: float
    memory: dict[str, int]

    @property
    def failed(self) -> list[Result]:
        return [result for result in self.results if result.outcome == FAILED]

    def to_markdown(self) -> str:
        """The report as text, without paths, names of files or of people."""
        lines = [f"### PFStorer verify: {self._verdict()}", "", *self._facts(), ""]
        lines += ["| check | measured | must be | outcome |", "|---|---|---|---|"]
        for r in self.results:
            cells = (r.name, plain(r.value, LONGEST), r.limit, r.outcome)
            lines.append("| " + " | ".join(cell.translate(MARKUP) for cell in cells) + " |")
        return without_places("\n".join(lines), [file.path for file in self.files]) + "\n"

    def _verdict(self) -> str:
        count = {
            outcome: sum(result.outcome == outcome for result in self.results)
            for outcome in (PASSED, FAILED, NOT_APPLICABLE)
        }
        return (
            f"{count[FAILED]} failed, {count[PASSED]} passed, {count[NOT_APPLICABLE]} could not be applied"
            if count[FAILED]
            else f"{count[PASSED]} checks passed, {count[NOT_APPLICABLE]} could not be applied"
        )

    def _facts(self) -> list[str]:
        s = self.settings
        peaks = [f"{bytes_in_words(peak)} of {what}" for what, peak in self.memory.items()]
        told = [] if s.variant is None else [f"--variant {s.variant}"]
        told += [] if s.prediction_type is None else [f"--prediction-type {s.prediction_type}"]
        how = "quick" if s.quick else f"{s.steps} steps in {str(s.dtype).removeprefix('torch.')}"
        lines = [
            f"- pack {VERSION}, torch {torch.__version__}, Python {platform.python_version()}, "
            f"{platform.system()} {platform.machine()}",
            f"- {device_name(s.device)}; {', '.join([how, *told])}; {self.seconds:.0f} s; "
            f"peak of memory: {', '.join(peaks) or 'unknown'}",
        ]
        for number, file in enumerate(self.files, 1):
            lines.append(f"- file {number}: {file.title.translate(MARKUP)}")
            lines += [f"  - {plain(fact, LONGEST).translate(MARKUP)}" for fact in file.facts]
        return lines


def without_places(text: str, paths: Sequence[Path]) -> str:
    """A text in which the files are called by their numbers, and no folder is named."""
    called: dict[str, int] = {}
    for number, path in enumerate(paths, 1):
        names = {str(path), str(path.absolute()), str(path.resolve()), path.name, path.resolve().name}
        names |= {plain(name, 200) for name in names} | {plain(path.name)}
        called |= dict.fromkeys(names | {name.translate(MARKUP) for name in names}, number)
    for name in sorted(called, key=len, reverse=True):
        whole = rf"(?<![\w.-]){re.escape(name)}(?![\w-]|\.\w)"
        text = re.sub(whole, f"file {called[name]}", text)
    return FOLDERS.sub("…", text)


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "cpu":
        return f"CPU, {torch.get_num_threads()} threads"
    return device.type


def memory_peaks(device: torch.device) -> dict[str, int]:
    """The most memory that this process has had so far, in bytes, by what it is of."""
    found = {}
    if sys.platform != "win32":
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        found["the process"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    if device.type == "cuda":
        found["the GPU"] = torch.cuda.max_memory_allocated(device)
    return found
