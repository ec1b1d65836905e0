"""Drawn people as files: what trainings read of them is what was drawn, and nothing gets mixed up."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from lab.cli import app
from lab.people import draw_person
from lab.people.captions import caption
from lab.people.drawn import DrawnPictures, describe_picture, draw_picture, draw_pictures
from pfstorer_core.training.data import Crops, find_pictures

SMALL = DrawnPictures(people=3, photos=2, leaves=6, size=32, seed=3)


@dataclass(frozen=True)
class Drawing:
    """The same pictures without files between."""

    def __len__(self) -> int:
        return len(SMALL)

    def name(self, index: int) -> str:
        return str(index)

    def read(self, index: int) -> Image.Image:
        return Image.fromarray(draw_picture(SMALL, index))

    def caption(self, index: int) -> str:
        return describe_picture(SMALL, index)

    def folder(self, index: int) -> str:
        return ""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("drawn")
    words = "--people 3 --photos 2 --leaves 6 --size 32 --seed 3"
    result = CliRunner().invoke(app, ["draw-people", str(path), *words.split()], catch_exceptions=False)
    assert result.exit_code == 0
    return path


def test_samples_of_the_files_are_those_of_the_drawing(folder: Path) -> None:
    """In the same order, to the last bit: losses of one seed stay what they are."""
    found, drawn = find_pictures([folder]), Drawing()
    assert len(found) == len(drawn) == 12
    files, direct = (Crops(pictures, range(12), 24, seed=1) for pictures in (found, drawn))
    for k in range(24):
        assert torch.equal(files[k]["image"], direct[k]["image"])
        assert int(files[k]["seed"]) == int(direct[k]["seed"])
        assert files[k]["caption"] == direct[k]["caption"]
    assert ["person" in found.caption(index) for index in range(12)] == [True] * 6 + [False] * 6


def test_a_stopped_drawing_goes_on(folder: Path) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    kept = folder / "000001.png"
    written = kept.stat().st_mtime_ns
    (folder / "000002.png").unlink()
    (folder / "000009.png").unlink()
    (folder / "000009.txt").unlink()
    seen = []
    draw_pictures(SMALL, folder, lambda progress: seen.append((progress.step, progress.steps)))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert kept.stat().st_mtime_ns == written
    assert seen == [(11, 12), (12, 12)]


def test_other_pictures_do_not_come_between(folder: Path) -> None:
    with pytest.raises(
        ValueError, match=r"holds the pictures of people 3, .* seed 3, and not those of .* seed 4"
    ):
        draw_pictures(replace(SMALL, seed=4), folder)


@pytest.mark.parametrize("changes", [{"people": -1}, {"people": 0, "leaves": 0}, {"size": 0}, {"seed": -1}])
def test_there_has_to_be_something_to_draw(tmp_path: Path, changes: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"must be|nothing to draw"):
        draw_pictures(replace(SMALL, **changes), tmp_path / "drawn")
    assert not (tmp_path / "drawn").exists()


def test_captions_tell_the_traits() -> None:
    person = draw_person(np.random.default_rng(5))
    person = replace(person, hair_colour=(0.26, 0.07, 0.02), grey=0.0, hair_curl=0.9, beard=0.5, age=0.9)
    texts = " / ".join(caption(person, np.random.default_rng(seed)) for seed in range(40))
    for words in ("a photo of", "curly red hair", "a beard", "an old person"):
        assert words in texts
    assert "freckles" not in " ".join(
        caption(replace(person, freckles=0.0), np.random.default_rng(seed)) for seed in range(40)
    )
