"""The loop that every training shares: what was stopped resumes exactly."""

import csv
import errno
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from pfstorer_core.training import loop, saving
from pfstorer_core.training.data import Batch
from pfstorer_core.training.logs import Log
from pfstorer_core.training.loop import LoopSettings, Objective, fit, learning_rate
from pfstorer_core.training.processes import LAUNCHED, Accelerated, Processes
from pfstorer_core.training.progress import Progress
from pfstorer_core.training.state import kept_losses

LOOP = LoopSettings(steps=6, lr=1e-2, batch=4, warmup=2, save_every=2, bf16=False)


class Stopped(Exception):
    pass


class Line(Objective):
    """Fits the sum of three numbers; the mean of its sheet tells its first weight."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = torch.nn.Linear(3, 1)

    def forward(self, batch: Batch) -> Tensor:
        x = batch["x"]
        return ((self.linear(x) - x.sum(1, keepdim=True)) ** 2).mean()

    def sheet(self, batch: Batch) -> Tensor:
        return torch.full((1, 3, 4, 4), 0.5)


class Points:
    """`broken_every`: so often a sample had to be replaced."""

    def __init__(self, broken_every: int = 10**9, scale: float = 1.0) -> None:
        self.broken_every, self.scale = broken_every, scale

    def __len__(self) -> int:
        return 3

    def __getitem__(self, k: int) -> dict[str, object]:
        x = np.random.default_rng([7, k]).standard_normal(3, np.float32)
        broken = [(f"{k}.png", "cut short")] if k % self.broken_every == 1 else []
        return {"x": torch.from_numpy(x) * self.scale, "broken": broken}


def regression(
    folder: Path,
    stop_after: int | None = None,
    settings: LoopSettings = LOOP,
    points: Points | None = None,
    by: Processes | None = None,
) -> tuple[list[float], torch.nn.Module]:
    """Losses of fitting a line, and the averaged module."""
    losses: list[float] = []

    def note(progress: Progress) -> None:
        losses.append(progress.loss or 0.0)
        if progress.step == stop_after:
            raise Stopped

    line = Line()
    fit("line", line, points or Points(), settings, folder, note, held=Points(), processes=by)
    return losses, line


def written_losses(folder: Path, stage: str = "line") -> list[float]:
    with (folder / f"{stage}.csv").open() as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


def test_what_a_kill_left_half_written_is_removed(tmp_path: Path) -> None:
    left = tmp_path / ".line.state.safetensors.123.part"
    left.write_bytes(b"half")
    regression(tmp_path)
    assert not left.exists()


@pytest.mark.parametrize("stop_after", [1, 2, 3, 5])
def test_a_stopped_training_resumes_with_the_same_losses(tmp_path: Path, stop_after: int) -> None:
    expected, whole = regression(tmp_path / "whole")
    with pytest.raises(Stopped):
        regression(tmp_path / "parts", stop_after)
    losses, resumed = regression(tmp_path / "parts")
    assert losses == expected[stop_after:], "what was done when it was stopped is done"
    assert written_losses(tmp_path / "parts") == expected
    torch.testing.assert_close(dict(resumed.state_dict()), dict(whole.state_dict()), rtol=0, atol=0)


@pytest.mark.parametrize("torn", ["3,0.1", "3,", "x", "3,0.5,0.01\n9", "\n\n", "\x00\x00"])
def test_what_a_kill_left_of_the_losses_does_no_harm(tmp_path: Path, torn: str) -> None:
    """Ahead of the state by a line, torn, missing or lost: the state knows them."""
    expected, _ = regression(tmp_path / "whole")
    with pytest.raises(Stopped):
        regression(tmp_path / "parts", 2)
    path = tmp_path / "parts" / "line.csv"
    path.write_text(path.read_text() + torn)
    with pytest.raises(Stopped):
        regression(tmp_path / "parts", 4)
    path.unlink()
    regression(tmp_path / "parts")
    assert path.read_bytes() == (tmp_path / "whole" / "line.csv").read_bytes()
    assert written_losses(tmp_path / "parts") == expected


def test_losses_are_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Stopped):
        regression(tmp_path, 3)
    before = (tmp_path / "line.csv").read_bytes()

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        Log(tmp_path, "line", [(0.5, 0.1)])
    assert (tmp_path / "line.csv").read_bytes() == before


@pytest.mark.parametrize(("step_takes", "expected"), [(25.0, [3, 6]), (61.0, [1, 2, 3, 4, 5, 6]), (0.1, [6])])
def test_a_crash_loses_a_minute_at_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step_takes: float, expected: list[int]
) -> None:
    clock, saved = [0.0], list[int]()
    monkeypatch.setattr(saving, "monotonic", lambda: clock[0])
    monkeypatch.setattr(loop, "save_state", lambda path, step, *_: saved.append(step))

    class Slow(Line):
        def forward(self, batch: Batch) -> Tensor:
            clock[0] += step_takes
            return super().forward(batch)

    fit("line", Slow(), Points(), replace(LOOP, save_every=1000), tmp_path)
    assert saved == expected


def test_saving_by_the_clock_does_not_take_all_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, saved = [0.0], list[int]()
    monkeypatch.setattr(saving, "monotonic", lambda: clock[0])

    def slowly(path: Path, step: int, *_: object) -> None:
        saved.append(step)
        clock[0] += 10.0

    class Slow(Line):
        def forward(self, batch: Batch) -> Tensor:
            clock[0] += 61.0
            return super().forward(batch)

    monkeypatch.setattr(loop, "save_state", slowly)
    fit("line", Slow(), Points(), replace(LOOP, save_every=1000), tmp_path)
    assert saved == [1, 5, 6]


def test_what_stops_a_step_within_it_is_gone_on_from(tmp_path: Path) -> None:
    expected, whole = regression(tmp_path / "whole")

    class Cancelled(Line):
        """By its fourth step, of which half is done by then."""

        calls = 0

        def forward(self, batch: Batch) -> Tensor:
            self.calls += 1
            if self.calls == 2 * 3 + 2:
                raise Stopped
            return super().forward(batch)

    settings = replace(LOOP, accumulate=2, save_every=1000)
    with pytest.raises(Stopped):
        fit("line", Cancelled(), Points(), settings, tmp_path / "parts")
    assert kept_losses(tmp_path / "parts" / "line.state.safetensors") == pytest.approx(expected[:3], rel=1e-5)
    losses, resumed = regression(tmp_path / "parts", settings=settings)
    assert losses == pytest.approx(expected[3:], rel=1e-5)
    torch.testing.assert_close(dict(resumed.state_dict()), dict(whole.state_dict()), rtol=0, atol=1e-5)


def test_looks_come_early_and_then_now_and_then(tmp_path: Path) -> None:
    settings = replace(LOOP, steps=9, validate_every=4, validate_at=(0, 1, 3))
    assert [step for step in range(10) if settings.looks(step)] == [0, 1, 3, 4, 8, 9]
    assert not any(replace(LOOP, validate_at=(0, 1)).looks(step) for step in range(7))
    told: list[Progress] = []
    fit("line", Line(), Points(), settings, tmp_path, told.append, held=Points(), pictures=False)
    assert [p.step for p in told if p.picture is not None] == [0, 1, 3, 4, 8, 9]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["line.csv", "line.state.safetensors"]
    told.clear()
    fit("line", Line(), Points(), settings, tmp_path, told.append, held=Points(), pictures=False)
    assert [(p.step, p.picture is not None) for p in told] == [(9, True)], (
        "what was killed at its end is shown"
    )


def test_a_finished_training_is_not_repeated(tmp_path: Path) -> None:
    _, first = regression(tmp_path)
    losses, again = regression(tmp_path)
    assert losses == []
    torch.testing.assert_close(dict(first.state_dict()), dict(again.state_dict()), rtol=0, atol=0)


def test_accumulating_changes_nothing(tmp_path: Path) -> None:
    expected, _ = regression(tmp_path / "whole")
    parts, _ = regression(tmp_path / "parts", settings=replace(LOOP, accumulate=4))
    assert parts == pytest.approx(expected, rel=1e-5)


def test_workers_change_nothing(tmp_path: Path) -> None:
    expected, _ = regression(tmp_path / "alone")
    assert regression(tmp_path / "helped", settings=replace(LOOP, workers=2))[0] == expected


def test_it_learns(tmp_path: Path) -> None:
    losses, line = regression(tmp_path, settings=replace(LOOP, steps=300, save_every=300, lr=0.05))
    assert losses[-1] < 0.01 * losses[0]
    torch.testing.assert_close(line.get_parameter("linear.weight"), torch.ones(1, 3), rtol=0, atol=0.1)


def test_other_settings_are_not_mixed(tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        regression(tmp_path, 3)
    with pytest.raises(ValueError, match=r"other settings: lr \(0.01, now 0.5\)"):
        regression(tmp_path, settings=replace(LOOP, lr=0.5))


def test_a_batch_has_to_be_shared_out_evenly(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="multiple of 3"):
        regression(tmp_path, settings=replace(LOOP, accumulate=3))


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        regression(tmp_path, 4)
    before = (tmp_path / "line.state.safetensors").read_bytes()
    with pytest.raises(ValueError, match="loss of step 5 is inf"):
        regression(tmp_path, points=Points(scale=1e30))
    assert (tmp_path / "line.state.safetensors").read_bytes() == before


def test_broken_pictures_are_reported_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(Stopped):
        regression(tmp_path, 3, points=Points(broken_every=5))
    told = [record.getMessage() for record in caplog.records]
    assert told == [f"Skipped {k}.png: cut short" for k in (1, 6, 11)]
    caplog.clear()
    regression(tmp_path, points=Points(broken_every=5))
    assert caplog.records[-1].getMessage() == "line: 5 pictures could not be used and were skipped."


def test_held_back_samples_are_looked_at(tmp_path: Path) -> None:
    regression(tmp_path, settings=replace(LOOP, validate_every=3))
    assert [path.name for path in sorted((tmp_path / "sheets").iterdir())] == [
        "line-0000003.png",
        "line-0000006.png",
    ]
    assert list((tmp_path / "tensorboard" / "line").iterdir())


def test_the_rate_warms_up_and_falls() -> None:
    settings = LoopSettings(steps=100, lr=1.0, warmup=10)
    rates = [learning_rate(settings, step) for step in range(100)]
    assert max(rates) == max(rates[8:12])
    assert rates[0] == pytest.approx(0.1)
    assert rates[-1] == pytest.approx(0.05, abs=0.01)
    assert learning_rate(replace(settings, decay=False), 99) == 1.0


FULL_DISK = """
import resource, sys
from pathlib import Path
from tests.unit.test_training import regression
resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))
try:
    regression(Path(sys.argv[1]))
except OSError as error:
    sys.exit(str(error))
"""


def test_a_checkpoint_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    """A limit on the size of files stands in for a full disk."""
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 1
    assert "line.state.safetensors cannot be written: File too large" in result.stderr
    assert not list(tmp_path.glob("*.safetensors"))


def test_a_full_disk_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Log, step: int, loss: float, rate: float) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Log, "step", full)
    with pytest.raises(OSError, match=r"disk of .* is full. Make room and run the same command again"):
        regression(tmp_path)


def test_one_process_needs_no_accelerate_and_calculates_as_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from accelerate import Accelerator

    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    settings = replace(LOOP, accumulate=2)
    by_accelerate, with_it = regression(tmp_path / "with", settings=settings, by=Accelerated(Accelerator()))
    monkeypatch.setitem(sys.modules, "accelerate", None)
    losses, without = regression(tmp_path / "without", settings=settings)
    assert losses == by_accelerate
    torch.testing.assert_close(dict(without.state_dict()), dict(with_it.state_dict()), rtol=0, atol=0)


@pytest.mark.parametrize("launcher", LAUNCHED)
def test_several_processes_say_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, launcher: str
) -> None:
    monkeypatch.setitem(sys.modules, "accelerate", None)
    monkeypatch.setenv(launcher, "2")
    with pytest.raises(
        ImportError, match=r"Work in 2 processes needs .* pip install \"pfstorer\[training\]\""
    ):
        regression(tmp_path)
