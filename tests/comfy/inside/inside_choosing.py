"""Choose Identity in the host: who is who in pictures and films, what becomes of nobody, and its way back."""

from dataclasses import replace
from math import ceil, floor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import folder_paths
import pytest
import torch
from pfstorer.nodes import apply
from pfstorer.nodes.adapters import SaveIdentityAdapter
from pfstorer.nodes.apply import ApplyPersonalization
from pfstorer.nodes.choose import ChooseIdentity
from pfstorer.nodes.examples import ExamplePictures
from pfstorer.nodes.faces import RestorationCropFace, RestorationFindFaces, RestorationPasteFace
from pfstorer.nodes.host import notes
from pfstorer.nodes.host.choosing import BASE, LEAVE
from pfstorer.nodes.host.embedding import squares_embedded, with_face
from pfstorer.nodes.host.folders import ASSETS
from pfstorer.nodes.host.images import from_image, to_image
from pfstorer.nodes.host.recognition import HostedRecognizer
from pfstorer.nodes.recognition import LoadFaceRecognizer
from pfstorer.pfstorer_core.imaging.resizing import resize
from pfstorer.pfstorer_core.personalization.base import Adapter
from pfstorer.pfstorer_core.personalization.registry import load_identity_adapter

PEOPLE = ("P004", "P007", "P008")


@pytest.fixture(autouse=True)
def shipped(monkeypatch: pytest.MonkeyPatch) -> None:
    found = ([str(ASSETS / "face_recognizers")], {".safetensors"})
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "face_recognizers", found)


def example(name: str) -> tuple[torch.Tensor, torch.Tensor]:
    return ExamplePictures.execute(name).args


@pytest.fixture(scope="module")
def plain() -> Adapter:
    path = ASSETS / "identity_adapters" / "drawn_person.safetensors"
    return load_identity_adapter(path).with_face(None)


@pytest.fixture(scope="module")
def adapters(plain: Adapter) -> dict[str, Adapter]:
    """By the names of the node's inputs."""
    dlib = HostedRecognizer.load(str(ASSETS / "face_recognizers" / "dlib_resnet29.safetensors"))
    photos = {person: list(from_image(example(f"{person}: five photos")[0])[:2]) for person in PEOPLE}
    return {
        f"identity_adapter_{n}": with_face(plain, photos[person], dlib)[0] for n, person in enumerate(PEOPLE)
    }


def people_of(chosen: Any, adapters: dict[str, Adapter]) -> list[int | None]:
    known = list(adapters.values())
    return [None if one is None else [one is other for other in known].index(True) for one in chosen[0]]


def left(boxes: list[list[dict[str, Any]]]) -> list[float | None]:
    """Where the face is in each picture."""
    return [one[0]["x"] if one else None for one in boxes]


def test_a_group_and_its_way_back(adapters: dict[str, Adapter]) -> None:
    group = example("group: bad picture")[1]
    with torch.inference_mode():
        chosen = ChooseIdentity.execute(group, adapters, 0.5).args
    assert people_of(chosen, adapters) == [0, 1, 2]
    where = [left(boxes)[0] for boxes in chosen[1]]
    assert where[1] < where[2] < where[0], "P007, P008 and P004 stand from left to right"  # type: ignore[operator]
    assert [line.split(".")[0] for line in chosen[2].splitlines()] == [
        "Face 1: person 2", "Face 2: person 3", "Face 3: person 1"
    ]  # fmt: skip
    assert chosen[3].shape[-1] == 3
    cut = [RestorationCropFace.execute(group, 1, 0.3, boxes).result for boxes in chosen[1]]
    crops, places = [c for c, _ in cut], [p for _, p in cut]
    [result] = RestorationPasteFace.execute(
        [group], [1 - crop for crop in crops], places, [0.0], [1.0]
    ).result[0]
    expected = group
    for crop, place in zip(crops, places, strict=True):
        [expected] = RestorationPasteFace.execute(expected, 1 - crop, place, 0.0).result[0]
    assert torch.equal(result, expected)
    changed = (result != group).any(-1)[0]
    assert 0.02 < changed.float().mean() < 0.5
    # Lists of pictures stay lists, and several versions of one face several pictures.
    several = RestorationPasteFace.execute([group, group], crops[:2], places[:2], [0.0]).result[0]
    assert len(several) == 2
    versions = RestorationPasteFace.execute([group], [crops[0], 1 - crops[0]], [places[0]], [0.0]).result[0]
    assert len(versions) == 2


def test_nobody_stays_or_is_the_base_s(adapters: dict[str, Adapter]) -> None:
    group = example("group: bad picture")[1]
    two = {name: adapters[name] for name in ("identity_adapter_1", "identity_adapter_2")}
    chosen = ChooseIdentity.execute(group, two, 0.5, others=LEAVE).args
    assert people_of(chosen, two) == [0, 1]
    chosen = ChooseIdentity.execute(group, two, 0.5, others=BASE).args
    assert people_of(chosen, two) == [0, 1, None]
    assert "Face 3: nobody. Likeness to person 1 -" in chosen[2]
    nobody = chosen[0][2]
    model = SimpleNamespace(clone=lambda: "clone")
    model.model = SimpleNamespace()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(apply, "RestorerModel", SimpleNamespace)
        assert ApplyPersonalization.execute(model, nobody, 1.0).args[0] == "clone"
    alone = {"identity_adapter_0": adapters["identity_adapter_0"]}
    with pytest.raises(ValueError, match=r"Nobody's face is near enough \(0\.99\).*Face 1: nobody.*others"):
        ChooseIdentity.execute(group, alone, 0.99)
    with pytest.raises(ValueError, match="No face was found in any of the 2 pictures"):
        ChooseIdentity.execute(torch.full((2, 80, 90, 3), 0.5), alone, 0.5)


def test_faces_are_those_of_the_boxes(adapters: dict[str, Adapter]) -> None:
    """Also where nobody knows where the eyes are."""
    group = example("group: bad picture")[1]
    [found] = RestorationFindFaces.execute(group, "blazeface").result[0]
    bare = {key: found[2][key] for key in ("x", "y", "width", "height")}
    for box in (found[2], bare):
        chosen = ChooseIdentity.execute(group, adapters, 0.4, bboxes=[[box]]).args
        assert people_of(chosen, adapters) == [0]
        assert left(chosen[1][0]) == [found[2]["x"]]


def test_a_film_keeps_each_face_with_its_person(adapters: dict[str, Adapter]) -> None:
    """They pass each other, one is away for a while, and boxes are no longer in one order."""
    one, two = (from_image(example(f"{person}: bad picture")[1])[0] for person in ("P007", "P008"))
    frames = torch.full((6, 3, 260, 900), 0.5)
    places = [(0, 600), (40, 560), (80, 520), (560, 80), (None, 40), (620, 0)]
    for frame, (first, second) in zip(frames, places, strict=True):
        for face, x in ((one, first), (two, second)):
            if x is not None:
                frame[:, : face.shape[1], x : x + face.shape[2]] = face
    chosen = ChooseIdentity.execute(frames.movedim(1, -1), adapters, 0.4).args
    assert people_of(chosen, adapters) == [1, 2]
    for boxes, way in zip(chosen[1], zip(*places, strict=True), strict=True):
        for x, expected in zip(left(boxes), way, strict=True):
            assert (x is None) == (expected is None)
            if x is not None:
                assert 0 <= x - expected < 256
    crops, place = RestorationCropFace.execute(frames.movedim(1, -1), 1, 0.3, chosen[1][0]).result
    assert len(crops) == 5
    [back] = RestorationPasteFace.execute(frames.movedim(1, -1), crops, place, 0.0).result[0]
    assert back.shape == (6, 260, 900, 3)


def test_neighbours_stand_so_close_that_windows_overlap(adapters: dict[str, Adapter]) -> None:
    """Twelve faces of 30 pixels: three are somebody's, and all others stay as they are, byte for byte."""
    faces = [from_image(example(f"{person}: bad picture")[1])[..., 40:-40, 40:-40] for person in PEOPLE]
    crowd = torch.cat(
        [torch.cat([resize(faces[(r + c) % 3], (40, 40)) for c in range(4)], -1) for r in range(3)], -2
    )
    crowd = to_image(crowd.clamp(0, 1))
    [found] = RestorationFindFaces.execute(crowd, "blazeface").result[0]
    assert len(found) == 12
    chosen = ChooseIdentity.execute(crowd, adapters, 0.3).args
    assert people_of(chosen, adapters) == [0, 1, 2]
    assert len(chosen[2].splitlines()) == 12
    known, unknown = torch.zeros(2, *crowd.shape[1:3], dtype=torch.bool)
    of_people = [boxes[0][0]["x"] for boxes in chosen[1]]
    for box in found:
        x, y, wide, tall = (box[name] for name in ("x", "y", "width", "height"))
        if x in of_people:
            known[max(0, floor(y)) : ceil(y + tall), max(0, floor(x)) : ceil(x + wide)] = True
        else:
            unknown[max(0, ceil(y)) : floor(y + tall), max(0, ceil(x)) : floor(x + wide)] = True
    for align in ("none", "FFHQ"):
        cut = [RestorationCropFace.execute(crowd, 1, 0.6, boxes, align=align).result for boxes in chosen[1]]
        crops, places = [1 - crop for crop, _ in cut], [place for _, place in cut]
        [result] = RestorationPasteFace.execute([crowd], crops, places, [0.1]).result[0]
        changed = (result != crowd).any(-1)[0]
        assert changed[known].float().mean() > 0.9
        assert not changed[unknown & ~known].any(), align
        assert changed[~known & ~unknown].any(), "windows are larger than boxes"
        alone = [replace(place, boxes=()) for place in places]
        [without] = RestorationPasteFace.execute([crowd], crops, alone, [0.1]).result[0]
        assert (without != crowd).any(-1)[0][unknown & ~known].any(), "and reach to the neighbours"


def test_each_face_of_a_folder_goes_back_into_its_picture(adapters: dict[str, Adapter]) -> None:
    """Pictures of several sizes, of several people or none, in which a face that is nobody's stays."""
    group, alone = example("group: bad picture")[1], example("P008: bad picture")[1]
    pictures = [alone, torch.full((1, 80, 90, 3), 0.5), group]
    two = {name: [adapters[name]] for name in ("identity_adapter_1", "identity_adapter_2")}
    chosen = ChooseIdentity.execute(pictures, two, [0.4], others=[LEAVE])
    people, boxes, report, _, images = chosen.args
    assert [[*adapters.values()].index(person) for person in people] == [2, 1, 2]
    assert [image is picture for image, picture in zip(images, (alone, group, group), strict=True)] == [
        True
    ] * 3
    assert report.splitlines()[1] == "Picture 2: no face."
    assert report.splitlines()[0].startswith("Picture 1: Face 1: person 2.")
    assert report.splitlines()[-1].startswith("Picture 3: Face 3: nobody.")
    cut = [RestorationCropFace.execute(i, 1, 0.3, b).result for i, b in zip(images, boxes, strict=True)]
    crops, places = [1 - c for c, _ in cut], [p for _, p in cut]
    keep = [torch.zeros(1, 8, 8), torch.zeros(1, 8, 8), torch.ones(1, 8, 8)]
    for kept in (None, keep):
        results = RestorationPasteFace.execute(pictures, crops, places, [0.0], [0.5], kept or [None]).result[
            0
        ]
        assert [result.shape for result in results] == [picture.shape for picture in pictures]
        changed = [bool((a != b).any()) for a, b in zip(results, pictures, strict=True)]
        assert changed == [True, False, kept is None]
        nobody = RestorationFindFaces.execute(group, "blazeface").result[0][0][2]
        left, right = int(nobody["x"]), int(nobody["x"] + nobody["width"])
        assert torch.equal(results[2][:, :, left:right], group[:, :, left:right]), "byte for byte"
    [once] = RestorationPasteFace.execute(alone, crops[0], replace(places[0], picture=None), 0.0, 0.5).result[
        0
    ]
    assert torch.equal(results[0], once), "pasted once, however many pictures there are"
    with pytest.raises(ValueError, match="from picture 3 of a list, and the input image holds 2"):
        RestorationPasteFace.execute(pictures[:2], crops, places, [0.0])
    with pytest.raises(ValueError, match="No face was found in any of the 2 pictures"):
        ChooseIdentity.execute([pictures[1]] * 2, two, [0.4])
    with pytest.raises(ValueError, match="of identity_adapter_1, number 2 holds no face"):
        ChooseIdentity.execute(group, {"identity_adapter_1": [people[0], people[0].with_face(None)]}, 0.4)


def test_what_does_not_fit_is_said(adapters: dict[str, Adapter], plain: Adapter) -> None:
    group = example("group: bad picture")[1]
    with pytest.raises(ValueError, match=r"of identity_adapter_9 holds no face.*Save Identity Adapter"):
        ChooseIdentity.execute(group, {**adapters, "identity_adapter_9": plain}, 0.5)
    other = LoadFaceRecognizer.execute("pfstorer_iresnet.safetensors").args[0]
    with pytest.raises(ValueError, match="by the recogniser dlib_resnet29, and this one is pfstorer_ires"):
        ChooseIdentity.execute(group, adapters, 0.5, recognizer=other)
    with pytest.raises(ValueError, match="There is no adapter"):
        ChooseIdentity.execute(group, {}, 0.5)
    own = squares_embedded(list(from_image(example("P007: five photos")[0])), other)
    chosen = ChooseIdentity.execute(group, {"a": plain.with_face(own)}, 0.0, recognizer=other).args
    assert len(chosen[0]) == 1


def test_a_saved_copy_knows_the_face_of_photos(
    plain: Adapter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(
        folder_paths.folder_names_and_paths, "identity_adapters", ([str(tmp_path)], {".safetensors"})
    )
    monkeypatch.setattr(notes, "show_text", lambda node, text: None)
    monkeypatch.setattr(SaveIdentityAdapter, "hidden", SimpleNamespace(unique_id="7"))
    photos = {"photo_0": [example("P007: five photos")[0]], "photo_1": [torch.full((1, 90, 90, 3), 0.5)]}
    said = SaveIdentityAdapter.execute([plain], ["eve"], photos=photos).ui.as_dict()["text"][0]
    assert "an embedding of 5 of 6 photos" in said
    saved = load_identity_adapter(tmp_path / "eve.safetensors")
    assert saved.header.face is not None
    torch.testing.assert_close(saved.tensors(), plain.tensors())
    SaveIdentityAdapter.execute(saved, "copy")
    assert load_identity_adapter(tmp_path / "copy.safetensors").header.face == saved.header.face
    with pytest.raises(ValueError, match="No face was found in the photos"):
        SaveIdentityAdapter.execute([plain], ["eve"], photos={"photo_0": photos["photo_1"]})
    with pytest.raises(ValueError, match="There is nobody to save"):
        SaveIdentityAdapter.execute([None], ["eve"])
