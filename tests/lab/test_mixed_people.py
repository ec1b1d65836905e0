"""People who are mixed from photographs of a few."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from harness import ROOT
from lab.mixed_people import MixedPeople, draw_likeness, mix_people, photographs, picture_of
from pfstorer_core.imaging.faces import find_faces
from pfstorer_core.imaging.pictures import read_picture
from pfstorer_core.training.data import find_pictures
from pfstorer_core.training.people import People


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two photos of each of two people, and a picture of three."""
    folder = tmp_path_factory.mktemp("few")
    for person in ("P007", "P008"):
        (folder / person).mkdir()
        for number in (1, 2):
            file = ROOT / "assets" / "examples" / f"{person}_photo_{number}.jpg"
            (folder / person / file.name).symlink_to(file)
    (folder / "P008" / "group.jpg").symlink_to(ROOT / "assets" / "examples" / "group_true.jpg")
    return folder


def test_a_mixed_person_is_one_in_all_pictures(few: Path) -> None:
    known = photographs(few)
    assert {name: len(photos) for name, photos in known.items()} == {"P007": 2, "P008": 2}
    one, other = (draw_likeness(sorted(known), np.random.default_rng(seed)) for seed in (0, 1))
    pictures = [picture_of(one, known, 128, np.random.default_rng(seed)) for seed in (3, 3, 4)]
    assert torch.equal(pictures[0], pictures[1])
    assert not torch.equal(pictures[0], pictures[2])
    assert not torch.equal(picture_of(other, known, 128, np.random.default_rng(3)), pictures[0])
    for picture in pictures[1:]:
        [face] = find_faces(picture[0])
        assert face.landmarks.isfinite().all()


def test_each_has_a_folder_and_what_is_there_stays(few: Path, tmp_path: Path) -> None:
    settings = MixedPeople(people=2, photos=2, size=48)
    mix_people(few, settings, tmp_path)
    pictures = find_pictures([tmp_path])
    assert len(People(pictures, range(len(pictures))).of) == 2
    first = tmp_path / "00000" / "0.png"
    before = read_picture(first)
    first.unlink()
    kept = (tmp_path / "00001" / "1.png").stat().st_mtime_ns
    mix_people(few, settings, tmp_path)
    assert torch.equal(read_picture(first), before)
    assert (tmp_path / "00001" / "1.png").stat().st_mtime_ns == kept
    with pytest.raises(ValueError, match="photos must be 1 or more"):
        mix_people(few, MixedPeople(photos=0), tmp_path)
    with pytest.raises(ValueError, match="two folders or more"):
        photographs(few / "P007")
