"""A folder of photographs becomes one of aligned faces, which trainings of faces want."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data
from typer.testing import CliRunner

from pfstorer_core.cli import app
from pfstorer_core.cli.aligning import align_faces
from pfstorer_core.imaging.alignment import aligned_face
from pfstorer_core.imaging.faces import find, find_faces
from pfstorer_core.imaging.faces.blazeface import load_blazeface
from pfstorer_core.imaging.pictures import read_picture
from pfstorer_core.models.blazeface import BlazeFace
from pfstorer_core.recognition import Recognizer
from pfstorer_core.recognition.subject import direction_of, find_subject


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[BlazeFace]:
    """Every face detector that is loaded."""
    networks = list[BlazeFace]()

    def load() -> BlazeFace:
        networks.append(load_blazeface())
        return networks[-1]

    monkeypatch.setattr(find, "load_blazeface", load)
    return networks


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    face = data.astronaut()[:260, 90:350]
    Image.fromarray(face).save(folder / "one.png")
    (folder / "one.txt").write_text("a woman")
    Image.fromarray(np.concatenate([face, face], 1)).save(folder / "two.png")
    Image.fromarray(np.full((64, 64, 3), 128, np.uint8)).save(folder / "none.png")
    (folder / "notes.md").write_text("no picture")
    return folder


def test_every_face_is_where_ffhq_has_it(photos: Path, tmp_path: Path, loaded: list[BlazeFace]) -> None:
    output = tmp_path / "faces"
    written, left_out = align_faces(photos, output, 96)
    assert len(loaded) == 1, "one detector for all pictures"
    assert (written, left_out) == (3, ["none.png: no face of 48 pixels or more"])
    assert sorted(path.name for path in output.iterdir()) == ["one.png", "one.txt", "two.png", "two_2.png"]
    assert (output / "one.txt").read_text() == "a woman"
    picture = read_picture(photos / "one.png")
    [face] = find_faces(picture[0])
    expected = aligned_face(picture, face.landmarks, 96)[0]
    torch.testing.assert_close(read_picture(output / "one.png"), expected, rtol=0, atol=0.5 / 255 + 1e-6)


def test_faces_that_would_be_blurred_are_left_out(photos: Path, tmp_path: Path) -> None:
    written, left_out = align_faces(photos, tmp_path / "faces", 1024)
    assert written == 0
    assert left_out[0] == "none.png: no face of 512 pixels or more"


def test_one_detector_finds_the_faces_of_all_pictures(loaded: list[BlazeFace]) -> None:
    pictures = torch.zeros(2, 3, 64, 64)
    recognizer = Recognizer(torch.nn.Flatten())
    find_subject(recognizer, pictures, 8, direction_of(recognizer, pictures.split(1)))
    assert len(loaded) == 2, "one for the photos, one for the pictures"


def test_the_command(photos: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["align-faces", str(photos), str(tmp_path / "faces"), "--size", "64"])
    assert result.exit_code == 0
    assert "3 faces in" in result.stdout
    assert "none.png: no face" in result.stdout


def test_what_cannot_be_is_refused(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="would lie among the pictures"):
        align_faces(photos, photos)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty holds no pictures"):
        align_faces(tmp_path / "empty", tmp_path / "faces")
