"""Aligned faces: where FFHQ has them, whatever their pictures are, and back without a trace elsewhere."""

import math
from functools import cache
from typing import Any

import pytest
import torch
from skimage import data
from torch import Tensor

from pfstorer_core.imaging.alignment import (  # fmt: skip
    FFHQ,
    STILL_PIXELS,
    Alignment,
    aligned_face,
    alignment_of,
    paste_aligned,
    similarity,
    steady,
)
from pfstorer_core.imaging.faces import Face, face_in, find_faces, paste
from pfstorer_core.imaging.faces.windows import Window
from pfstorer_core.imaging.resizing import resize

SIZE = (240, 320)
TEMPLATE, USED = FFHQ.points, [*FFHQ.used]


def face_at(x: float, y: float, scale: float, angle: float = 0.0) -> Tensor:
    """Landmarks of FFHQ's mean face with its middle at (x, y), so many times as large, turned by degrees."""
    c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    marks = torch.full((6, 2), math.nan)
    marks[USED] = (torch.tensor(TEMPLATE) - 256) * scale @ torch.tensor([[c, s], [-s, c]])
    return marks + torch.tensor([x, y])


def noise(size: tuple[int, int] = SIZE, seed: int = 0) -> Tensor:
    """With values out of [0, 1], and zeros that have a sign."""
    values = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(seed)) * 1.5 - 0.25
    return values.masked_fill(values.abs() < 0.02, -0.0)


def smooth(size: tuple[int, int] = SIZE) -> Tensor:
    y, x = torch.meshgrid(torch.arange(size[0]) / size[0], torch.arange(size[1]) / size[1], indexing="ij")
    return torch.stack([x, y, 0.5 + 0.5 * torch.sin(9 * x + 5 * y)])[None]


def same_bits(a: Tensor, b: Tensor) -> Tensor:
    return (a.view(torch.int32) == b.view(torch.int32)).all(1)


def points(alignment: Alignment, marks: Tensor) -> Tensor:
    matrix = torch.tensor(alignment.matrix)
    return marks @ matrix[:, :2].T + matrix[:, 2]


@cache
def portrait() -> tuple[Tensor, Face]:
    photo = torch.from_numpy(data.astronaut().copy()).movedim(-1, 0)[:, :260, 90:350].float() / 255
    [face] = find_faces(photo)
    return photo[None], face


def test_the_template_is_that_of_all_who_align_as_ffhq() -> None:
    """facexlib's five points, as OpenCV counts: the middle of a pixel at 0."""
    eyes = torch.tensor([[192.98138, 239.94708], [318.90277, 240.1936]])
    mouth = torch.tensor([[201.26117, 371.41043], [313.08905, 371.15118]]).mean(0, keepdim=True)
    expected = torch.cat([eyes, mouth]) + 0.5
    torch.testing.assert_close(torch.tensor(TEMPLATE), expected, atol=0.02, rtol=0)


@pytest.mark.parametrize(
    ("scale", "angle"), [(0.2, 0), (0.2, 45), (0.45, 15), (0.45, 180), (2.0, 90), (2.0, -30)]
)
def test_landmarks_come_to_lie_where_ffhq_has_them(scale: float, angle: float) -> None:
    """In the pixels: a spot at each landmark, of faces that are smaller and larger than the result."""
    side = round(600 * scale)
    marks = face_at(0.55 * side, 0.45 * side, scale, angle)
    y, x = torch.meshgrid(torch.arange(side) + 0.5, torch.arange(side) + 0.5, indexing="ij")
    apart = ((x - mark[0]) ** 2 + (y - mark[1]) ** 2 for mark in marks[USED])
    spots = torch.stack([torch.exp(-squares / (2 * (12 * scale) ** 2)) for squares in apart])
    face, alignment = aligned_face(spots[None], marks)
    assert face.shape == (1, 3, 512, 512)
    middles = torch.arange(512) + 0.5
    for pixels, place in zip((face[0] - 0.5).clamp(min=0), TEMPLATE, strict=True):
        found = pixels.sum(0) @ middles / pixels.sum(), pixels.sum(1) @ middles / pixels.sum()
        assert [float(value) for value in found] == pytest.approx(place, abs=0.35)
    torch.testing.assert_close(points(alignment, marks[USED]), torch.tensor(TEMPLATE), atol=0.01, rtol=0)


def test_the_size_is_what_is_asked_for() -> None:
    marks = face_at(160, 120, 0.3, 20)
    large, _ = aligned_face(smooth(), marks, 256)
    small, alignment = aligned_face(smooth(), marks, 128)
    assert (large.shape[-1], small.shape[-1], alignment.side) == (256, 128, 128)
    assert (resize(large, (128, 128)) - small).abs().max() < 0.02


def test_the_similarity_is_the_best_and_never_mirrors() -> None:
    marks = face_at(100, 80, 0.3, 10)
    marks[0] += torch.tensor([6.0, -3.0])
    best = alignment_of(marks, SIZE)
    (a, b, c), (d, e, f) = best.matrix
    assert (a, b) == pytest.approx((e, -d))

    def error(matrix: Tensor) -> float:
        return float((marks[USED] @ matrix[:, :2].T + matrix[:, 2] - torch.tensor(TEMPLATE)).square().sum())

    least = error(torch.tensor(best.matrix))
    for da, dd, dc, df in ((0.01, 0, 0, 0), (0, 0.01, 0, 0), (0, 0, 1.0, 0), (0, 0, 0, 1.0)):
        for sign in (1, -1):
            other = torch.tensor([[a + sign * da, b - sign * dd, c + sign * dc],
                                  [d + sign * dd, e + sign * da, f + sign * df]])  # fmt: skip
            assert error(other) > least
    mirrored = marks.clone()
    mirrored[:, 0] = 200 - mirrored[:, 0]
    (a, b, _), (d, e, _) = alignment_of(mirrored, SIZE).matrix
    assert a * e - b * d > 0


def test_a_turned_head_is_not_turned_further_by_its_nose() -> None:
    marks = face_at(100, 80, 0.3)
    upright = alignment_of(marks, SIZE)
    marks[2] = torch.tensor([150.0, 90.0])
    assert alignment_of(marks, SIZE) == upright


@pytest.mark.parametrize(
    "wrong", [torch.full((6, 2), math.nan), torch.ones(6, 2), face_at(9, 9, 1.0) * math.inf]
)
def test_landmarks_that_tell_nothing_are_refused(wrong: Tensor) -> None:
    with pytest.raises(ValueError, match="Eyes and mouth of the face are unknown"):
        alignment_of(wrong, SIZE)


@pytest.mark.parametrize("angle", [0, 33])
@pytest.mark.parametrize("scale", [1.3, 2.0, 2.7, 9.0])
def test_nothing_aliases_where_a_face_is_reduced(scale: float, angle: float) -> None:
    """Stripes that are too fine for the result are grey in it, and coarse ones keep their strength; in the
    picture, too, where the restored face is the larger one."""
    side = round(512 * scale)
    marks = face_at(side / 2, side / 2, scale, angle)
    x = torch.arange(side) + 0.5

    def stripes(length: float) -> Tensor:
        return (0.5 + 0.4 * torch.sin(2 * math.pi * x / length)).expand(1, 3, side, -1)

    inner = (..., slice(100, 412), slice(100, 412))
    fine, _ = aligned_face(stripes(2.2 if scale < 2 else 1.1 * scale), marks)
    assert fine[inner].std() < (0.16 if scale < 2 else 0.06)
    coarse, _ = aligned_face(stripes(8 * scale), marks)
    assert coarse[inner].std() == pytest.approx(0.4 / math.sqrt(2), rel=0.08)

    small = alignment_of(face_at(32, 32, 1 / scale / 8, angle), (64, 64))
    columns = torch.arange(512) + 0.5
    face = (0.5 + 0.4 * torch.sin(2 * math.pi * columns / (1.1 * 8 * scale))).expand(1, 3, 512, -1)
    pasted = paste_aligned(torch.full((1, 3, 64, 64), 0.5), face, small)
    assert (pasted - 0.5).abs().max() < 0.1


def test_what_is_reduced_first_stays_in_its_place() -> None:
    """A picture that is too low to be reduced by a round factor."""
    ramp = ((torch.arange(30) + 0.5) / 30)[:, None].expand(1, 3, 30, 400)
    face, _ = aligned_face(ramp, face_at(200, 15, 4.9))
    rows = torch.arange(254, 258)
    expected = (15 + (rows + 0.5 - 256) * 4.9) / 30
    torch.testing.assert_close(face[0, 0, rows, 256], expected, atol=0.01, rtol=0)
    far, _ = aligned_face(ramp[..., :3, :], face_at(200, 15, 900.0))
    assert far.isfinite().all(), "landmarks may be wrong, too"


@pytest.mark.parametrize(
    ("scale", "angle"), [(0.3, 0), (0.3, 45), (0.3, 180), (0.6, 15), (0.6, 90), (1.6, -30)]
)
def test_a_face_that_was_not_changed_goes_back_where_it_was(scale: float, angle: float) -> None:
    size = (round(700 * scale), round(600 * scale))
    image, marks = smooth(size), face_at(300 * scale, 350 * scale, scale, angle)
    face, alignment = aligned_face(image, marks)
    back = paste_aligned(image, face, alignment)
    assert (back - image).abs().max() < 0.01
    dark = paste_aligned(image, torch.zeros_like(face), alignment)
    head = points(alignment, torch.tensor([[300 * scale, 350 * scale]]))[0]
    assert head.tolist() == pytest.approx([256, 256], abs=0.1)
    assert dark[..., round(350 * scale), round(300 * scale)].max() == 0


PLACES = {
    "whole": (160.0, 120.0, 0.3, 25.0),
    "at the left end": (5.0, 120.0, 0.4, 0.0),
    "at the corner": (315.0, 236.0, 0.5, -40.0),
    "larger than the picture": (160.0, 120.0, 1.5, 10.0),
    "tiny": (100.0, 80.0, 0.04, 0.0),
}


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
@pytest.mark.parametrize("feather", [0.0, 0.1, 0.5])
def test_outside_of_the_head_every_byte_stays(place: tuple[float, ...], feather: float) -> None:
    image, marks = noise(), face_at(*place)
    face, alignment = aligned_face(image, marks)
    pasted = paste_aligned(image, 1 - face, alignment, feather)
    y, x = torch.meshgrid(torch.arange(SIZE[0]) + 0.5, torch.arange(SIZE[1]) + 0.5, indexing="ij")
    u, v = points(alignment, torch.stack([x, y], -1)).unbind(-1)
    distance = ((u - 256) / 205) ** 2 + ((v - 262) / 245) ** 2
    same = same_bits(pasted, image)[0]
    assert same[distance > 1].all()
    inner = distance < max(0.0, 1 - feather) ** 2 * 0.25
    assert not same[inner].any()
    as_bytes = [(p.clamp(0, 1) * 255).round().byte() for p in (pasted, image)]
    assert torch.equal(as_bytes[0][..., distance > 1], as_bytes[1][..., distance > 1])


def aligned_or_not(image: Tensor, other: Tensor, kind: str, **how: Any) -> Tensor:
    if kind == "aligned":
        return paste_aligned(image, other, alignment_of(face_at(160, 120, 0.3), SIZE), **how)
    return paste(image, other, Window(100, 60, 200, 160, SIZE), **how)


@pytest.mark.parametrize("kind", ["aligned", "window"])
def test_strength_leads_from_the_picture_to_the_face(kind: str) -> None:
    image, other = noise(), torch.rand(1, 3, 64, 64)
    none, half, whole = (aligned_or_not(image, other, kind, strength=s) for s in (0.0, 0.5, 1.0))
    assert same_bits(none, image).all()
    torch.testing.assert_close(half, (image + whole) / 2)
    assert (whole != image).any()


@pytest.mark.parametrize("kind", ["aligned", "window"])
@pytest.mark.parametrize("size", [SIZE, (50, 70)], ids=["of the picture's size", "smaller"])
def test_what_is_to_be_kept_stays_bit_for_bit(kind: str, size: tuple[int, int]) -> None:
    image, other = noise(), torch.rand(1, 3, 64, 64)
    keep = torch.zeros(1, 1, *size)
    keep[..., : size[0] // 2, :] = 1
    pasted, free = (aligned_or_not(image, other, kind, keep=mask) for mask in (keep, None))
    margin = 0 if size == SIZE else 10
    assert same_bits(pasted, image)[:, : SIZE[0] // 2 - margin].all()
    below = slice(SIZE[0] // 2 + margin, None)
    assert torch.equal(pasted[..., below, :], free[..., below, :])
    assert (free[..., : SIZE[0] // 2, :] != image[..., : SIZE[0] // 2, :]).any()
    assert same_bits(aligned_or_not(image, other, kind, keep=torch.ones_like(keep)), image).all()


def test_masks_of_a_batch_are_its_pictures() -> None:
    images, keep = noise().expand(2, -1, -1, -1), torch.zeros(2, 1, *SIZE)
    keep[1] = 1
    place = alignment_of(face_at(160, 120, 0.3), SIZE)
    pasted = paste_aligned(images, torch.rand(1, 3, 64, 64).expand(2, -1, -1, -1), place, keep=keep)
    assert same_bits(pasted, images).flatten(1).all(1).tolist() == [False, True]


def test_the_border_is_soft() -> None:
    place = alignment_of(face_at(256, 256, 1.0), (512, 512))
    row = paste_aligned(torch.zeros(1, 3, 512, 512), torch.ones(1, 3, 512, 512), place)[0, 0, 262]
    assert (row[256:].diff() <= 0).all()
    assert row[256] == 1
    assert (row > 0).sum() == pytest.approx(410, abs=4)
    assert (row == 1).sum() == pytest.approx(410 - 2 * 51, abs=4)
    assert row.diff().abs().max() < 0.04
    hard = paste_aligned(torch.zeros(1, 3, 512, 512), torch.ones(1, 3, 512, 512), place, 0.0)[0, 0]
    assert ((hard > 0.05) & (hard < 0.95)).sum() > 500, "without a feather it has no stairs"


@pytest.mark.parametrize("side", [64, 1024])
def test_what_is_put_back_does_not_depend_on_the_aligned_size(side: int) -> None:
    marks, white = face_at(160, 120, 0.3), torch.ones(1, 3, 8, 8)
    expected, found = (
        paste_aligned(torch.zeros(1, 3, *SIZE), white, alignment_of(marks, SIZE, n)) for n in (512, side)
    )
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_a_face_that_was_stretched_is_brought_back_to_its_shape() -> None:
    image, marks = smooth(), face_at(160, 120, 0.3, 20)
    face, alignment = aligned_face(image, marks)
    pasted = paste_aligned(image, resize(face, (300, 700)), alignment)
    assert (pasted - image).abs().max() < 0.02


def test_faces_go_back_into_enlarged_copies_at_any_size() -> None:
    image, marks = smooth(), face_at(160, 120, 0.3, 30)
    _, alignment = aligned_face(image, marks)
    for side in (128, 1024):
        face = torch.zeros(1, 3, side, side)
        small, large = (paste_aligned(p, face, alignment) for p in (image, resize(image, (480, 640))))
        assert (resize(large, SIZE) - small).abs().max() < 0.06
    dark = paste_aligned(image, torch.zeros(1, 3, 40, 90), alignment)
    assert (dark - paste_aligned(image, torch.zeros(1, 3, 512, 512), alignment)).abs().max() == 0


def test_where_the_picture_ends_it_is_mirrored_and_blurred() -> None:
    image = torch.zeros(1, 3, 512, 512)
    image[..., ::16, :] = 1
    marks = face_at(106, 256, 1.0)
    face, _ = aligned_face(image, marks)
    lines, beyond = face[..., 200:300, 151:], face[..., 200:300, :100]
    assert (lines.amax(-2) - lines.amin(-2)).min() > 0.9, "what is there is sharp to its end"
    assert (beyond.amax(-2) - beyond.amin(-2)).max() < 0.1
    bright = torch.zeros(1, 3, 512, 512)
    bright[..., 60:120] = 1
    face, _ = aligned_face(bright, face_at(106, 256, 1.0))
    assert face[..., 256, 150 - 90].min() > 0.9
    assert face[..., 256, 150 - 20].max() < 0.1
    half = torch.cat([torch.zeros(1, 3, 512, 256), torch.ones(1, 3, 512, 256)], -1)
    face, _ = aligned_face(half, face_at(106, 256, 1.0))
    assert face[..., 256, 20].max() < 0.05, "the mirror shows what lies at the end"
    face, _ = aligned_face(1 - half, face_at(106, 256, 1.0))
    assert face[..., 256, 20].min() > 0.95


@pytest.mark.parametrize("distance", [1.0, 0.75], ids=["touching", "overlapping"])
@pytest.mark.parametrize("first", [0, 1])
def test_neighbours_keep_their_own_faces(distance: float, first: int) -> None:
    """Cheek to cheek (half a square apart) and nearer, in either order: eyes, nose and mouth of each are the
    restoration of their own."""
    image = torch.full((1, 3, 300, 500), 0.5)
    scale = 0.5
    marks = [face_at(250 + side * distance * 64, 150, scale, 8 * side) for side in (-1, 1)]
    colours = [torch.zeros(1, 3, 512, 512), torch.ones(1, 3, 512, 512)]
    result = image
    for n in (first, 1 - first):
        result = paste_aligned(result, colours[n], alignment_of(marks[n], (300, 500)))
    last = 1 - first
    for x, y in marks[last][USED].tolist():
        assert (result[..., round(y), round(x)] - last).abs().max() < 1e-3
    outer = marks[first][[0 if first == 0 else 1]][0]
    assert (result[..., round(float(outer[1])), round(float(outer[0]))] - first).abs().max() < 1e-3
    if distance == 1:
        for x, y in marks[first][USED].tolist():
            assert (result[..., round(y), round(x)] - first).abs().max() < 0.2


@pytest.mark.parametrize("angle", [0, 1, 2, 3])
def test_a_photograph_s_face_is_found_and_aligned(angle: int) -> None:
    """Turned by quarters: the aligned face is the same, and a detector finds it on the template."""
    photo, upright = portrait()
    turned = photo.rot90(angle, (-2, -1))
    [face] = find_faces(turned[0])
    pixels, _ = aligned_face(turned, face.landmarks)
    expected, _ = aligned_face(photo, upright.landmarks)
    assert (pixels - expected).abs().mean() < 0.03
    [found] = find_faces(pixels[0])
    assert (found.landmarks[USED] - torch.tensor(TEMPLATE)).norm(dim=1).max() < 16


@pytest.mark.parametrize("loose", [0.0, 0.5])
def test_the_face_in_a_box_is_found(loose: float) -> None:
    photo, face = portrait()
    wide = torch.cat([photo[0], torch.full((3, 260, 300), 0.5)], 2)
    left, top, right, bottom = face.box
    more = loose * (right - left)
    box = max(0.0, left - more), max(0.0, top - more), right + more, bottom + more
    found = face_in(box, wide)
    assert found is not None
    assert (found.landmarks - face.landmarks)[:4].norm(dim=1).max() < 4
    assert found.box == pytest.approx(face.box, abs=6)
    assert face_in((400.0, 100.0, 500.0, 220.0), wide) is None
    shifted = face_in((box[0] + 90, box[1], box[2] + 90, box[3]), wide)
    assert shifted is None or loose, "one beside the box is not taken"


def film(places: list[tuple[float, ...] | None], tremble: float) -> list[Tensor | None]:
    generator = torch.Generator().manual_seed(3)
    return [
        None if place is None else face_at(*place) + tremble * torch.randn(6, 2, generator=generator)
        for place in places
    ]


def corners(landmarks: list[Tensor | None]) -> Tensor:
    """Where a fixed square of the picture comes to lie, in each frame."""
    square = torch.tensor([[100.0, 60.0], [220.0, 60.0], [100.0, 180.0], [220.0, 180.0]])
    return torch.stack([points(alignment_of(m, SIZE), square) for m in landmarks if m is not None])


def test_a_still_face_is_aligned_without_trembling() -> None:
    trembling = film([(160.0, 120.0, 0.3, 10.0)] * 24, 0.5)
    before, after = (
        corners(marks).diff(dim=0).norm(dim=-1).mean() for marks in (trembling, steady(trembling))
    )
    assert before > 2
    assert after < before / 10
    still = film([(160.0, 120.0, 0.3, 10.0)] * 5, 0.0)
    torch.testing.assert_close(corners(steady(still)), corners(still), atol=1e-3, rtol=0)


def test_a_face_that_moves_is_not_held_back() -> None:
    moving = film([(100.0 + 3 * n, 120.0, 0.3, 2.0 * n) for n in range(20)], 0.0)
    assert (corners(steady(moving)) - corners(moving)).norm(dim=-1).max() < STILL_PIXELS
    apart = film([(60.0 + 30 * n, 80.0 + 20 * n, 0.2 + 0.03 * n, 15.0 * n) for n in range(6)], 0.0)
    torch.testing.assert_close(corners(steady(apart)), corners(apart), atol=0.01, rtol=0)


def test_frames_without_the_face_are_left_out_of_it() -> None:
    gaps = film([None, (160.0, 120.0, 0.3, 0.0), None, (160.0, 120.0, 0.3, 0.0), None], 0.3)
    found = steady(gaps)
    assert [marks is None for marks in found] == [True, False, True, False, True]
    assert steady([None, None]) == [None, None]
    assert steady([]) == []


def test_similarity_finds_turn_scale_and_shift() -> None:
    spots = torch.rand(1, 5, 2)
    z = torch.complex(spots[..., 0], spots[..., 1])
    a, b = torch.tensor(2.0 - 1.5j), torch.tensor(-3.0 + 0.5j)
    w = a * z + b
    found_a, found_b = similarity(spots, torch.stack([w.real, w.imag], -1))
    torch.testing.assert_close(found_a, a[None])
    torch.testing.assert_close(found_b, b[None], atol=1e-5, rtol=0)
