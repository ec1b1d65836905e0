"""Example pictures are made of a folder of photographs, and again the same."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from typer.testing import CliRunner

from harness import ROOT
from lab.cli import app
from lab.example_pictures import BEHIND, PEOPLE, PHOTOS, STANDING, TRUE, group_of
from pfstorer_core.imaging.faces import find_faces
from pfstorer_core.imaging.pictures import read_picture, write_picture

MADE = ROOT / "assets" / "examples"


@pytest.fixture
def people(tmp_path: Path) -> Path:
    """As openpeople's, of what was made: faces of the pictures that are there."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "masks").mkdir()
    for person in PEOPLE:
        for n, kind in enumerate((*PHOTOS, TRUE), start=1):
            name = f"{person}_photo_{n}" if kind != TRUE else f"{person}_true"
            write_picture(read_picture(MADE / f"{name}.jpg"), tmp_path / "photos" / f"{person}_{kind}.jpg")
        small = F.interpolate(read_picture(MADE / f"{person}_photo_1.jpg"), size=(240, 240), mode="area")
        standing = F.pad(small, (300, 332, 60, 1000), value=0.5)  # of the size of openpeople's
        write_picture(standing, tmp_path / "photos" / f"{person}_{STANDING}.jpg")
        mask = Image.new("L", (872, 1300))
        mask.paste(255, (300, 60, 540, 300))
        mask.save(tmp_path / "masks" / f"{person}_{STANDING}.png")
    return tmp_path


def test_the_same_photographs_give_the_same_files(people: Path, tmp_path: Path) -> None:
    for output in ("one", "two"):
        result = CliRunner().invoke(app, ["example-pictures", str(people), str(tmp_path / output)])
        assert result.exit_code == 0, result.output
    first = {path.name: path.read_bytes() for path in (tmp_path / "one").iterdir()}
    assert first == {path.name: path.read_bytes() for path in (tmp_path / "two").iterdir()}
    assert {*first, "LICENSE.txt"} == {path.name for path in MADE.iterdir()}
    for name in first:
        made, shipped = (read_picture(folder / name) for folder in (tmp_path / "one", MADE))
        assert made.shape == shipped.shape, name


def test_the_group_shows_of_each_what_the_mask_does(people: Path) -> None:
    faces = find_faces(group_of(people)[0])
    assert len(faces) == len(PEOPLE)
    left, _, right = (face.box for face in faces)
    assert 130 < left[3] - left[1] < 150, "those beside are as large as they should be"
    assert 130 < right[3] - right[1] < 150
    for person in PEOPLE:
        Image.new("L", (872, 1300)).save(people / "masks" / f"{person}_{STANDING}.png")
    alone = read_picture(people / "photos" / f"{BEHIND}_{STANDING}.jpg")[:, :, 20:540]
    torch.testing.assert_close(group_of(people), alone, rtol=0, atol=1e-6)


def test_a_photograph_without_a_face_is_named(people: Path) -> None:
    write_picture(torch.full((1, 3, 300, 300), 0.5), people / "photos" / "P008_c00.jpg")
    result = CliRunner().invoke(app, ["example-pictures", str(people), str(people / "out")])
    assert "No face is found in P008_c00.jpg" in str(result.exception)
