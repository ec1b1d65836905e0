"""The check on a GPU, on a CPU: every part's code runs with tiny networks, the real host included."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness import HOST, ROOT
from harness.environment import site_environment
from lab.gpu.options import PARTS, parse
from lab.gpu.report import table
from lab.gpu.server import without_av

GRAPHS = ("load_and_5", "again_5", "again_50", "native_20", "person_5", "train_3_batch_1", "learned_person_5",
          "9_tiles_fidelity_5", "person_50", "bf16_load_and_5", "diffbir_load_and_5", "diffbir_again_5",
          "diffbir_native_5", "diffbir_guided_5", "diffbir_guided_rgb_2", "diffbir_train_3",
          "diffbir_learned_person_5")  # fmt: skip


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the whole check writes."""
    folder = tmp_path_factory.mktemp("gpu")
    options = ["--cpu", "--out", folder / "out", "--work", folder / "work", "--comfy", HOST]
    result = subprocess.run(
        [sys.executable, "-m", "lab.gpu.check", *map(str, options), "--seconds", "700", "--no-cap"],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", **site_environment()},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout[-5000:] + result.stderr[-5000:]
    data = json.loads((folder / "out" / "check.json").read_text())
    assert (folder / "out" / "table.txt").read_text() == table(data, PARTS)
    return data


def test_no_part_and_no_measurement_fails(found: dict[str, Any]) -> None:
    assert {part: found[part]["status"] for part in PARTS} == dict.fromkeys(PARTS, "done")
    assert [(part, key) for part, rows in found.items() for key in rows if key.endswith("_error")] == []
    assert "skipped" not in json.dumps(found)


def test_it_sees_what_is_so_on_every_device(found: dict[str, Any]) -> None:
    assert found["E"]["twice_the_same"]
    assert found["E"]["twice_the_same_with_person"]
    assert found["E"]["resume_training"]["as_without_a_stop"]
    assert found["E"]["unet_default_against_cpu_fp32"]["max"] == 0
    assert found["B"]["plain_difference_of_norm"] < 0.05
    assert found["B"]["keys"]["ours"] == found["B"]["keys"]["host"] == found["B"]["keys"]["shared"]
    assert found["C"]["learned_adapter_finite"]
    assert found["A"]["bf16_graphs_same"] == found["A"]["bf16_person_graphs_same"]
    assert found["A"]["bf16_graphs_same"] == {"twice": True, "off_by": 0}
    assert found["C"]["batch_4_graphs"]["losses_finite"]
    assert found["D"]["batch_1_graphs"].keys() == {"base_ms", "1_ms", "5_ms"}
    assert found["G"]["difference_of_norm"] == 0
    assert found["H"]["difference_of_norm"] < 0.05
    assert found["H"]["keys_that_differ"] == []
    assert found["H"]["text_pivot"]["finite"]
    assert found["H"]["model_pivot"]["finite"]


def test_graphs_run_in_the_host(found: dict[str, Any]) -> None:
    rows = {key: found["F"][key] for key in GRAPHS}
    assert {key: row["status"] for key, row in rows.items()} == dict.fromkeys(GRAPHS, "success")
    shapes = {key: [shape for shape, _, _ in row["pictures"]] for key, row in rows.items()}
    assert shapes["again_5"] == shapes["diffbir_again_5"] == shapes["diffbir_guided_5"] == [[64, 64, 3]]
    assert shapes["9_tiles_fidelity_5"] == [[128, 128, 3]]
    assert any("pfstorer" in line for line in found["F"]["log"])


def test_the_host_s_sources_are_only_changed_where_they_are_the_check_s_own_copy(tmp_path: Path) -> None:
    own, theirs = tmp_path / "work" / "comfy" / "nodes.py", tmp_path / "ComfyUI" / "nodes.py"
    text = (HOST / "nodes.py").read_text()
    for path in (own, theirs):
        path.parent.mkdir(parents=True)
        path.write_text(text)
    without_av(own, tmp_path / "work")
    assert "VideoFromFile(image_path)" not in own.read_text()
    compile(own.read_text(), "nodes.py", "exec")
    with pytest.raises(RuntimeError, match="PyAV is missing"):
        without_av(theirs, tmp_path / "work")
    assert theirs.read_text() == text


def test_parts_are_taken_in_their_order() -> None:
    assert parse(["--out", "out", "--parts", "fxe"]).parts == "FE"
    assert parse(["--out", "out"]).parts == PARTS
