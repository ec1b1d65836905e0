"""The benchmark of autoencoders: what it says of them, and which it trains."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lab.benchmarks import first_stage
from pfstorer_core.models import Autoencoder, AutoencoderConfig
from pfstorer_core.restorers.files import save_restorer

from ..unit.small import small_restorer
from .test_photographs import people  # noqa: F401 - a fixture

SIZES = AutoencoderConfig(
    ch=32, ch_mult=(1, 1, 1), num_res_blocks=1, z_channels=3, embed_dim=3, codebook=8, double_z=False
)


def colour(faces: Tensor, places: Tensor | None = None) -> Tensor:
    return faces.mean((2, 3))


def test_a_row_tells_what_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(first_stage, "descriptors", colour)
    torch.manual_seed(0)
    model, faces = Autoencoder(SIZES).requires_grad_(False), torch.rand(2, 3, 32, 32)
    assert model.quantize is not None
    z = model.encode(2 * faces - 1)
    model.quantize.get_parameter("embedding.weight").copy_(z.transpose(0, 1).flatten(1).T[:8])
    row = first_stage.row_of("some", "someone", model, faces)
    output = ((model.decode(z) + 1) / 2).clamp(0, 1)
    error = (output - faces).square().mean((1, 2, 3))
    assert row["psnr"] == pytest.approx(float((-10 * error.log10()).mean()), abs=1e-3)
    distance = (output.mean((2, 3)) - faces.mean((2, 3))).norm(dim=1).mean()
    assert row["distance"] == pytest.approx(float(distance), abs=1e-4)
    used = model.quantize(z)[1].flatten().bincount(minlength=8) / 128
    assert row["usage"] == pytest.approx(float((used > 0).float().mean()))
    assert row["perplexity"] == pytest.approx(
        float((-used * used.clamp_min(1e-9).log()).sum().exp()), rel=1e-4
    )


def test_files_are_measured_and_variants_trained(
    people: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trained: list[tuple[Any, ...]] = []

    def run(folder: Path, data: Any, loop: Any, *, network: str, changed: Any, source: Any) -> None:
        trained.append((folder.name, network, changed.codebook, loop.steps, data.paths, source))

    monkeypatch.setattr(first_stage, "descriptors", colour)
    monkeypatch.setattr(first_stage, "run_autoencoder", run)
    monkeypatch.setattr(
        first_stage, "load_autoencoder", lambda path: Autoencoder(SIZES).requires_grad_(False)
    )
    save_restorer(small_restorer(), tmp_path / "restorer.safetensors")
    command = [
        "first_stage", people, tmp_path / "restorer.safetensors", "--json", tmp_path / "out.json",
        "--faces", "2", "--size", "64", "--train", "f4:8,f8:16", "--folder", tmp_path, "--data", people,
        "--steps", "7", "--sheet", tmp_path / "sheet.png",
    ]  # fmt: skip
    monkeypatch.setattr(sys, "argv", [str(each) for each in command])
    first_stage.main()
    assert trained == [
        ("f4_8", "tiny_vq_f4", 8, 7, [people], None),
        ("f8_16", "tiny_vq_f8", 16, 7, [people], None),
    ]
    found = json.loads((tmp_path / "out.json").read_text())
    assert len(found["rows"]) == 3 * 2
    assert [row["person"] for row in found["rows"][:2]] == ["person 0", "person 1"]
    assert "usage" not in found["rows"][0]
    assert found["rows"][-1]["usage"] > 0
    assert (tmp_path / "sheet.png").is_file()
