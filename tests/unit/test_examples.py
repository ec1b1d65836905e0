"""The pictures that come along to try workflows with: whom they show, and that bad ones are bad enough."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from harness import ROOT
from pfstorer_core.imaging.faces import find_faces
from pfstorer_core.imaging.pictures import read_picture
from pfstorer_core.imaging.resizing import resize
from pfstorer_core.recognition import Recognizer, load_recognizer

FOLDER = ROOT / "assets" / "examples"
PEOPLE = ("P007", "P008", "P004")


@pytest.fixture(scope="module")
def recognizer() -> Recognizer:
    return load_recognizer(ROOT / "assets" / "face_recognizers" / "dlib_resnet29.safetensors")


def photos_of(person: str) -> Tensor:
    return torch.cat([read_picture(FOLDER / f"{person}_photo_{n}.jpg") for n in range(1, 6)])


def embedded(recognizer: Recognizer, picture: Tensor) -> Tensor:
    """The faces in a picture [1, 3, H, W], from left to right, as unit vectors."""
    places = torch.stack([face.landmarks for face in find_faces(picture[0])])
    return F.normalize(recognizer.embed((2 * picture - 1).expand(len(places), -1, -1, -1), places))


def test_they_are_small_and_say_whose_they_are() -> None:
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= 2e6
    said = (FOLDER / "LICENSE.txt").read_text(encoding="utf-8")
    assert "openpeople 0.1.2" in said
    assert "MIT License" in said


def test_a_person_is_the_same_in_all_pictures_of_them(recognizer: Recognizer) -> None:
    people = torch.stack(
        [torch.cat([embedded(recognizer, one[None]) for one in photos_of(person)]) for person in PEOPLE]
    )
    assert people.shape[:2] == (len(PEOPLE), 5), "one face a photo"
    means = F.normalize(people.mean(1))
    for number, person in enumerate(PEOPLE):
        shown = torch.cat([people[number], embedded(recognizer, read_picture(FOLDER / f"{person}_true.jpg"))])
        assert ((shown @ means.T).argmax(1) == number).all(), person
    for name in ("group_true.jpg", "group_bad.png"):
        group = embedded(recognizer, read_picture(FOLDER / name))
        assert (group @ means.T).argmax(1).tolist() == [0, 1, 2], (
            "each is found, and knows whose adapter it wants"
        )


@pytest.mark.parametrize("name", [*PEOPLE, "group"])
def test_a_bad_picture_is_bad_and_of_the_true_one(name: str) -> None:
    bad, true = read_picture(FOLDER / f"{name}_bad.png"), read_picture(FOLDER / f"{name}_true.jpg")
    assert [2 * side for side in bad.shape[-2:]] == list(true.shape[-2:])
    error = (resize(bad, (true.shape[-2], true.shape[-1])) - true).square().mean()
    assert 19 < -10 * error.log10() < 24, "of the kind that the paper restores"


@pytest.mark.parametrize("person", PEOPLE)
def test_what_is_restored_is_none_of_the_photos(person: str) -> None:
    """Not even from one at another size: a photo resized differs from itself by far less."""
    true, photos = read_picture(FOLDER / f"{person}_true.jpg"), resize(photos_of(person), (256, 256))
    assert (photos - true).square().mean((1, 2, 3)).min() > 0.003
