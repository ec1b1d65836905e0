"""Find, crop and paste faces: boxes and masks in every form, by picture, and what is refused."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pfstorer.nodes import faces
from pfstorer.nodes.faces import RestorationCropFace, RestorationFindFaces, RestorationPasteFace
from pfstorer.nodes.host import face_crops
from pfstorer.nodes.host.face_crops import FaceCrop
from pfstorer.nodes.host.faces import boxes_of_masks, faces_of, host_boxes
from pfstorer.nodes.host.folders import register_model_folders
from pfstorer.pfstorer_core.checkpoints.header import RestorerHeader
from pfstorer.pfstorer_core.imaging.alignment import Alignment, alignment_of
from pfstorer.pfstorer_core.imaging.faces import Face, Window
from skimage import data

BOX = {"x": 10, "y": 20, "width": 30, "height": 40}
OTHER = {**BOX, "x": 50}
MOVES = [(8, 8), (40, 20), None, (60, 44)]
"""Where the face of 16 pixels is in each frame of a film."""


def film(places: list[Any] = MOVES, channels: int = 3) -> torch.Tensor:
    """Frames [B, 64, 96, C] in which a red square of 16 pixels moves."""
    frames = torch.full((len(places), 64, 96, channels), 0.25)
    for frame, place in zip(frames, places, strict=True):
        if place:
            x, y = place
            frame[y : y + 16, x : x + 16, :3] = torch.tensor([1.0, 0.0, 0.0])
    return frames


def red(picture: torch.Tensor) -> list[Face]:
    rows, columns = (picture[0] > 0.9).nonzero().unbind(1)
    if not len(rows):
        return []
    box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    left, top, right, bottom = (float(value) for value in box)
    return [Face((left, top, right, bottom), torch.zeros(6, 2), 1.0)]


@pytest.fixture
def sees_red(monkeypatch: pytest.MonkeyPatch) -> None:
    def finder(*_: Any) -> Callable[[torch.Tensor], list[Face]]:
        return red

    monkeypatch.setattr(faces, "face_finder", finder)


def boxes_of(given: Any, frames: int) -> list[list[Any]]:
    return [[face.box for face in faces] for faces in faces_of(given, frames)]


def mask_of(images: torch.Tensor, size: tuple[int, int] = (64, 96)) -> torch.Tensor:
    masks = ((images[..., 0] > 0.9) & (images[..., 1] < 0.1)).float()
    return torch.nn.functional.interpolate(masks[:, None], size, mode="nearest-exact")[:, 0]


FIRST, SECOND = (10, 20, 40, 60), (50, 20, 80, 60)


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (BOX, [[FIRST]] * 3),
        ([BOX], [[FIRST]] * 3),
        ([[BOX]], [[FIRST]] * 3),
        ([BOX, OTHER], [[FIRST, SECOND]] * 3),
        ([[BOX, OTHER]], [[FIRST, SECOND]] * 3),
        ([[BOX], [], [OTHER]], [[FIRST], [], [SECOND]]),
        ([BOX, None, [OTHER]], [[FIRST], [], [SECOND]]),
    ],
)
def test_boxes_come_in_every_form_of_the_host_s(given: Any, found: Any) -> None:
    assert boxes_of(given, 3) == found


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([[BOX], [BOX]], "the boxes of 2 pictures, and the image is 3"),
        ([{"x": 1}], "holds what is no box"),
        ([[None], [BOX], [BOX]], "holds what is no box"),
        ("face", "holds no boxes but a str"),
        (7, "holds no boxes but a int"),
    ],
)
def test_what_is_no_box_is_refused(given: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        boxes_of(given, 3)


@pytest.mark.usefixtures("sees_red")
def test_faces_are_given_by_picture() -> None:
    bboxes, masks = RestorationFindFaces.execute(film(), "blazeface").result
    assert [[(b["x"], b["y"], b["width"], b["height"]) for b in boxes] for boxes in bboxes] == [
        [(8, 8, 16, 16)], [(40, 20, 16, 16)], [], [(60, 44, 16, 16)]
    ]  # fmt: skip
    assert torch.equal(masks, mask_of(film()))
    bboxes, masks = RestorationFindFaces.execute(film([(3, 4)]), "blazeface").result
    assert (len(bboxes), masks.shape) == (1, (1, 64, 96))
    for places, said in (([None], "in the picture"), ([None, None], "in any of the 2 pictures")):
        with pytest.raises(ValueError, match=f"No face was found {said}"):
            RestorationFindFaces.execute(film(places), "blazeface")


def test_the_built_in_detector_is_the_default_and_takes_sizes() -> None:
    register_model_folders()
    inputs = {i.id: i for i in RestorationFindFaces.define_schema().inputs}
    assert inputs["detector"].options[0] == "blazeface"
    with pytest.raises(ValueError, match="make the largest size larger"):
        RestorationFindFaces.execute(film(), "blazeface", smallest=50, largest=20)
    with pytest.raises(ValueError, match="No face was found"):
        RestorationFindFaces.execute(torch.zeros(1, 64, 64, 3), "blazeface", 10, 40)


def followed(by: str, images: torch.Tensor) -> Any:
    if by == "bboxes":
        bboxes, _ = RestorationFindFaces.execute(images, "blazeface").result
        return RestorationCropFace.execute(images, 1, 0.5, bboxes=bboxes).result
    masks = mask_of(images, (32, 48) if by == "small masks" else (64, 96))
    masks = masks[:, None] if by == "masks with channels" else masks
    return RestorationCropFace.execute(images, 1, 0.5, masks=masks).result


@pytest.mark.usefixtures("sees_red")
@pytest.mark.parametrize("by", ["bboxes", "masks", "small masks", "masks with channels"])
@pytest.mark.parametrize("places", [MOVES, [None, *MOVES[:2]]], ids=["lost once", "late"])
def test_a_face_that_moves_is_cut_where_it_is_and_put_back_there(by: str, places: list[Any]) -> None:
    images = film(places)
    crops, crop = followed(by, images)
    there = [n for n, place in enumerate(places) if place]
    assert crops.shape == (len(there), 24, 24, 3)
    assert torch.equal(mask_of(crops, (24, 24)).sum((1, 2)), torch.full((len(there),), 256.0))
    middle = torch.tensor([mask.nonzero().float().mean(0).tolist() for mask in mask_of(crops, (24, 24))])
    assert (middle - 11.5).abs().max() <= 1, "the face is in the middle of every crop"
    back = RestorationPasteFace.execute(images, crops, crop, 0.0).result[0][0]
    assert torch.equal(back, images)
    green = torch.zeros_like(crops) + torch.tensor([0.0, 1.0, 0.0])
    pasted = RestorationPasteFace.execute(images, green, crop, 0.0).result[0][0]
    changed = (pasted != images).any(-1)
    assert [int(frame.sum()) for frame in changed] == [24 * 24 if place else 0 for place in places]
    assert not mask_of(pasted).any()
    one = RestorationPasteFace.execute(images, green[:1], crop, 0.0).result[0][0]
    assert torch.equal(one, pasted), "one face serves all"


def test_crops_of_a_film_have_one_size() -> None:
    boxes = [[{**BOX, "width": 10, "height": 12}], [{**BOX, "width": 20, "height": 16}]]
    crops, crop = RestorationCropFace.execute(film(MOVES[:2]), 1, 0.0, bboxes=boxes).result
    assert crops.shape == (2, 20, 20, 3)
    assert [(w.left + w.right) / 2 for w in crop.windows] == [15, 20]


@pytest.mark.parametrize(
    "given", [{"bboxes": BOX}, {"bboxes": [[BOX]]}, {"masks": mask_of(film([(10, 20)]))}]
)
def test_one_box_or_mask_serves_all_pictures(given: dict[str, Any]) -> None:
    crops, crop = RestorationCropFace.execute(film(), 1, 0.0, **given).result
    assert len(crops) == len(crop.windows) == 4
    assert len(set(crop.windows)) == 1


def test_masks_of_one_picture_are_its_faces() -> None:
    masks = mask_of(film([(10, 20), None, (60, 40)]))
    assert boxes_of_masks(masks, 1, (64, 96), 1) == [(10, 20, 26, 36)]
    assert boxes_of_masks(masks, 2, (128, 192), 3) == [(120, 80, 152, 112)] * 2
    assert boxes_of_masks(masks[0], 1, (64, 96), 1) == [(10, 20, 26, 36)]
    with pytest.raises(ValueError, match="Mask 2 of the input masks is empty"):
        boxes_of_masks(masks, 1, (64, 96), 2)
    with pytest.raises(ValueError, match="There is no face 4 in the input masks, which holds 3"):
        boxes_of_masks(masks, 1, (64, 96), 4)
    with pytest.raises(ValueError, match="3 masks for 3 pictures are one of each"):
        boxes_of_masks(masks, 3, (64, 96), 2)
    with pytest.raises(ValueError, match="All of the input masks are empty"):
        boxes_of_masks(torch.zeros(3, 8, 8), 3, (64, 96), 1)


@pytest.mark.parametrize("face", [2, 9])
def test_a_face_that_is_in_no_picture_is_named(face: int) -> None:
    with pytest.raises(ValueError, match=f"There is no face {face}"):
        RestorationCropFace.execute(film(), face, 0.5, bboxes=[[BOX], [], [BOX], []])
    with pytest.raises(ValueError, match="connect bboxes or masks"):
        RestorationCropFace.execute(film(), 1, 0.5)


@pytest.mark.parametrize("box", [{"x": 200}, {"y": -50}, {"x": -31}])
def test_a_box_outside_of_its_picture_is_refused(box: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="does not lie in the picture of 96 x 64 pixels"):
        RestorationCropFace.execute(film(), 1, 0.5, bboxes=[{**BOX, **box}])


def test_alpha_and_what_lies_outside_stay_byte_for_byte() -> None:
    images = torch.rand(2, 64, 96, 4) * 1.5 - 0.25
    crops, crop = RestorationCropFace.execute(images, 1, 0.2, bboxes=BOX).result
    pasted = RestorationPasteFace.execute(images, 1 - crops, crop, 0.1).result[0][0]
    window = crop.windows[0]
    outside = torch.ones(64, 96, dtype=torch.bool)
    outside[window.top : window.bottom, window.left : window.right] = False
    assert pasted.shape == images.shape
    assert torch.equal(pasted[..., 3], images[..., 3])
    assert torch.equal(pasted[:, outside], images[:, outside])
    assert not torch.equal(pasted, images)


def test_what_does_not_belong_together_is_refused() -> None:
    crops, crop = RestorationCropFace.execute(film(), 1, 0.5, bboxes=[[BOX], [], [BOX], [BOX]]).result
    with pytest.raises(ValueError, match="2 faces do not fit the 3 that Crop Face cut out"):
        RestorationPasteFace.execute(film(), crops[:2], crop, 0.1)
    with pytest.raises(ValueError, match="cut from 4 pictures, and the image is 2"):
        RestorationPasteFace.execute(film()[:2], crops, crop, 0.1)
    with pytest.raises(ValueError, match="cut from a picture of 96 x 64 pixels"):
        RestorationPasteFace.execute(film()[:, :, :64], crops, crop, 0.1)
    for kind, inputs in (("image", (film() / 0, crops)), ("face", (film(), crops / 0))):
        with pytest.raises(ValueError, match=f"The input {kind} holds values that are not numbers"):
            RestorationPasteFace.execute(*inputs, crop, 0.1)
    one, of_one = RestorationCropFace.execute(film()[:1], 1, 0.5, bboxes=BOX).result
    assert RestorationPasteFace.execute(film(), one, of_one, 0.1).result[0][0].shape == film().shape


def test_an_empty_box_is_a_lost_face_and_one_outside_is_named() -> None:
    lost = {"x": 0, "y": 0, "width": 0, "height": 0}
    assert boxes_of([[BOX], [lost], [OTHER]], 3) == [[FIRST], [], [SECOND]]
    image = torch.rand(3, 64, 96, 3)
    crops, _ = RestorationCropFace.execute(image, 1, 0.0, [[BOX], [lost], [OTHER]]).result
    assert len(crops) == 2
    far = {**BOX, "x": 500}
    with pytest.raises(ValueError, match=r"picture 2.*does not lie in the picture of 96 x 64.*at this size"):
        RestorationCropFace.execute(image, 1, 0.0, [[BOX], [far], [OTHER]])
    with pytest.raises(ValueError, match="NaN"):
        boxes_of({**BOX, "x": float("nan")}, 1)
    for empty in ({"width": 0}, {"height": -3}):
        with pytest.raises(ValueError, match="There is no face 1"):
            RestorationCropFace.execute(image, 1, 0.0, [{**BOX, **empty}])


SQUARE = torch.tensor([[5.0, 5.0], [11.0, 5.0], [8.0, 8.0], [8.0, 11.0]])
"""Eyes, nose and mouth in the red square."""


def marked(places: list[Any] = MOVES) -> list[list[dict[str, Any]]]:
    """Boxes as Find Faces gives them, of the faces in `film`."""

    def found(x: float, y: float) -> Face:
        return Face((x, y, x + 16, y + 16), SQUARE + torch.tensor([x, y]), 0.9)

    return [host_boxes([found(*place)] if place else []) for place in places]


def model_of(**header: Any) -> Any:
    return SimpleNamespace(model=SimpleNamespace(header=RestorerHeader(**header)))


def test_inputs_that_were_added_come_last_and_change_nothing() -> None:
    """Saved workflows tell widgets by their place."""
    names = [
        [i.id for i in node.define_schema().inputs] for node in (RestorationCropFace, RestorationPasteFace)
    ]
    assert names[0] == ["image", "face", "context", "bboxes", "masks", "align", "model"]
    assert names[1] == ["image", "face", "face_crop", "feather", "strength", "keep"]
    later = [i for i in RestorationCropFace.define_schema().inputs if i.id in ("align", "model")]
    later += [i for i in RestorationPasteFace.define_schema().inputs if i.id in ("strength", "keep")]
    assert all(i.optional for i in later)
    images = film()
    before, crop = RestorationCropFace.execute(images, 1, 0.5, bboxes=marked()).result
    for others in ({"align": "none"}, {"align": "auto"}, {"model": model_of()}, {"model": object()}):
        same, of = RestorationCropFace.execute(images, 1, 0.5, bboxes=marked(), **others).result
        assert torch.equal(same, before)
        assert of == crop
    assert all(isinstance(window, Window) for window in crop.windows if window)
    pasted = RestorationPasteFace.execute(images, 1 - before, FaceCrop(crop.windows), 0.1).result[0][0]
    same = RestorationPasteFace.execute(images, 1 - before, crop, 0.1, strength=1.0, keep=None).result[0][0]
    assert torch.equal(pasted, same)


@pytest.mark.parametrize(
    ("align", "model", "side"),
    [
        ("FFHQ", None, 512),
        ("FFHQ", model_of(image_size=256), 256),
        ("auto", model_of(aligned="FFHQ"), 512),
        ("auto", model_of(aligned="FFHQ", image_size=128), 128),
        ("none", model_of(aligned="FFHQ"), 0),
        ("auto", model_of(image_size=256), 0),
        ("auto", SimpleNamespace(model=SimpleNamespace()), 0),
        ("auto", None, 0),
    ],
)
def test_faces_are_aligned_where_the_restorer_says_so(align: str, model: Any, side: int) -> None:
    images = film([(20, 10)])
    crops, _ = RestorationCropFace.execute(images, 1, 0.5, marked([(20, 10)]), None, align, model).result
    assert crops.shape == (1, side or 24, side or 24, 3)


@pytest.mark.parametrize("channels", [3, 4])
def test_aligned_faces_of_a_film_go_back_and_the_rest_stays(
    channels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(face_crops, "face_in", None)  # the detector's own landmarks are taken
    images = film(channels=channels) + 0.3 * torch.rand(4, 64, 96, channels) - 0.15
    crops, crop = RestorationCropFace.execute(images, 1, 0.5, bboxes=marked(), align="FFHQ").result
    assert crops.shape == (3, 512, 512, 3)
    eyes_and_mouth = [(240, 193), (240, 319), (371, 257)]
    for frame in crops:
        assert all(frame[y, x, 0] > 0.6 > 0.3 > frame[y, x, 1] for y, x in eyes_and_mouth)
    there = [0, 1, 3]
    for restored in (1 - crops, 1 - crops[:1]):
        pasted = RestorationPasteFace.execute(images, restored, crop, 0.1).result[0][0]
        changed = (pasted != images).any(-1)
        assert torch.equal(pasted[2], images[2])
        for n in there:
            x, y = MOVES[n]
            assert changed[n, y + 4 : y + 10, x + 4 : x + 12].all()
        far = torch.ones(4, 64, 96, dtype=torch.bool)
        for n in there:
            x, y = MOVES[n]
            far[n, max(0, y - 8) : y + 24, max(0, x - 8) : x + 24] = False
        assert not changed[far].any()
        assert channels == 3 or torch.equal(pasted[..., 3], images[..., 3])


def test_faces_in_masks_and_boxes_without_landmarks_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    looked = list[Any]()

    def look(box: Any, picture: torch.Tensor, on_tick: Any) -> Face | None:
        on_tick()
        looked.append(box)
        return None if len(looked) == 2 else Face(box, marks_in(box), 1.0)

    def marks_in(box: Any) -> torch.Tensor:
        return torch.cat([SQUARE, torch.full((2, 2), float("nan"))]) + torch.tensor(box[:2])

    monkeypatch.setattr(face_crops, "face_in", look)
    images = film()
    expected, _ = RestorationCropFace.execute(images, 1, 0.5, bboxes=marked(), align="FFHQ").result
    plain = [[{k: v for k, v in box.items() if k != "landmarks"} for box in boxes] for boxes in marked()]
    wrong = 1, [[1, 2]], "x", None
    odd = [[{**box, "landmarks": n} for box in boxes] for boxes, n in zip(plain, wrong, strict=True)]
    for given in ({"masks": mask_of(images)}, {"bboxes": plain}, {"bboxes": odd}):
        looked.clear()
        crops, _ = RestorationCropFace.execute(images, 1, 0.5, **given, align="FFHQ").result
        assert looked == [(x, y, x + 16, y + 16) for x, y in (MOVES[0], MOVES[1], MOVES[3])]
        torch.testing.assert_close(crops, expected, atol=1e-3, rtol=0)

    monkeypatch.setattr(face_crops, "face_in", lambda *_: None)
    with pytest.raises(ValueError, match=r"No eyes and mouth were found in the face.*set align to none"):
        RestorationCropFace.execute(images, 1, 0.5, masks=mask_of(images), align="FFHQ")


def test_the_built_in_detector_s_landmarks_come_with_its_boxes() -> None:
    photo = torch.from_numpy(data.astronaut().copy())[None, :260, 90:350].float() / 255
    bboxes, masks = RestorationFindFaces.execute(photo, "blazeface").result
    by_box, _ = RestorationCropFace.execute(photo, 1, 0.5, bboxes=bboxes, align="FFHQ").result
    by_mask, crop = RestorationCropFace.execute(photo, 1, 0.5, masks=masks, align="FFHQ").result
    assert (by_box - by_mask).abs().mean() < 0.05
    for strength in (0.0, 1.0):
        pasted = RestorationPasteFace.execute(photo, 1 - by_mask, crop, 0.1, strength).result[0][0]
        assert torch.equal(pasted, photo) == (strength == 0)


@pytest.mark.parametrize("align", ["none", "FFHQ"])
def test_what_is_to_be_kept_is_kept_in_each_picture(align: str) -> None:
    images = film()
    crops, crop = RestorationCropFace.execute(images, 1, 0.5, bboxes=marked(), align=align).result
    keep = torch.zeros(4, 32, 48)
    keep[0] = 1

    def changed(**inputs: Any) -> list[bool]:
        pasted = RestorationPasteFace.execute(images, 1 - crops, crop, 0.1, **inputs).result[0][0]
        return [not torch.equal(a, b) for a, b in zip(pasted, images, strict=True)]

    assert changed() == [True, True, False, True]
    assert changed(keep=keep) == [False, True, False, True]
    assert changed(keep=keep[0]) == [False] * 4
    assert changed(strength=0.0) == [False] * 4
    with pytest.raises(ValueError, match="2 masks to keep do not fit 4 pictures"):
        changed(keep=keep[:2])
    with pytest.raises(ValueError, match="The input keep holds values that are not numbers"):
        changed(keep=keep / 0)


def test_aligned_faces_that_do_not_belong_are_refused() -> None:
    crops, crop = RestorationCropFace.execute(film(), 1, 0.5, bboxes=marked(), align="FFHQ").result
    with pytest.raises(ValueError, match="cut from a picture of 96 x 64 pixels"):
        RestorationPasteFace.execute(film()[:, :, :64], crops, crop, 0.1)
    large = film().repeat_interleave(2, 1).repeat_interleave(2, 2)
    pasted = RestorationPasteFace.execute(large, crops * 0, crop, 0.0).result[0][0]
    assert (pasted[0, 24, 32] == 0).all()


def places_of(crop: FaceCrop, point: tuple[float, float]) -> torch.Tensor:
    """Where a point of the picture comes to lie in the aligned face of each frame."""
    matrices = torch.tensor([place.matrix for place in crop.windows if isinstance(place, Alignment)])
    return matrices @ torch.tensor([*point, 1.0])


def test_a_frame_without_landmarks_has_those_of_the_nearest_at_its_own_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(face_crops, "face_in", lambda *_: None)
    other = torch.tensor([[6.0, 4.0], [12.0, 7.0], [8.0, 8.0], [7.0, 12.0]])
    first, nearest = (
        Face((8, 8, 24, 24), SQUARE + 8, 1.0),
        Face((40, 20, 56, 36), other + torch.tensor([40.0, 20.0]), 1.0),
    )
    unknown = {"x": 30, "y": 10, "width": 32, "height": 32}
    boxes = [host_boxes([first]), [], host_boxes([nearest]), [unknown]]
    _, crop = RestorationCropFace.execute(film(), 1, 0.5, bboxes=boxes, align="FFHQ").result
    held = 2 * other + torch.tensor([30.0, 10.0])
    assert crop.windows[1] is None
    expected = alignment_of(held, (64, 96))
    torch.testing.assert_close(torch.tensor(crop.windows[3].matrix), torch.tensor(expected.matrix))


def test_a_still_face_in_a_film_does_not_tremble() -> None:
    generator = torch.Generator().manual_seed(0)
    boxes = [
        host_boxes([Face((20, 10, 36, 26), SQUARE + torch.tensor([20.0, 10.0]) + shift, 1.0)])
        for shift in 0.05 * torch.randn(12, 4, 2, generator=generator)
    ]
    images = film([(20, 10)] * 12)
    _, crop = RestorationCropFace.execute(images, 1, 0.5, bboxes=boxes, align="FFHQ").result
    alone = [
        RestorationCropFace.execute(images[:1], 1, 0.5, bboxes=[one], align="FFHQ").result[1] for one in boxes
    ]
    apart = FaceCrop(tuple(one.windows[0] for one in alone))
    together, separate = (places_of(c, (28.0, 18.0)).diff(dim=0).norm(dim=1).mean() for c in (crop, apart))
    assert together < separate / 5
