"""The drawn people: seeded, sized, alike as one person, different as two, labelled exactly."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from lab.people import LANDMARKS, Photo, contact_sheet, dead_leaves, draw_person, draw_shot, photograph

SIZE = 96


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def frontal(seed: int = 1, **overrides: object):
    calm = dict(
        yaw=0.0, pitch=0.0, roll=0.0, fill=0.7, shift=(0.0, 0.0), hair_fringe=0.0,
        light=(0.3, 0.5, 0.9), light_colour=(1.0, 1.0, 1.0), light_strength=1.0, ambient=0.4,
        exposure=1.0, contrast=1.0, background="studio",
    )  # fmt: skip
    return draw_shot(rng(seed), **{**calm, **overrides})


def point(photo: Photo, name: str) -> np.ndarray:
    return photo.landmarks[LANDMARKS.index(name)]


def face_colour(photo: Photo) -> np.ndarray:
    weight = photo.face_mask[..., None]
    return (photo.image * weight).sum((0, 1)) / weight.sum()


def test_equal_seeds_give_the_identical_picture():
    first, second = (photograph(draw_person(rng(3)), draw_shot(rng(4)), SIZE) for _ in range(2))
    np.testing.assert_array_equal(first.image, second.image)
    np.testing.assert_array_equal(first.landmarks, second.landmarks)
    np.testing.assert_array_equal(first.face_mask, second.face_mask)


@pytest.mark.parametrize("size", [64, 96, 257])
def test_size_type_and_range(size: int):
    photo = photograph(draw_person(rng()), draw_shot(rng(1)), size)
    assert photo.image.shape == (size, size, 3)
    assert photo.face_mask.shape == (size, size)
    assert photo.image.dtype == photo.face_mask.dtype == photo.landmarks.dtype == np.float32
    assert np.isfinite(photo.image).all()
    assert np.isfinite(photo.landmarks).all()
    assert photo.image.min() >= 0
    assert photo.image.max() <= 1
    assert photo.face_mask.min() >= 0
    assert photo.face_mask.max() <= 1
    assert photo.landmarks.shape == (len(LANDMARKS), 2)
    assert photo.visible.shape == (len(LANDMARKS),)


def test_every_background_can_be_photographed():
    person = draw_person(rng())
    from lab.people.shot import BACKGROUNDS

    corners = []
    for name in BACKGROUNDS:
        photo = photograph(person, frontal(background=name), 64)
        corners.append(photo.image[:12, :12].ravel())
    assert len({corner.tobytes() for corner in corners}) == len(BACKGROUNDS)


@pytest.mark.parametrize("seed", range(4))
def test_frontal_landmarks_lie_in_the_frame_and_on_the_face(seed: int):
    photo = photograph(draw_person(rng(seed)), frontal(), SIZE)
    assert ((photo.landmarks >= 0) & (photo.landmarks < SIZE)).all()
    for name in ("left_pupil", "right_pupil", "nose_tip", "nose_bridge", "upper_lip", "lower_lip"):
        x, y = point(photo, name).astype(int)
        assert photo.face_mask[y, x] > 0.9, name
        assert photo.visible[LANDMARKS.index(name)], name


def test_landmarks_stand_in_a_faces_order():
    photo = photograph(draw_person(rng(2)), frontal(), SIZE)
    heights = [point(photo, n)[1] for n in ("left_brow", "left_pupil", "nose_tip", "upper_lip", "chin")]
    assert heights == sorted(heights)
    across = (
        "left_eye_outer",
        "left_eye_inner",
        "nose_bridge",
        "right_eye_inner",
        "right_eye_outer",
    )
    places = [point(photo, n)[0] for n in across]
    assert places == sorted(places)


def test_pupils_are_darker_than_the_face_around_them():
    photo = photograph(draw_person(rng(5)), frontal(eyes_open=1.0, gaze=(0.0, 0.0)), 256)
    grey = photo.image.mean(-1)
    for name in ("left_pupil", "right_pupil"):
        x, y = point(photo, name).astype(int)
        # A quantile, because the catchlight may lie over a part of the pupil.
        assert np.quantile(grey[y - 2 : y + 3, x - 2 : x + 3], 0.25) < 0.6 * face_colour(photo).mean()


def test_yaw_moves_the_nose_to_its_side():
    person = draw_person(rng(6))
    offsets = []
    for yaw in (-35.0, 0.0, 35.0):
        photo = photograph(person, frontal(yaw=yaw), SIZE)
        offsets.append(point(photo, "nose_tip")[0] - SIZE / 2)
    assert offsets[0] < -0.08 * SIZE < 0.08 * SIZE < offsets[2]
    assert abs(offsets[1]) < 0.03 * SIZE


def test_pitch_lifts_the_nose_and_roll_tilts_the_eyes():
    person = draw_person(rng(6))
    up, down = (photograph(person, frontal(pitch=p), SIZE) for p in (15.0, -15.0))
    assert point(up, "nose_tip")[1] < point(down, "nose_tip")[1] - 0.05 * SIZE
    rolled = photograph(person, frontal(roll=15.0), SIZE)
    span = point(rolled, "right_pupil") - point(rolled, "left_pupil")
    assert np.degrees(np.arctan2(-span[1], span[0])) == pytest.approx(15.0, abs=4.0)


def test_a_turned_away_eye_corner_is_not_visible():
    photo = photograph(draw_person(rng(6)), frontal(yaw=80.0), SIZE)
    assert not photo.visible[LANDMARKS.index("right_jaw")]
    assert photo.visible[LANDMARKS.index("left_jaw")]


def test_fill_scales_the_face():
    person = draw_person(rng(7))
    small, large = (photograph(person, frontal(fill=f), SIZE) for f in (0.4, 0.8))
    assert large.face_mask.sum() / small.face_mask.sum() == pytest.approx(4.0, rel=0.12)


def test_opening_the_mouth_parts_the_lips_and_drops_the_jaw():
    person = draw_person(rng(8))
    shut, wide = (photograph(person, frontal(mouth_open=m, smile=0.0), SIZE) for m in (0.0, 1.0))

    def gap(photo: Photo) -> float:
        return float(point(photo, "lower_lip")[1] - point(photo, "upper_lip")[1])

    def lowest(photo: Photo) -> int:
        return int(np.flatnonzero(photo.face_mask.max(1) > 0.5)[-1])

    assert gap(wide) > 1.4 * gap(shut)
    assert point(wide, "chin")[1] > point(shut, "chin")[1] + 0.03 * SIZE
    assert lowest(wide) > lowest(shut) + 0.02 * SIZE
    np.testing.assert_allclose(point(wide, "nose_tip"), point(shut, "nose_tip"), atol=0.01)


POSES: tuple[dict[str, Any], ...] = (
    dict(yaw=0.0, pitch=0.0, roll=0.0, mouth_open=0.0, smile=0.0),
    dict(yaw=22.0, pitch=8.0, roll=-12.0, mouth_open=0.0, smile=0.9),
    dict(yaw=-18.0, pitch=-8.0, roll=10.0, mouth_open=0.8, smile=0.2),
)


def changed(before: Photo, after: Photo) -> np.ndarray:
    """How much each pixel differs [H,W], of what clearly does."""
    change = np.abs(before.image - after.image).max(-1)
    return np.where(change > 0.25 * change.max(), change, 0)


def centre(weight: np.ndarray) -> np.ndarray:
    rows, columns = np.indices(weight.shape) + 0.5
    return np.array([(weight * columns).sum(), (weight * rows).sum()]) / weight.sum()


@pytest.mark.parametrize("pose", POSES)
def test_eye_landmarks_lie_where_the_irises_are_painted(pose: dict[str, Any]):
    shot = frontal(eyes_open=1.1, gaze=(0.0, 0.0), brows=0.0, **pose)
    person = dataclasses.replace(draw_person(rng(2)), glasses="", iris=(0.02, 0.02, 0.02), eye_open=0.08)
    before = photograph(person, shot, 256)
    after = photograph(dataclasses.replace(person, iris=(0.02, 0.5, 0.9)), shot, 256)
    change = changed(before, after)
    for side in ("left", "right"):
        x, y = point(before, f"{side}_pupil")
        assert before.visible[LANDMARKS.index(f"{side}_pupil")]
        near = change[int(y) - 12 : int(y) + 13, int(x) - 12 : int(x) + 13]
        # The upper lid hides a part of the iris, which moves its visible centre down.
        assert np.abs(centre(near) - 12.5 - (x % 1 - 0.5, y % 1 - 0.5)).max() < 2.0


@pytest.mark.parametrize("pose", POSES)
def test_mouth_landmarks_lie_at_the_ends_of_the_lips(pose: dict[str, Any]):
    shot = frontal(**pose)
    person = dataclasses.replace(draw_person(rng(2)), beard=0.0, lip_colour=(0.3, 0.02, 0.02))
    before = photograph(person, shot, 256)
    after = photograph(dataclasses.replace(person, lip_colour=(0.05, 0.02, 0.7)), shot, 256)
    spots = np.argwhere(changed(before, after))[:, ::-1] + 0.5

    def span(first: str, last: str, beside: float) -> tuple[float, float, float]:
        """Where the lips begin and end along the line between two landmarks, and their distance."""
        start, stop = point(before, first), point(before, last)
        length = float(np.linalg.norm(stop - start))
        along = (stop - start) / length
        near = np.abs((spots - start) @ (along[1], -along[0])) < beside
        reach = (spots[near] - start) @ along
        return float(reach.min()), float(reach.max()), length

    for first, last, beside in (("left_mouth", "right_mouth", 3), ("upper_lip", "lower_lip", 2)):
        least, most, length = span(first, last, beside)
        # A turned head's own lips may hide its far corner.
        if before.visible[LANDMARKS.index(first)]:
            assert least == pytest.approx(0, abs=3), first
        if before.visible[LANDMARKS.index(last)]:
            assert most == pytest.approx(length, abs=3), last
    assert sum(before.visible[LANDMARKS.index(n)] for n in ("left_mouth", "right_mouth")) >= 1


@pytest.mark.parametrize("pose", POSES)
def test_a_mole_is_seen_where_it_is_said_to_be(pose: dict[str, Any]):
    shot = frontal(**pose)
    places = ((-0.33, -0.25, 0.02), (0.05, -0.80, 0.02), (0.25, 0.40, 0.02))
    person = dataclasses.replace(draw_person(rng(4)), glasses="", beard=0.0, scar=(), hair_line=0.7)
    bare = photograph(dataclasses.replace(person, moles=()), shot, 256)
    assert bare.marks.shape == (0, 2)
    for place in places:
        photo = photograph(dataclasses.replace(person, moles=(place,)), shot, 256)
        assert photo.marks_visible.tolist() == [True]
        change = changed(bare, photo)
        assert change.max() > 0.15
        assert np.abs(centre(change) - photo.marks[0]).max() < 1.0


def test_scars_freckles_tooth_gap_and_beard_are_seen():
    person = dataclasses.replace(
        draw_person(rng(4)), glasses="", beard=0.0, beard_style="", scar=(), freckles=0.0, tooth_gap=0.0,
        skin=(0.63, 0.42, 0.30), hair_colour=(0.035, 0.02, 0.012),
    )  # fmt: skip
    shot = frontal(mouth_open=0.4, smile=0.3)
    bare = photograph(person, shot, 256)
    scar = ((0.3, -0.2), (0.36, -0.3), (0.4, -0.4))
    for traits in (
        dict(scar=scar, scar_width=0.011),
        dict(freckles=0.6),
        dict(tooth_gap=0.012),
        dict(beard=0.6, beard_style="full"),
        dict(beard=0.6, beard_style="goatee"),
    ):
        photo = photograph(dataclasses.replace(person, **traits), shot, 256)
        assert np.abs(photo.image - bare.image).max() > 0.1, traits
    marked = photograph(dataclasses.replace(person, scar=scar, scar_width=0.011), shot, 256)
    assert np.linalg.norm(centre(changed(bare, marked)) - marked.marks[-1]) < 4


def test_hidden_points_are_known_and_flagged():
    person = dataclasses.replace(draw_person(rng(6)), glasses="")
    shut, opened = (photograph(person, frontal(eyes_open=e, gaze=(0.0, 0.0)), SIZE) for e in (0.0, 1.0))
    for name in ("left_pupil", "right_pupil"):
        assert not shut.visible[LANDMARKS.index(name)]
        assert opened.visible[LANDMARKS.index(name)]
        np.testing.assert_allclose(point(shut, name), point(opened, name), atol=0.5)
    for hair_line, fringe, seen in ((0.75, 0.0, True), (0.5, 1.0, False)):
        marked = dataclasses.replace(person, hair_line=hair_line, moles=((0.0, 0.45, 0.02),), scar=())
        assert photograph(marked, frontal(hair_fringe=fringe), SIZE).marks_visible.tolist() == [seen]
    away = photograph(person, frontal(shift=(0.6, 0.0)), SIZE)
    assert not away.visible.any() or (away.landmarks[away.visible] < SIZE).all()
    assert np.isfinite(away.landmarks).all()


def test_a_photo_is_the_same_at_every_size():
    person = dataclasses.replace(draw_person(rng(12)), freckles=0.8)
    small, large = (photograph(person, frontal(), size) for size in (128, 256))
    np.testing.assert_allclose(small.landmarks * 2, large.landmarks, atol=1.0)
    shrunk = large.image.reshape(128, 2, 128, 2, 3).mean((1, 3))
    face = small.face_mask > 0.9
    assert np.abs(shrunk - small.image)[face].mean() < 0.025


def test_the_neck_runs_into_the_shoulders_without_a_seam():
    person = dataclasses.replace(draw_person(rng(1)), beard=0.0)
    # A deep neckline shows skin from the neck to the chest.
    photo = photograph(person, frontal(fill=0.45, shift=(0.0, -0.1), clothes_pattern=0, hair_length=0.1), 256)
    column = photo.image[:, 126:130].mean((1, 2))
    unit = 0.45 * 256 / 2.15
    middle = 0.4 * 256
    strip = column[int(middle + 1.30 * unit) : int(middle + 1.52 * unit)]
    assert np.abs(np.diff(strip)).max() < 0.04


def test_two_shots_of_a_person_differ_but_show_the_same_colours():
    person = draw_person(rng(9))
    first, second = (photograph(person, frontal(s), SIZE) for s in (1, 2))
    strangers = [photograph(draw_person(rng(s)), frontal(1), SIZE) for s in (10, 11, 12, 13)]
    assert np.abs(first.image - second.image).mean() > 0.01
    near = np.abs(face_colour(first) - face_colour(second)).max()
    far = [np.abs(face_colour(first) - face_colour(other)).max() for other in strangers]
    assert near < 0.05 < max(far)
    assert near < np.median(far)


def test_people_differ_in_at_least_fifteen_traits_and_in_pixels():
    first, second = draw_person(rng(20)), draw_person(rng(21))
    differing = [
        field.name
        for field in dataclasses.fields(first)
        if getattr(first, field.name) != getattr(second, field.name)
    ]
    assert len(differing) >= 15
    one, two = (photograph(p, frontal(), SIZE) for p in (first, second))
    both = np.minimum(one.face_mask, two.face_mask) > 0.9
    assert np.abs(one.image - two.image)[both].mean() > 0.02


def test_every_trait_is_named_grouped_and_varies_between_people():
    people = [draw_person(rng(seed)) for seed in range(24)]
    traits = [person.traits() for person in people]
    fields = {field.name for field in dataclasses.fields(people[0])} - {"seed"}
    assert {trait.name for trait in traits[0]} == fields
    assert len(traits[0]) == len(fields)
    groups = [trait.group for trait in traits[0]]
    assert set(groups) == {"colour", "geometry", "marks"}
    assert min(groups.count(group) for group in set(groups)) >= 5
    for trait in traits[0]:
        assert trait.value == getattr(people[0], trait.name)
    for column in zip(*traits, strict=True):
        assert len({trait.value for trait in column}) > 1, column[0].name


@pytest.mark.parametrize(
    "change",
    [
        dict(nose_width=0.18), dict(eye_spacing=0.36), dict(mouth_width=0.31), dict(chin_length=1.15),
        dict(brow_thick=0.045), dict(hair_line=0.8), dict(ear_size=1.3), dict(head_width=0.8),
        dict(iris=(0.1, 0.4, 0.6)), dict(hair_colour=(0.5, 0.36, 0.19)), dict(skin=(0.15, 0.09, 0.06)),
    ],
)  # fmt: skip
def test_a_trait_changes_the_picture(change: dict[str, object]):
    person = dataclasses.replace(
        draw_person(rng(3)), glasses="", nose_width=0.11, eye_spacing=0.28, mouth_width=0.2, chin_length=0.95,
        brow_thick=0.02, hair_line=0.55, ear_size=0.85, head_width=0.66, iris=(0.1, 0.05, 0.02),
        hair_colour=(0.02, 0.02, 0.02), skin=(0.6, 0.4, 0.3),
    )  # fmt: skip
    shot = frontal(hair_length=0.2, eyes_open=1.0)
    before = photograph(person, shot, 128).image
    after = photograph(dataclasses.replace(person, **change), shot, 128).image
    assert (np.abs(before - after).max(-1) > 0.1).sum() > 20


def test_glasses_change_the_picture_only_near_the_head():
    bare = dataclasses.replace(draw_person(rng(10)), glasses="")
    worn = dataclasses.replace(bare, glasses="round", glasses_colour=(0.02, 0.02, 0.02))
    change = np.abs(photograph(bare, frontal(), SIZE).image - photograph(worn, frontal(), SIZE).image).max(-1)
    assert change[SIZE // 3 : 2 * SIZE // 3].max() > 0.2
    assert change[: SIZE // 8].max() == 0 == change[-SIZE // 8 :].max()


def test_light_from_the_other_side_brightens_the_other_cheek():
    person = dataclasses.replace(draw_person(rng(11)), glasses="")
    for sign in (-1.0, 1.0):
        photo = photograph(person, frontal(light=(sign, 0.1, 0.5), rim=0.0), SIZE)
        weight = photo.face_mask
        grey = photo.image.mean(-1) * weight
        half = SIZE // 2
        left = grey[:, :half].sum() / weight[:, :half].sum()
        right = grey[:, half:].sum() / weight[:, half:].sum()
        assert sign * (right - left) > 0.05


def test_unknown_shot_field_is_named():
    with pytest.raises(TypeError, match="jaw"):
        draw_shot(rng(), jaw=1.0)


def test_too_small_and_unknown_are_refused():
    with pytest.raises(ValueError, match="32"):
        photograph(draw_person(rng()), draw_shot(rng()), 8)
    with pytest.raises(ValueError, match="16"):
        dead_leaves(rng(), 4)
    with pytest.raises(ValueError, match="sky"):
        photograph(draw_person(rng()), draw_shot(rng(), background="sky"), 64)
    with pytest.raises(ValueError, match="no image"):
        contact_sheet([[]])


def test_dead_leaves_are_seeded_and_have_heavy_tailed_gradients():
    pictures = [dead_leaves(rng(seed), 128) for seed in range(6)]
    np.testing.assert_array_equal(pictures[0], dead_leaves(rng(0), 128))
    assert all(p.shape == (128, 128, 3) and p.dtype == np.float32 for p in pictures)
    assert min(p.min() for p in pictures) >= 0
    assert max(p.max() for p in pictures) <= 1
    slopes = np.concatenate([np.diff(p.mean(-1), axis=1).ravel() for p in pictures])
    kurtosis = (slopes**4).mean() / (slopes**2).mean() ** 2
    assert kurtosis > 6  # a Gaussian's is 3


def test_contact_sheet_places_the_images():
    red, blue = np.zeros((8, 8, 3), np.float32), np.zeros((8, 8, 3), np.float32)
    red[..., 0], blue[..., 2] = 1, 1
    sheet = contact_sheet([[red, blue], [blue]], gap=2)
    assert sheet.shape == (22, 22, 3)
    np.testing.assert_array_equal(sheet[2:10, 2:10], red)
    np.testing.assert_array_equal(sheet[2:10, 12:20], blue)
    np.testing.assert_array_equal(sheet[12:20, 12:20], np.ones_like(blue))
