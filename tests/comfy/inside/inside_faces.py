"""RestorationFindFaces and the forms in which boxes come."""

from typing import Any

import pytest
import torch
from pfstorer.nodes import faces, train
from pfstorer.nodes.faces import RestorationFindFaces, boxes_of
from pfstorer.nodes.train import with_boxes

BOX = {"x": 10, "y": 20, "width": 30, "height": 40}


@pytest.mark.parametrize("given", [BOX, [BOX], [[BOX], [{**BOX, "x": 50}]]], ids=["one", "list", "batch"])
def test_boxes_come_in_every_form_of_the_host_s(given: Any) -> None:
    assert boxes_of(given) == [(10, 20, 40, 60)]


def test_faces_are_given_as_boxes_and_as_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faces, "find_faces", lambda picture, model: [(1.0, 2.0, 5.0, 8.0), (10, 2, 20, 9)])
    bboxes, masks = RestorationFindFaces.execute(torch.zeros(2, 30, 40, 3), "opencv").result
    assert boxes_of(bboxes) == [(1.0, 2.0, 5.0, 8.0), (10, 2, 20, 9)]
    assert masks.shape == (2, 30, 40)
    assert masks[0].sum() == 4 * 6
    monkeypatch.setattr(faces, "find_faces", lambda picture, model: [])
    with pytest.raises(ValueError, match="No face was found"):
        RestorationFindFaces.execute(torch.zeros(1, 30, 40, 3), "opencv")


def test_a_mask_belongs_to_the_photo_of_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "face_detectors", lambda: ["opencv"])
    photos = {"photo_0": torch.rand(2, 40, 40, 3), "photo_1": torch.rand(1, 40, 40, 3)}
    mask = torch.zeros(1, 40, 40)
    mask[0, 5:15, 20:30] = 1
    pictures, boxes = with_boxes(photos, {"face_1": mask})
    assert [tuple(picture.shape) for picture in pictures] == 3 * [(1, 3, 40, 40)]
    assert boxes == [None, None, (20, 5, 30, 15)]
    masks = torch.stack([mask[0], mask[0].roll(3, 1)])
    assert with_boxes(photos, {"face_0": masks})[1] == [(20, 5, 30, 15), (23, 5, 33, 15), None]
