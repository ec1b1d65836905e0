"""What a person is learned from: squares about faces, crops of them, and a pool of pairs of latents."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from kornia.geometry import rotate
from skimage import data
from torch import Tensor

from pfstorer_core import Restorer
from pfstorer_core.imaging.alignment import FFHQ, aligned_face
from pfstorer_core.imaging.faces import find_faces
from pfstorer_core.personalization.photos import (
    AT_FIRST,
    LEAST_CROP,
    MARGIN,
    Pairs,
    Photos,
    aligned_side,
    crop,
    face_crops,
)
from pfstorer_core.training.degradation import random_degradation

from .small import small_diffbir


@pytest.fixture(scope="module")
def photos(restorer: Restorer) -> Photos:
    generator = torch.Generator().manual_seed(1)
    return Photos.of(restorer, [torch.rand(3, side, side, generator=generator) for side in (40, 56)])


def pairs(restorer: Restorer, photos: Photos, pool: int = 4, batch: int = 2, seed: int = 0) -> Pairs:
    return Pairs(restorer, photos, random_degradation("light", 32), 0.0, pool, batch, seed)


def names(found: list[dict[str, Any]], key: str = "hq") -> list[float]:
    """What tells latents apart."""
    return [round(float(sample[key].double().sum()), 6) for sample in found]


def test_latents_are_those_of_the_whole_photos(restorer: Restorer, photos: Photos) -> None:
    """At the restorer's size, scaled as its U-Net sees them."""
    size = restorer.header.image_size
    whole = torch.cat([
        torch.nn.functional.interpolate(
            image[None], (size, size), mode="bicubic", antialias=True, align_corners=False
        ).clamp(0, 1)
        for image in photos.images
    ])  # fmt: skip
    with torch.no_grad():
        expected = restorer.autoencoder.encode(2 * whole - 1) * restorer.header.scale_factor
    torch.testing.assert_close(photos.latents, expected, rtol=0, atol=0.02)


def test_a_square_has_a_margin_about_its_box() -> None:
    columns = torch.linspace(0, 1, 400)
    photo = (columns[None, :] + columns[:300, None]).expand(3, 300, 400) / 2
    ((square, found),) = face_crops([photo], [(200, 100, 240, 150)])
    side = round(50 * (1 + MARGIN))
    assert square.shape == (3, side, side)
    assert torch.equal(square, photo[:, 125 - side // 2 : 125 + side // 2, 220 - side // 2 : 220 + side // 2])
    ((corner, _),) = face_crops([photo], [(380, 0, 400, 20)])
    assert torch.equal(corner, photo[:, :32, -32:]), "as far as the photo goes"
    ((middle, known),) = face_crops([photo])
    assert torch.equal(middle, photo[:, :, 50:350])
    ((narrow, _),) = face_crops([photo[..., :60]], [(10, 100, 50, 150)])
    assert torch.equal(narrow, photo[:, 95:155, :60]), "a square, however narrow the photo is"
    assert (found, known) == (True, False)


@pytest.fixture(scope="module")
def portrait() -> tuple[Tensor, tuple[float, ...], Tensor]:
    """A photo whose face is turned, its box, and the face as an aligned one of 128 pixels."""
    photo = torch.from_numpy(data.astronaut().copy()).movedim(-1, 0)[None, :, :260, 90:350].float() / 255
    tilted = rotate(photo, torch.tensor([25.0]), padding_mode="reflection")[0]
    (face,) = find_faces(tilted)
    return tilted, face.box, aligned_face(tilted[None], face.landmarks, 128)[0][0]


def test_an_aligned_restorer_learns_aligned_faces(portrait: Any) -> None:
    """The one in the box, upright, with eyes and mouth where FFHQ has them, also where it is cut off."""
    photo, box, expected = portrait
    wide = torch.cat([photo, photo.flip(-1)], -1)
    ((face, found),) = face_crops([wide], [box], 128)
    assert found
    assert face.shape == (3, 128, 128)
    assert (face - expected).abs().mean() < 0.02
    ((as_it_lies, _),) = face_crops([wide], [box], 0)
    assert as_it_lies.shape[-1] != 128
    template = torch.tensor(FFHQ.points) * 128 / 512
    (there,) = find_faces(face)
    assert (there.landmarks[[0, 1, 3]] - template).norm(dim=1).max() < 5
    left, top, right, bottom = box
    cut = photo[..., : round((left + 3 * right) / 4)]
    ((half, found),) = face_crops([cut], [(left, top, cut.shape[-1], bottom)], 128)
    assert found
    assert half[:, :, 120:].std() > 0.02, "beyond the photo it is mirrored, and not of one colour"


def test_without_eyes_it_is_learned_as_it_lies() -> None:
    photo, box = torch.rand(3, 90, 80, generator=torch.Generator().manual_seed(0)), (20, 20, 50, 60)
    for given, known in ((box, False), (None, False)):
        ((aligned, found),) = face_crops([photo], [given], 64)
        ((plain, _),) = face_crops([photo], [given])
        assert torch.equal(aligned, plain)
        assert found is known


def test_which_restorers_know_aligned_faces(portrait: Any) -> None:
    diffbir = small_diffbir()
    general = replace(diffbir.header, aligned="")
    assert [aligned_side(header) for header in (diffbir.header, general)] == [32, 0]
    photo, box, _ = portrait
    (image,) = Photos.of(diffbir, [photo], [box]).images
    assert torch.equal(image, face_crops([photo], [box], 32)[0][0])
    (lying,) = Photos.of(replace(diffbir, header=general), [photo], [box]).images
    assert torch.equal(lying, face_crops([photo], [box])[0][0])


def test_crops_are_of_many_places_and_sizes() -> None:
    down = torch.linspace(0, 1, 100)[:, None].expand(3, 100, 100)
    rng = np.random.default_rng(0)
    found = [crop(down, 32, rng)[0, :, 0] for _ in range(60)]
    heights = np.array([float(each[-1] - each[0]) for each in found]) * 32 / 31
    assert LEAST_CROP - 0.03 < heights.min() < LEAST_CROP + 0.05
    assert 0.95 < heights.max() <= 1.03
    assert len({round(float(each[0]), 2) for each in found}) > 8


def test_one_pair_of_the_pool_is_exchanged_in_every_step(restorer: Restorer, photos: Photos) -> None:
    one = pairs(restorer, photos, pool=1, batch=3)
    steps = [names([one[3 * step + k] for k in range(3)]) for step in range(4)]
    assert [len(set(step)) for step in steps] == [1] * 4, "the newest alone"
    assert len({step[0] for step in steps}) == 4
    many = pairs(restorer, photos, pool=128, batch=40)
    first = set(names([many[k] for k in range(40)]))
    assert 10 < len(first) <= AT_FIRST
    later = set(names([many[40 * 7 + k] for k in range(40)]))
    assert later & first, "older ones stay in the pool"
    assert later - first, "new ones came"
    for drawn in (one, many):
        drawn.close()


def test_samples_are_those_of_their_seed(restorer: Restorer, photos: Photos) -> None:
    """Pairs, their order, references and everything that is drawn for them."""

    def drawn(seed: int) -> tuple[list[float], list[int], list[int]]:
        made = pairs(restorer, photos, seed=seed)
        found = [made[k] for k in range(8)]
        made.close()
        return names(found), [int(s["reference"]) for s in found], [int(s["seed"]) for s in found]

    one, same, other = drawn(0), drawn(0), drawn(1)
    assert one == same
    assert not set(one[0]) & set(other[0])
    assert len(set(one[2])) == len(set(other[2])) == 8
    assert not set(one[2]) & set(other[2])


def test_a_pair_is_a_photo_and_its_bad_copy(restorer: Restorer, photos: Photos) -> None:
    """Scaled latents; the reference is the other photo."""
    made = pairs(restorer, photos)
    seen: list[Tensor] = []
    handle = restorer.autoencoder.encoder.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    sample = made[0]
    handle.remove()
    made.close()
    hq, lq = seen[0], seen[1]
    assert hq.shape == lq.shape == (1, 3, 32, 32)
    assert -1 <= hq.min() < -0.5 < 0.5 < hq.max() <= 1
    with torch.no_grad():
        expected = restorer.autoencoder.encode(torch.cat([hq, lq])) * restorer.header.scale_factor
    torch.testing.assert_close(torch.stack([sample["hq"], sample["lq"]]), expected, rtol=0, atol=1e-5)
    assert (hq - lq).abs().mean() > 0.01


def test_the_reference_is_never_the_photo_itself(restorer: Restorer) -> None:
    noise = 0.1 * torch.rand(3, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    photos = Photos.of(restorer, [noise[0], noise[1] + 0.45, noise[2] + 0.9])
    made, seen = pairs(restorer, photos, pool=64, batch=30), set[tuple[int, int]]()
    levels: list[float] = []
    shown_by: dict[float, int] = {}
    handle = restorer.autoencoder.encoder.register_forward_pre_hook(
        lambda _, given: levels.append(float(given[0].mean()))
    )
    for k in range(30):
        before = len(levels)
        sample = made[k]
        (name,) = names([sample])
        if len(levels) > before:  # it was made just now: of HQ first, dark, grey or bright
            shown_by[name] = round((levels[before] + 0.9) / 0.9)
        seen.add((shown_by[name], int(sample["reference"])))
    handle.remove()
    made.close()
    assert len({shown for shown, _ in seen}) == 3
    assert all(shown != reference for shown, reference in seen)
    assert len(seen) > 3, "any of the others"
