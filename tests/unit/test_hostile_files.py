"""Files that somebody made to break us, or a disk broke: each is usable, or refused in one clear line."""

import json
import subprocess
import sys

import pytest

from harness import ROOT
from pfstorer_core.checkpoints.words import LONGEST

MOST_MEGABYTES = 500
LONGEST_LINE = LONGEST + 20

Result = tuple[str, float, str, str]


@pytest.fixture(scope="module")
def tried(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Result], float]:
    folder = tmp_path_factory.mktemp("hostile")
    command = [sys.executable, "-m", "tests.unit.hostile", str(folder)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-3000:]
    results, growth = json.loads(run.stdout)
    return [tuple(result) for result in results], growth


def test_each_is_usable_or_refused(tried: tuple[list[Result], float]) -> None:
    results, _ = tried
    assert len(results) > 200
    assert [
        (name, kind, message[:300]) for name, _, kind, message in results if kind not in ("usable", "refused")
    ] == []
    assert all(kind == "usable" for name, _, kind, _ in results if name.endswith(": whole"))
    assert sum(kind == "refused" for _, _, kind, _ in results) > 0.7 * len(results)


def test_each_refusal_is_one_clean_line(tried: tuple[list[Result], float]) -> None:
    said = [message for _, _, kind, message in tried[0] if kind == "refused"]
    assert [
        message for message in said if not 20 < len(message) < LONGEST_LINE or not message.isprintable()
    ] == []


def test_none_takes_much_memory(tried: tuple[list[Result], float]) -> None:
    assert tried[1] < MOST_MEGABYTES
