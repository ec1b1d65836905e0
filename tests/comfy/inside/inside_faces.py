"""RestorationFindFaces and the forms in which boxes come."""

from typing import Any

import pytest
import torch
from pfstorer.nodes import faces
from pfstorer.nodes.faces import RestorationFindFaces, boxes_of
from pfstorer.pfstorer_core.faces import Face

BOX = {"x": 10, "y": 20, "width": 30, "height": 40}


@pytest.mark.parametrize("given", [BOX, [BOX], [[BOX], [{**BOX, "x": 50}]]], ids=["one", "list", "batch"])
def test_boxes_come_in_every_form_of_the_host_s(given: Any) -> None:
    assert boxes_of(given) == [(10, 20, 40, 60)]


def test_faces_are_given_as_boxes_and_as_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [Face(box, torch.zeros(6, 2), 1.0) for box in [(1.0, 2.0, 5.0, 8.0), (10.0, 2.0, 20.0, 9.0)]]
    monkeypatch.setattr(faces, "find_faces", lambda picture, model: found)
    bboxes, masks = RestorationFindFaces.execute(torch.zeros(2, 30, 40, 3), "blazeface").result
    assert boxes_of(bboxes) == [(1.0, 2.0, 5.0, 8.0), (10, 2, 20, 9)]
    assert masks.shape == (2, 30, 40)
    assert masks[0].sum() == 4 * 6
    monkeypatch.setattr(faces, "find_faces", lambda picture, model: [])
    with pytest.raises(ValueError, match="No face was found"):
        RestorationFindFaces.execute(torch.zeros(1, 30, 40, 3), "blazeface")
