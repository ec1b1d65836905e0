"""The built-in face detector: the network's numbers, and faces of every size and orientation, once each."""

import math
from functools import cache

import numpy as np
import pytest
import torch
from skimage import data
from torch import Tensor

from lab.people import LANDMARKS, dead_leaves, draw_person, draw_shot, photograph
from pfstorer_core.imaging.canvas import resize
from pfstorer_core.imaging.faces import Face, face_finder, find_faces, largest_face
from pfstorer_core.imaging.faces.blazeface import WEIGHTS, load_blazeface
from pfstorer_core.imaging.faces.face import Box


def as_picture(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(pixels)).movedim(-1, 0).float() / 255


@cache
def drawn(seed: int) -> tuple[Tensor, Tensor]:
    """A drawn face [3, 128, 128] and its landmarks."""
    rng = np.random.default_rng(seed)
    shot = draw_shot(rng, yaw=0.1, pitch=0.0, roll=0.0)
    photo = photograph(draw_person(rng), shot, 128)
    return torch.from_numpy(photo.image).movedim(-1, 0), torch.from_numpy(photo.landmarks)


def group(side: int, size: tuple[int, int], count: int) -> tuple[Tensor, list[Tensor]]:
    """Drawn people, their pictures `side` pixels wide, and the middles of their eyes."""
    height, width = size
    picture = torch.full((3, height, width), 0.45)
    picture += 0.03 * torch.randn(picture.shape, generator=torch.Generator().manual_seed(side))
    places = []
    for n in range(count):
        face, _ = drawn(n % 4)
        left, top = (n % 3) * width // 3 + 7, (n // 3) * height // 3 + 9
        picture[:, top : top + side, left : left + side] = resize(face[None], (side, side))[0]
        places.append(torch.tensor([left, top]) + side / 2)
    return picture.clamp(0, 1), places


def holds(box: Box, place: Tensor) -> bool:
    x, y = place.tolist()
    return box[0] < x < box[2] and box[1] < y < box[3]


def test_the_network_says_what_mediapipe_s_does() -> None:
    """The numbers are TFLite's own, of the file that the weights come from."""
    y, x, c = np.meshgrid(np.arange(128), np.arange(128), np.arange(3), indexing="ij")
    seen = np.sin(0.003 * x * y / (c + 2) + 0.05 * x * (c + 1) - 0.04 * y).astype(np.float32)
    scores, places = load_blazeface()(torch.from_numpy(seen).movedim(-1, 0)[None])
    assert (scores.shape, places.shape) == ((1, 896), (1, 896, 16))
    some = scores[0, [0, 1, 137, 511, 512, 700, 895]].tolist()
    assert some == pytest.approx([-5.313, -4.457, -3.117, -3.693, -4.968, -3.791, -44.155], abs=2e-3)
    some = places[0, [137, 700]][:, [0, 1, 2, 3, 4, 15]].tolist()
    assert some[0] == pytest.approx([-1.334, 2.321, 42.103, 42.103, -5.41, 6.64], abs=2e-3)
    assert some[1] == pytest.approx([3.396, -0.469, 73.69, 73.677, -5.052, -12.554], abs=2e-3)


def test_the_weights_are_small_and_their_licence_lies_beside() -> None:
    assert WEIGHTS.stat().st_size < 1e6
    assert "Apache License" in WEIGHTS.with_suffix(".LICENSE.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("side", [70, 128, 300], ids=["small", "middle", "large"])
def test_everyone_in_a_group_is_found_once_from_left_to_right(side: int) -> None:
    picture, places = group(side, (960, 1000), 9)
    found = find_faces(picture)
    assert len(found) == 9
    assert all(sum(holds(face.box, place) for face in found) == 1 for place in places)
    lefts = [face.box[0] for face in found]
    assert lefts == sorted(lefts)


@pytest.mark.parametrize("turn", [1, 2, 3])
def test_faces_are_found_in_every_orientation(turn: int) -> None:
    picture, _ = group(110, (480, 620), 5)
    upright = [turned(face, turn, (480, 620)) for face in find_faces(picture)]
    found = find_faces(picture.rot90(turn, (1, 2)))
    assert len(found) == len(upright) == 5
    for face in found:
        same = min(upright, key=lambda other: (other.landmarks - face.landmarks).abs().max().item())
        assert (same.landmarks - face.landmarks).abs().max() < 5
        assert face.box == pytest.approx(same.box, abs=6)


def turned(face: Face, turn: int, size: tuple[int, int]) -> Face:
    """Where a face comes to lie when its picture is turned to the left."""
    height, width = size
    corners = torch.tensor(face.box).reshape(2, 2)
    marks = face.landmarks
    for _ in range(turn):
        corners, marks = (torch.stack([p[:, 1], width - p[:, 0]], 1) for p in (corners, marks))
        height, width = width, height
    low, high = corners.min(0).values.tolist(), corners.max(0).values.tolist()
    return Face((low[0], low[1], high[0], high[1]), marks, face.score)


@pytest.mark.parametrize("side", [40, 128, 900])
def test_a_face_that_fills_the_picture_is_found(side: int) -> None:
    face, marks = drawn(1)
    inner = face[:, int(marks[:, 1].min()) - 18 :, int(marks[:, 0].min()) - 8 : int(marks[:, 0].max()) + 8]
    [found] = find_faces(
        resize(inner[None], (round(side * inner.shape[1] / inner.shape[2]), side))[0].clamp(0, 1)
    )
    assert found.box[2] - found.box[0] > 0.6 * side


def test_landmarks_and_box_lie_where_the_face_does() -> None:
    for seed in range(4):
        face, marks = drawn(seed)
        [found] = find_faces(face)
        names = dict(zip(LANDMARKS, marks, strict=True))
        assert all(holds(found.box, place) for place in found.landmarks[:4])
        box = found.box
        assert found.landmarks[0, 0] < found.landmarks[1, 0], "the person's right eye is on the left"
        assert holds(box, marks.mean(0)), names


def test_a_photograph_s_face_is_found_at_any_size() -> None:
    photo = as_picture(data.astronaut())
    [whole] = find_faces(photo)
    assert whole.box == pytest.approx((172, 58, 275, 181), abs=12)
    assert whole.landmarks.shape == (6, 2)
    for side in (140, 1500):
        [found] = find_faces(resize(photo[None], (side, side))[0].clamp(0, 1))
        assert [v * 512 / side for v in found.box] == pytest.approx(whole.box, abs=8)


def test_nobody_is_seen_where_nobody_is() -> None:
    find = face_finder()
    for name in ("coffee", "chelsea", "brick", "gravel", "coins", "clock", "page"):
        pixels = np.atleast_3d(getattr(data, name)())
        assert find(as_picture(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))) == [], name
    for seed in range(3):
        leaves = dead_leaves(np.random.default_rng(seed), 400)
        assert find(torch.from_numpy(leaves).movedim(-1, 0).float()) == []
    assert find(torch.zeros(3, 1, 1)) == find(torch.rand(3, 5, 900)) == []
    assert largest_face(torch.zeros(3, 64, 64)) is None


def test_sizes_can_be_limited() -> None:
    picture, _ = group(80, (700, 700), 3)
    big = resize(drawn(3)[0][None], (320, 320))[0]
    picture[:, 300:620, 100:420] = big
    heights = sorted(face.box[3] - face.box[1] for face in find_faces(picture))
    assert len(heights) == 4
    between = math.sqrt(heights[2] * heights[3])
    assert len(find_faces(picture, smallest=between)) == 1
    assert len(find_faces(picture, largest=between)) == 3
    assert find_faces(picture, smallest=600) == []
    with pytest.raises(ValueError, match="make the largest size larger"):
        find_faces(picture, smallest=50, largest=20)
