"""What TrainIdentityAdapter makes of photos: lists, batches and masks of any sizes; and of names."""

from typing import Any

import pytest
import torch
from pfstorer.nodes.host import photos as photos_
from pfstorer.nodes.host.lists import single_value
from pfstorer.nodes.host.photos import gather_photos
from pfstorer.nodes.train import TrainIdentityAdapter
from pfstorer.pfstorer_core.imaging.faces import Face


def photo(height: int = 40, width: int = 40, count: int = 1) -> torch.Tensor:
    return torch.rand(count, height, width, 3, generator=torch.Generator().manual_seed(height))


def square(height: int, width: int, left: int, top: int, side: int) -> torch.Tensor:
    mask = torch.zeros(1, height, width)
    mask[0, top : top + side, left : left + side] = 1
    return mask


@pytest.fixture(autouse=True)
def found(monkeypatch: pytest.MonkeyPatch) -> dict[int, list[Any]]:
    """Boxes of faces by the height of the picture that they are found in."""
    boxes: dict[int, list[Any]] = {}

    def find(image: torch.Tensor, **_: Any) -> list[Face]:
        return [Face(box, torch.zeros(6, 2), 1.0) for box in boxes.get(image.shape[-2], [])]

    monkeypatch.setattr(photos_, "find_faces", find)
    return boxes


def test_the_node_takes_lists() -> None:
    assert TrainIdentityAdapter.INPUT_IS_LIST


def test_lists_batches_and_inputs_are_one_person() -> None:
    given = {"photo_0": [photo(40), photo(50, 60), photo(33, 20, count=2)], "photo_3": [photo(64)]}
    person = gather_photos(given, {})
    assert [tuple(p.shape) for p in person.photos] == [
        (1, 3, 40, 40), (1, 3, 50, 60), (1, 3, 33, 20), (1, 3, 33, 20), (1, 3, 64, 40)
    ]  # fmt: skip
    for several in (
        {"photo_0": [photo()] * 11},
        {"photo_0": [photo(count=6)], "photo_1": [photo(count=5)]},
    ):
        with pytest.raises(ValueError, match=r"Give 1 to 10 photos .* got 11"):
            gather_photos(several, {})


@pytest.mark.parametrize("size", [(40, 80), (8, 16), (160, 320), (20, 20)])
def test_a_mask_is_brought_to_its_photo_s_size(size: tuple[int, int]) -> None:
    height, width = size
    mask = torch.zeros(1, height, width)
    mask[0, height // 4 : height // 2, width // 2 : width * 3 // 4] = 1
    person = gather_photos({"photo_0": [photo(32)], "photo_1": [photo(40, 80)]}, {"face_1": [mask]})
    assert person.boxes == [None, (40, 10, 60, 20)]
    assert [note.split(":")[0] for note in person.notes] == ["Photo 1"]


def test_masks_go_by_number() -> None:
    given = {"photo_0": [photo(40), photo(50)], "photo_1": [photo(60)]}
    masks = [square(40, 40, 3, 5, 10), square(50, 40, 7, 9, 20)]
    boxes = gather_photos(given, {"face_0": masks, "face_1": [square(60, 40, 0, 0, 30)]}).boxes
    assert boxes == [(3, 5, 13, 15), (7, 9, 27, 29), (0, 0, 30, 30)]
    assert gather_photos(given, {"face_0": masks[:1]}).boxes == [(3, 5, 13, 15), (3, 6, 13, 19), None]
    as_batch = {"face_0": [torch.cat([masks[0], masks[0].roll(3, 2)])]}
    assert gather_photos(given, as_batch).boxes[:2] == [(3, 5, 13, 15), (6, 6, 16, 19)]
    with pytest.raises(ValueError, match="photo_0 holds 2 photos, and the masks for them are 3"):
        gather_photos(given, {"face_0": [*masks, masks[0]]})
    with pytest.raises(ValueError, match="face_2 has no photo: connect photo_2"):
        gather_photos(given, {"face_2": masks[:1]})


@pytest.mark.parametrize(
    "empty", [torch.zeros(1, 64, 64), torch.zeros(1, 40, 40), torch.full((1, 9, 9), 0.2)]
)
def test_an_empty_mask_is_said(empty: torch.Tensor) -> None:
    given = {"photo_0": [photo()], "photo_1": [photo(), photo()]}
    with pytest.raises(ValueError, match=r"face_1 \(its number 2\) is empty"):
        gather_photos(given, {"face_1": [square(40, 40, 1, 1, 9), empty]})


def test_no_face_and_several_are_said(found: dict[int, list[Any]]) -> None:
    found[50] = [(1.2, 2.0, 9.5, 9.0), (10, 10, 35, 33.5), (36, 1, 39, 4)]
    found[60] = [(5, 6, 25, 26)]
    person = gather_photos({"photo_0": [photo(40), photo(50), photo(60)]}, {})
    assert person.boxes == [None, (10, 10, 35, 34), (5, 6, 25, 26)]
    none, several = person.notes
    assert none.startswith("Photo 1: no face was found")
    assert several.startswith("Photo 2: 3 faces were found, and the largest is taken")


def test_grey_and_transparent_photos_are_taken_and_nan_is_not() -> None:
    person = gather_photos({"photo_0": [torch.rand(1, 40, 40, 1), torch.rand(1, 40, 40, 4)]}, {})
    assert [p.shape[1] for p in person.photos] == [3, 3]
    with pytest.raises(ValueError, match=r"photos.photo_0 holds values that are not numbers"):
        gather_photos({"photo_0": [torch.full((1, 40, 40, 3), torch.nan)]}, {})
    with pytest.raises(ValueError, match=r"faces.face_0 holds values that are not numbers"):
        gather_photos({"photo_0": [photo()]}, {"face_0": [torch.full((1, 40, 40), torch.nan)]})


def test_settings_are_one_for_all() -> None:
    model = object()
    assert single_value("model", [model, model]) is model
    assert single_value("steps", [3, 3, 3]) == 3
    with pytest.raises(ValueError, match="name got a list of 2 different values"):
        single_value("name", ["ada", "bob"])
