"""Faces in larger pictures: found, cut out, and put back without a trace elsewhere."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pfstorer_core.imaging.faces import (  # fmt: skip
    Box,
    Window,
    box_of_mask,
    cut,
    face_windows,
    find_faces,
    mask_of_others,
    masks_of_boxes,
    paste,
)
from pfstorer_core.imaging.faces.yunet import DETECTION_SIDE

from .yunet import FACE, write_yunet

SIZE = (60, 90)


def face_window(box: Box, context: float = 0.6) -> Window:
    [window] = face_windows([box], SIZE, context)
    assert window is not None
    return window


def picture(size: tuple[int, int] = SIZE, seed: int = 0) -> torch.Tensor:
    return torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(seed))


def opencv(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that brings nothing along."""
    fake = SimpleNamespace(__version__="5", error=RuntimeError)
    monkeypatch.setitem(sys.modules, "cv2", fake)


@pytest.fixture(params=[640, "side"], ids=["fixed side", "any side"])
def yunet(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "yunet.onnx"
    write_yunet(path, request.param)
    return path


@pytest.mark.parametrize("scale", [1, 2], ids=["as it is", "too large to be looked at as it is"])
def test_opencv_finds_faces_from_left_to_right_inside_the_picture(yunet: Path, scale: int) -> None:
    height, width = 632, DETECTION_SIDE
    image = torch.zeros(3, height, width)
    faces = [(32, 96), (704, 32), (1216, 608)]  # the last one ends where the picture does
    for x, y in faces:
        image[0, y : y + FACE, x : x + FACE] = 1
    large = image.repeat_interleave(scale, 1).repeat_interleave(scale, 2)
    found = find_faces(large, yunet)
    boxes = [tuple(round(v / scale) for v in face.box) for face in found]
    assert boxes == [(x, y, x + FACE, min(y + FACE, height)) for x, y in faces]
    assert [face.landmarks.shape for face in found] == 3 * [(6, 2)]
    assert all(face.score > 0.6 and face.landmarks[:4].isfinite().all() for face in found)
    assert find_faces(large, yunet, smallest=2 * FACE * scale) == []


def test_without_opencv_faces_are_found_and_yunet_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    opencv(monkeypatch)
    with pytest.raises(ValueError, match=r"cannot find faces with wrong\.onnx"):
        find_faces(torch.zeros(3, *SIZE), "models/wrong.onnx")
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ImportError, match=r"yunet\.onnx: OpenCV is not installed\. pip install"):
        find_faces(torch.zeros(3, *SIZE), "models/yunet.onnx")
    assert find_faces(torch.zeros(3, *SIZE)) == []


def test_masks_and_boxes_are_each_other_s() -> None:
    boxes = [(3.0, 4.0, 20.0, 30.0), (50.0, 0.0, 90.0, 60.0)]
    masks = masks_of_boxes(boxes, SIZE)
    assert [box_of_mask(mask) for mask in masks] == boxes
    assert box_of_mask(torch.zeros(SIZE)) is None


@given(st.floats(-20, 100), st.floats(-20, 70), st.floats(0.5, 120), st.floats(0.5, 80), st.floats(0, 3))
def test_windows_are_square_and_inside_as_far_as_they_can(
    left: float, top: float, width: float, height: float, context: float
) -> None:
    box = (left, top, left + width, top + height)
    if left >= SIZE[1] or top >= SIZE[0] or box[2] <= 0 or box[3] <= 0:
        with pytest.raises(ValueError, match="does not lie in the picture"):
            face_window(box, context)
        return
    window = face_window(box, context)
    assert 0 <= window.left < window.right <= SIZE[1]
    assert 0 <= window.top < window.bottom <= SIZE[0]
    wide, tall = window.right - window.left, window.bottom - window.top
    assert wide == tall or min(wide, tall) == min(SIZE)


@pytest.mark.parametrize("feather", [0.0, 0.2])
def test_only_the_window_changes(feather: float) -> None:
    image, window = picture(), face_window((30, 20, 50, 44))
    changed = paste(image, torch.zeros_like(cut(image, window)), window, feather) != image
    inside = torch.zeros(SIZE, dtype=torch.bool)
    inside[window.top : window.bottom, window.left : window.right] = True
    assert not changed[..., ~inside].any()
    assert changed[..., (window.top + window.bottom) // 2, (window.left + window.right) // 2].all()
    assert torch.equal(paste(image, cut(image, window), window, 0.0), image)


def test_the_border_is_soft_but_not_where_the_picture_ends() -> None:
    image = torch.zeros(1, 3, *SIZE)
    window = face_window((0, 0, 30, 30), context=0)
    pasted = paste(image, torch.ones(1, 3, 12, 12), window, 0.2)[0, 0]
    assert pasted[0, 0] == 1
    assert pasted[15, 15] == 1
    row = pasted[15, 20:32]
    assert (row.diff() <= 0).all()
    assert 0 < row[9] < 0.1
    assert row[10] == 0


def test_faces_go_back_into_enlarged_copies() -> None:
    window = face_window((30, 20, 50, 40), context=0)
    large = paste(torch.zeros(1, 3, 120, 180), torch.ones(1, 3, 80, 80), window, 0.0)
    assert large.sum() == 3 * 40 * 40
    assert large[..., 40:80, 60:100].min() == 1


def test_other_faces_are_kept_beside_one_that_is_put_back() -> None:
    own, others = (10.0, 10.0, 20.0, 20.0), [(18.0, 12.0, 30.0, 22.0), (-4.0, 30.0, 3.0, 36.0)]
    mask = mask_of_others(own, others, (40, 50), 3)[0, 0]
    assert not mask[10:20, 10:20].any(), "its own face goes on"
    assert (mask[12:22, 21:30] == 1).all()
    assert (mask[30:36, :3] == 1).all()
    assert 0 < mask[33, 4] < 1, "softly"
    assert not mask[:5].any()
    assert not mask[33, 7:].any()
    picture, face = torch.zeros(1, 3, 40, 50), torch.ones(1, 3, 8, 8)
    window = Window(5, 5, 25, 25, (40, 50))
    kept = paste(picture, face, window, 0, keep=mask[None, None])
    assert not kept[0, 0, 12:22, 21:30].any()
    assert (kept[0, 0, 10:20, 10:18] > 0.999).all()
