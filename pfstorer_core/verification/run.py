"""Running the checks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from ..training.progress import Progress, silent
from .checks import CHECKS, LAST, PERSON_CHECKS, Check, Person, T
from .given import CHECKPOINT, CLEANS, GivenFile, read_given
from .report import FAILED, NOT_APPLICABLE, PASSED, Report, Result, memory_peaks
from .settings import NotApplicable, Settings
from .subject import Subject

STEPS = 5


def verify(
    paths: Sequence[Path], settings: Settings, on_step: Callable[[Progress], object] = silent
) -> Report:
    """Check what must hold of files that belong together: a restorer or what it consists of, a cleaner,
    adapters of people.

    Args:
        on_step: called every little while; raise in it to stop.
    Raises:
        ValueError: no file, two that are alike, or steps below 1. What is wrong with the files is in the
            report.
        FileNotFoundError, PermissionError: a file that is not there, or cannot be read.
    """
    if not paths:
        raise ValueError("There is nothing to verify: name a file.")
    if settings.steps < 1:
        raise ValueError(f"steps must be 1 or more, got {settings.steps}.")
    begun, stopped = time.monotonic(), list[BaseException]()

    def ask(progress: Progress) -> None:
        try:
            on_step(progress)
        except BaseException as error:
            stopped.append(error)
            raise

    if settings.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(settings.device)
    files = []
    for number, path in enumerate(paths, 1):
        files.append(read_given(path, lambda k=number: ask(Progress("files", k - 1, len(paths)))))
        ask(Progress("files", number, len(paths)))
    _check_alone(files)
    subject, results = Subject(files, settings, ask), list[Result]()
    runs = list(_runs(subject))
    for number, run in enumerate(runs, 1):
        results.append(run())
        if stopped:
            raise stopped[0]
        ask(Progress("checks", number, len(runs)))
    seconds = time.monotonic() - begun
    return Report(files, settings, results, seconds, memory_peaks(settings.device))


def _check_alone(files: Sequence[GivenFile]) -> None:
    for role, called in {CHECKPOINT: "restorers or checkpoints", CLEANS: "cleaners"}.items():
        if sum(file.role == role for file in files) > 1:
            raise ValueError(f"There are several {called} among the files: verify one after the other.")


def _runs(subject: Subject) -> Iterator[Callable[[], Result]]:
    """The checks in their order, as functions of nothing."""

    def of(check: Check[T], what: T, title: str = "") -> Callable[[], Result]:
        def run() -> Result:
            return run_check(check, what, title or check.name, subject.settings.quick)

        return run

    for check in CHECKS:
        yield of(check, subject)
    several = len(subject.adapters) > 1
    for file in subject.adapters:
        for each in PERSON_CHECKS:
            title = f"{each.name} (file {subject.files.index(file) + 1})" if several else each.name
            yield of(each, Person(subject, file), title)
    for check in LAST:
        yield of(check, subject)


def run_check(check: Check[T], what: T, title: str, quick: bool) -> Result:
    """What a check finds; an error fails it, but where memory is short."""
    if quick and not check.quick:
        return Result(title, "left out by --quick", check.limit, NOT_APPLICABLE)
    try:
        measured = check.measure(what)
    except NotApplicable as why:
        return Result(title, str(why), check.limit, NOT_APPLICABLE)
    except (torch.cuda.OutOfMemoryError, MemoryError):
        why = "not enough memory on this device: try --device cpu, or --dtype fp16"
        return Result(title, why, check.limit, NOT_APPLICABLE)
    except Exception as error:  # whatever it is, who reads the report has to know
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        return Result(title, f"{kind}{error}", check.limit, FAILED)
    return Result(title, measured.value, check.limit, PASSED if measured.holds else FAILED)
