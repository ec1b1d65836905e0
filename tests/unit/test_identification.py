"""Which of several people a face is of: in pictures, and in films in which faces move and come back."""

from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from harness import ROOT
from pfstorer_core.imaging.faces import find_faces
from pfstorer_core.imaging.pictures import read_picture
from pfstorer_core.imaging.resizing import resize
from pfstorer_core.personalization.face import face_of
from pfstorer_core.recognition import Recognizer, load_recognizer
from pfstorer_core.recognition.identification import (
    GAP,
    THRESHOLD,
    Gallery,
    Track,
    identify,
    overlap,
    tracks_of,
)
from pfstorer_core.recognition.likeness import strangers
from pfstorer_core.recognition.shown import Shown

EXAMPLES = ROOT / "assets" / "examples"
PEOPLE = ("P004", "P007", "P008")
IN_THE_GROUP = [1, 2, 0]
"""From left to right."""


@pytest.fixture(scope="module")
def recognizer() -> Recognizer:
    return load_recognizer(ROOT / "assets" / "face_recognizers" / "dlib_resnet29.safetensors")


@pytest.fixture(scope="module")
def known(recognizer: Recognizer) -> Tensor:
    """Of two photos of each."""
    faces = []
    for person in PEOPLE:
        photos = [read_picture(EXAMPLES / f"{person}_photo_{n}.jpg")[0] for n in (1, 2)]
        face = face_of(recognizer, photos)
        assert face is not None
        faces.append(face.embedding)
    return torch.tensor(faces)


@pytest.mark.parametrize("picture", ["group_true.jpg", "group_bad.png"])
def test_each_face_of_the_example_group_is_nearest_to_its_person(
    recognizer: Recognizer, known: Tensor, picture: str
) -> None:
    gallery, group = Gallery.of(recognizer.embed, known), read_picture(EXAMPLES / picture)
    faces = find_faces(group[0])
    raw = torch.cat([Shown(group, face.landmarks).embedded(recognizer.embed) for face in faces])
    directions = gallery.directions(raw)
    table = gallery.likenesses(directions)
    assert table.argmax(1).tolist() == IN_THE_GROUP
    tracks = tracks_of([[face.box for face in faces]], [directions])
    assert identify(tracks, table, 0.0) == IN_THE_GROUP
    if picture == "group_true.jpg":
        assert identify(tracks, table, THRESHOLD) == IN_THE_GROUP
        without = Gallery.of(recognizer.embed, known[1:])
        left = identify(tracks, without.likenesses(without.directions(raw)), THRESHOLD)
        assert left == [0, 1, None], "a stranger is nobody"


def test_likenesses_do_not_sink_by_blur_alone(recognizer: Recognizer, known: Tensor) -> None:
    """Held against the same with neither blurred copies nor their directions."""
    gallery = Gallery.of(recognizer.embed, known)
    plain = Gallery(gallery.centre, gallery.blur[:0], F.normalize(known - gallery.centre, dim=-1))
    gained = []
    for number, person in enumerate(PEOPLE):
        true = read_picture(EXAMPLES / f"{person}_true.jpg")
        marks = find_faces(true[0])[0].landmarks
        blurred = resize(resize(true, (30, 30)), (256, 256))
        raw = Shown(blurred, marks).embedded(recognizer.embed)
        ours, others = (float(one.likenesses(one.directions(raw))[0, number]) for one in (gallery, plain))
        gained.append(ours - others)
    assert sum(gained) > 0
    assert torch.allclose(gallery.blur @ gallery.blur.T, torch.eye(len(gallery.blur)), atol=1e-4)
    faces = gallery.directions(recognizer.embed(2 * strangers() - 1, None))
    assert (faces @ gallery.blur.T).abs().max() < 1e-4
    torch.testing.assert_close(faces.norm(dim=-1), torch.ones(9))


LOOKS = torch.eye(4)


def box(x: float) -> tuple[float, float, float, float]:
    return (x, 10.0, x + 20.0, 34.0)


def film(*frames: Sequence[tuple[float, int]]) -> list[Track]:
    """Of faces in each frame: where they are, and how they look."""
    return tracks_of(
        [[box(x) for x, _ in frame] for frame in frames],
        [LOOKS[[look for _, look in frame]] for frame in frames],
    )


def places(tracks: Sequence[Track]) -> list[dict[int, int]]:
    return [track.places for track in tracks]


def test_faces_are_followed_when_they_cross() -> None:
    crossing = [
        [(0, 0), (30, 1)],
        [(6, 0), (24, 1)],
        [(12, 0), (18, 1)],
        [(12, 1), (18, 0)],
        [(6, 1), (24, 0)],
    ]
    assert places(film(*crossing)) == [
        {0: 0, 1: 0, 2: 0, 3: 1, 4: 1}, {0: 1, 1: 1, 2: 1, 3: 0, 4: 0}
    ]  # fmt: skip


def test_what_is_elsewhere_or_looks_otherwise_is_another_face() -> None:
    assert places(film([(0, 0)], [(18, 0)])) == [{0: 0}, {1: 0}]
    assert places(film([(0, 0)], [(0, 1)])) == [{0: 0}, {1: 0}]
    assert places(film([(0, 0)], [], [(2, 0)])) == [{0: 0, 2: 0}]
    gone = [[(0.0, 0)], *[list[tuple[float, int]]()] * GAP, [(0.0, 0)]]
    assert places(film(*gone)) == [{0: 0}, {GAP + 1: 0}]
    assert overlap(box(0), box(10)) == pytest.approx(1 / 3)
    assert overlap(box(0), box(20)) == 0


def test_a_track_looks_as_its_frames_do_together() -> None:
    tilted = F.normalize(torch.tensor([[1.0, 0.6, 0, 0]]))
    [track] = tracks_of([[box(0)], [box(1)]], [LOOKS[:1], tilted])
    torch.testing.assert_close(track.direction, F.normalize(LOOKS[0] + tilted[0], dim=0))


def test_each_person_is_once_in_a_picture_and_the_most_like_goes_first() -> None:
    both = film([(0, 0), (40, 1)])
    table = torch.tensor([[0.8, 0.2], [0.9, 0.6]])
    assert identify(both, table, 0.5) == [None, 0]
    assert identify(both, table, 0.1) == [1, 0]
    assert identify(both, table, 0.95) == [None, None]
    later = film([(0, 0)], [], [(90, 1)])
    assert identify(later, table, 0.5) == [0, 0], "she came back"
