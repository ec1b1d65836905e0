"""One person's face in another's photo."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from pfstorer_core.cli.runs import Data
from pfstorer_core.imaging.faces import Face
from pfstorer_core.training import mixing
from pfstorer_core.training.data import Crops, find_pictures
from pfstorer_core.training.mixing import FaceMixture

SIDE = 96
LANDMARKS = 0.4 * torch.tensor([[36.0, 42], [60, 42], [48, 54], [48, 66], [24, 46], [72, 46]]) + 29


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four pictures; the last one, which is blue, has no face."""
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 256, (12, 12, 3), np.uint8)
        pixels[..., :2] = 0 if number == 3 else pixels[..., :2]
        Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(
            tmp_path / f"{number}.png"
        )

    def find(picture: Tensor, smallest: float) -> list[Face]:
        assert smallest > 0
        small = Face((30.0, 30.0, 60.0, 50.0), LANDMARKS + torch.nan, 1.0)
        whole = Face((20.0, 20.0, 76.0, 80.0), LANDMARKS, 1.0)
        return [] if picture[0].max() == 0 else [small, whole]

    monkeypatch.setattr(mixing, "find_faces", find)
    return tmp_path


def test_a_face_is_another_s_and_the_rest_stays(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = find_pictures([folder])
    monkeypatch.setattr(mixing, "STRENGTH", (1.0, 1.0))
    mixture, own = FaceMixture(pictures, [1], 1.0), pictures.read(0)
    mixed = mixture(own, 0, np.random.default_rng(0))
    before, after = (np.array(image).astype(int) for image in (own, mixed))
    assert np.abs(after - before)[48:60, 40:56].mean() > 10
    assert (after[:6] == before[:6]).all()
    middle = (slice(40, 66), slice(36, 60))
    assert after[middle].mean((0, 1)) == pytest.approx(before[middle].mean((0, 1)), abs=45), "in its colours"
    again = FaceMixture(pictures, [1], 1.0)(own, 0, np.random.default_rng(0))
    assert np.array_equal(np.array(again), after)
    faint = FaceMixture(pictures, [1], 1.0)
    monkeypatch.setattr(mixing, "STRENGTH", (0.1, 0.1))
    weak = np.array(faint(own, 0, np.random.default_rng(0))).astype(int)
    assert 0 < np.abs(weak - before).sum() < np.abs(after - before).sum() / 4


def test_where_there_is_no_face_nothing_changes(folder: Path) -> None:
    pictures = find_pictures([folder])
    for own, others in ((3, [0, 1]), (0, [3]), (0, [0])):
        image = pictures.read(own)
        assert FaceMixture(pictures, others, 1.0)(image, own, np.random.default_rng(1)) is image
    image = pictures.read(0)
    mixture = FaceMixture(pictures, [1], 0.5)
    changed = [mixture(image, 0, np.random.default_rng(seed)) is not image for seed in range(30)]
    assert 8 <= sum(changed) <= 22
    assert set(mixture.found) == {0, 1}, "each picture is looked through once"


def test_a_training_sees_mixtures_and_what_is_looked_at_does_not(folder: Path) -> None:
    data: Any = Data([folder], 64, mix=1.0)
    pictures = data.pictures()
    crops, held = data.crops(pictures, 0, 64)
    assert (crops.mix.share, held.mix) == (1.0, None)
    plain = Crops(pictures, crops.indices, 64, 0)
    assert not crops[0]["broken"]
    assert any(not torch.equal(crops[k]["image"], plain[k]["image"]) for k in range(4))
    assert torch.equal(crops[1]["image"], crops[1]["image"])
    assert torch.equal(held[2]["image"], plain[2]["image"])
    with pytest.raises(ValueError, match="mix must be from 0 to 1"):
        Data([folder], 64, mix=2.0).crops(pictures, 0, 64)
