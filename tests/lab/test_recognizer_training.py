"""A small recogniser is trained on drawn people and on photographs."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lab.recognition.faces import SIDE, FaceSamples, bent, photographs
from lab.recognition.strangers import cut_strangers
from lab.recognition.train import (
    RecognizerTraining,
    save_recognizer,
    seen,
    train_recognizer,
    verification_error,
)
from pfstorer_core.imaging.pictures import write_picture
from pfstorer_core.models.iresnet import IResNetConfig
from pfstorer_core.recognition import load_recognizer
from pfstorer_core.recognition.likeness import CELL, strangers


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two pictures of each of three people, and one of nobody."""
    folder = tmp_path_factory.mktemp("photos")
    for number, face in enumerate(strangers()[3:6]):
        write_picture(face[None], folder / f"P{number}_a.png")
        write_picture(face[None] * 0.8, folder / f"P{number}_b_dark.png")
    write_picture(torch.full((1, 3, 64, 64), 0.5), folder / "P9_wall.png")
    return folder


@pytest.fixture(scope="module")
def faces(photos: Path) -> dict[str, Tensor]:
    return photographs(photos)


def test_photographs_are_gathered_by_person(faces: dict[str, Tensor], tmp_path: Path) -> None:
    assert {person: tuple(found.shape) for person, found in faces.items()} == {
        f"P{number}": (2, 3, SIDE, SIDE) for number in range(3)
    }
    assert faces["P0"][0].float().mean() > 1.15 * faces["P0"][1].float().mean()
    with pytest.raises(ValueError, match="No faces"):
        photographs(tmp_path)


def test_samples_name_everybody_and_bend_all_faces_of_one_alike(faces: dict[str, Tensor]) -> None:
    class Drawn:
        count, photos = 4, 2

        def draw(self, seed: int, k: int) -> tuple[int, int, int]:
            return k % 4, k % 2, seed + k

        def get(self, name: str, who: int) -> Tensor:
            return torch.full((2, 3, SIDE, SIDE), who, dtype=torch.uint8)

    samples = FaceSamples(Drawn(), faces, bent=5, seed=3)  # type: ignore[arg-type]
    found = [samples[k] for k in range(200)]
    assert {int(one["who"]) for one in found} == set(range(samples.people))
    assert samples.people == 4 + 3 * 5
    for one in found:
        if one["who"] < 4:
            assert (one["image"] == one["who"]).all()
    plain = faces["P0"][0]
    first, again, other = (bent(plain, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert (first.float() - plain.float()).abs().mean() > 5
    assert (first.float() - other.float()).abs().mean() > 5


def test_what_is_seen_is_a_face_in_range(faces: dict[str, Tensor]) -> None:
    views = seen(faces["P1"], 48, np.random.default_rng(0))
    assert views.shape == (2, 3, 48, 48)
    assert -1 <= float(views.min()) < -0.5 < 0 < float(views.max()) <= 1


def test_verification_error_counts_pairs(faces: dict[str, Tensor]) -> None:
    class Mean(nn.Module):
        config = IResNetConfig(side=32)

        def forward(self, views: Tensor) -> Tensor:
            return views[:, 0].flatten(1) + 1

    alike = [people[:1].expand(3, -1, -1, -1) for people in faces.values()]
    assert verification_error(Mean(), alike) == 0  # type: ignore[arg-type]
    mixed = [torch.cat(alike)[[0, 3, 6]]] * 3
    assert verification_error(Mean(), mixed) > 0.3  # type: ignore[arg-type]


def test_training_gives_a_file_that_loads_and_resumes(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lab.evaluation.faces.SHARD", 3)
    small = IResNetConfig(4, (4, 6, 6, 8), (1, 1, 1, 1), 8, 32)
    settings = RecognizerTraining(small, 1, 2, bent=3, unseen=2, left_out=("P1", "P2"))
    settings = replace(settings, loop=replace(settings.loop, steps=3, batch=4))
    monkeypatch.setattr("lab.recognition.train.CALIBRATION", 2)
    network, errors = train_recognizer(settings, tmp_path, photos)
    assert network.get_buffer("bn1.running_mean").abs().max() > 0
    assert not any(value.requires_grad for value in network.parameters())
    assert set(errors) == {"drawn", "photographed"}
    save_recognizer(network, tmp_path / "own.safetensors", errors)
    recognizer = load_recognizer(tmp_path / "own.safetensors")
    assert recognizer.view.side == 32
    assert "do not exist" in recognizer.license
    with pytest.raises(ValueError, match="unseen 2 or more, got 1, 3, 2 and 1"):
        replace(settings, unseen=1)
    again, _ = train_recognizer(settings, tmp_path, photos)
    torch.testing.assert_close(again.state_dict(), network.state_dict())


def test_the_atlas_is_cut_from_photos(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = sorted(photos.glob("*_a.png"))
    cut_strangers(paths, tmp_path / "atlas.jpg")
    monkeypatch.setattr("pfstorer_core.recognition.likeness.STRANGERS", tmp_path / "atlas.jpg")
    assert strangers().shape == (3, 3, CELL, CELL)
    with pytest.raises(ValueError, match="2 photos do not fill"):
        cut_strangers(paths[:2], tmp_path / "atlas.jpg")
    with pytest.raises(ValueError, match="No face"):
        cut_strangers([*paths[:2], photos / "P9_wall.png"], tmp_path / "atlas.jpg")
