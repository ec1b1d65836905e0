"""Identity guidance by hand, whom it takes pictures to show, and what it refuses."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from skimage import data
from torch import Tensor, nn

from pfstorer_core.diffusion.identity_guidance import IdentityGuidance, IdentitySettings
from pfstorer_core.diffusion.schedule import Schedule
from pfstorer_core.models.identity_mask import IdentityMaskConfig, build_mask
from pfstorer_core.models.iresnet import IResNet, IResNetConfig
from pfstorer_core.personalization.face_guidance import FaceGuidance
from pfstorer_core.recognition import Recognizer, cosines
from pfstorer_core.recognition.subject import direction_of, find_subject
from pfstorer_core.restore import restore
from pfstorer_core.restorers.clr_face.train_mask import new_mask

from .small import small_restorer

SCHEDULE = Schedule.scaled_linear().respaced(5)
SMALL = IResNetConfig(8, (8, 8, 16, 16), (1, 1, 1, 1), features=24)


@pytest.fixture(scope="module")
def recognizer() -> Recognizer:
    torch.manual_seed(0)
    return Recognizer(IResNet(SMALL).eval().requires_grad_(False), name="small")


@pytest.fixture(scope="module")
def photo() -> Tensor:
    """A face [1, 3, 192, 160] in [0, 1]."""
    pixels = torch.from_numpy(data.astronaut()[10:202, 140:300].copy())
    return pixels.movedim(-1, 0)[None].float() / 255


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"strength": -0.1}, "strength of 0 or more"),
        ({"strength": float("nan")}, "strength of 0 or more"),
        ({"clip": 0.0}, "a clip above 0"),
        ({"every": 0}, "every 1 or more"),
        ({"t_start": 0}, "would never act: .* Raise the window"),
        ({"t_start": 300, "t_stop": 300}, "would never act"),
    ],
)
def test_what_cannot_be_is_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        replace(IdentitySettings(), **change)


def brightness(x0: Tensor, _: int) -> Tensor:
    return x0.mean((1, 2, 3))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_a_step_has_the_length_that_was_asked_for(mode: Callable[[], Any]) -> None:
    """In every mode of torch, and for each row in units of its own spread."""
    spread, settings = torch.tensor([1.0, 3.0]), IdentitySettings(0.1, t_start=1001)
    with mode():
        x0 = torch.zeros(2, 4, 6, 8)
        guided = IdentityGuidance(settings, SCHEDULE, brightness, spread)(x0, 0)
        length = SCHEDULE.sqrt_alphas_cumprod[0].item() * 0.1
        torch.testing.assert_close(guided, length * spread.reshape(2, 1, 1, 1).expand_as(x0))
        held = IdentityGuidance(replace(settings, clip=0.02), SCHEDULE, brightness, spread)(x0, 0)
        torch.testing.assert_close(held, guided / 5)


def test_where_a_recogniser_sees_nothing_nothing_moves() -> None:
    noted = list[Tensor]()
    blind = IdentityGuidance(
        IdentitySettings(t_start=1001),
        SCHEDULE,
        lambda x0, number: (number * x0).sum((1, 2, 3)),
        on_step=lambda _, __, rms: noted.append(rms),
    )
    x0 = torch.randn(2, 4, 6, 8)
    guided = blind(x0, 0)
    assert torch.equal(guided[0], x0[0])
    assert not torch.equal(guided[1], x0[1])
    assert (noted[0] > 0).tolist() == [False, True]


def test_nothing_is_computed_where_nothing_would_change() -> None:
    def never(*_: Any) -> Tensor:
        raise AssertionError

    x0 = torch.randn(1, 4, 6, 8)
    for guidance in (
        IdentityGuidance(IdentitySettings(0.0), SCHEDULE, never),
        IdentityGuidance(IdentitySettings(), SCHEDULE, never, mask=torch.zeros(1, 1, 6, 8)),
    ):
        assert guidance(x0, 0) is x0


def test_what_is_decoded_shows_the_face_where_it_is(recognizer: Recognizer, photo: Tensor) -> None:
    """Of a small face in a large picture only its surroundings, in which it is found as in the whole."""
    large = torch.zeros(1, 3, 400, 360)
    large[..., 150:342, 120:280] = photo
    decoded = list[Tensor]()

    def decode(latents: Tensor) -> Tensor:
        decoded.append(latents)
        return latents.repeat_interleave(8, -1).repeat_interleave(8, -2)

    pictures = 2 * torch.cat([large, large.flip(-1)]) - 1
    subject = find_subject(recognizer, pictures, 1)
    for number, picture in enumerate(pictures.split(1)):
        assert subject.likeness(lambda x0: decoded.append(x0) or x0, picture, number) > 0.9999
    assert all(piece[0, 0].numel() < 0.7 * large[0, 0].numel() for piece in decoded)
    mask = subject.features(pictures, 1)
    assert mask.shape == (2, 1, 400, 360)
    for number in range(2):
        down, across = subject.regions[number]
        landmarks = subject.landmarks[number]
        assert landmarks is not None
        for x, y in landmarks[:4].round().int().tolist():
            assert mask[number, 0, down.start + y, across.start + x] > 0.95
        assert mask[number, 0, :100].max() < 1e-3
        assert 0.005 < mask[number].mean() < 0.1
    person = direction_of(recognizer, [photo, large])
    towards = find_subject(recognizer, pictures, 1, person)
    assert torch.equal(towards.wanted, person.expand(2, -1))
    shown = subject.wanted / subject.wanted.norm(dim=1, keepdim=True)
    half = find_subject(recognizer, pictures, 1, person, blend=0.5)
    torch.testing.assert_close(half.wanted, (shown + person) / 2)
    coarse = find_subject(recognizer, pictures, 8)
    (down, across), factor = coarse.regions[0], 8
    assert (down.start * factor, across.start * factor) <= (subject.regions[0][0].start, 400)
    likeness = coarse.likeness(decode, nn.functional.avg_pool2d(pictures[:1], 8), 0)
    assert likeness > 0.5, "its landmarks are those of its region"


def test_pictures_without_a_face(recognizer: Recognizer, caplog: pytest.LogCaptureFixture) -> None:
    """What may be a portrait is taken for one; in what cannot be, nobody is recognised."""
    subject = find_subject(recognizer, torch.zeros(1, 3, 64, 64), 8)
    assert subject.landmarks == [None]
    assert subject.regions == [(slice(0, 8), slice(0, 8))]
    assert "all of it is taken for one" in caplog.text
    with pytest.raises(ValueError, match="No face is found in a picture of 160 x 64 pixels, so nobody"):
        find_subject(recognizer, torch.zeros(1, 3, 64, 160), 8)


def test_a_restoration_comes_nearer_to_the_person(recognizer: Recognizer, photo: Tensor) -> None:
    model, bad = small_restorer(), torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    person = recognizer.embed(2 * photo - 1)[0]
    settings = IdentitySettings(0.2, t_start=1001)

    def run(face: FaceGuidance | None) -> tuple[Tensor, float]:
        image = restore(model, bad, upscale=2, steps=4, face=face, color_fix="none")
        return image, float(cosines(recognizer.embed(2 * image - 1), person))

    base, before = run(None)
    noted = list[float]()
    guide = FaceGuidance(recognizer, person, settings, on_step=lambda t, *_: noted.append(t))
    _, after = run(guide)
    assert after > before
    assert len(noted) == 4
    none = run(replace(guide, settings=replace(settings, strength=0.0)))[0]
    assert torch.equal(none, base)
    assert torch.equal(run(replace(guide, mask="landmarks"))[0], run(guide)[0]), "no face: all of it"
    learned = new_mask(model, "global", 32)
    with torch.no_grad():
        learned.get_parameter("logits").fill_(30.0)
    torch.testing.assert_close(run(replace(guide, mask=learned))[0], run(guide)[0])
    with torch.no_grad():
        learned.get_parameter("logits").fill_(-1e4)
    assert torch.equal(run(replace(guide, mask=learned))[0], base)
    with pytest.raises(ValueError, match="mask is of latents of 3 channels"):
        run(replace(guide, mask=build_mask(IdentityMaskConfig(3))))
    left = torch.zeros(1, 1, 4, 4)
    assert torch.equal(run(replace(guide, area=left))[0], base)
    left[..., :2] = 1
    moved = (run(replace(guide, area=left))[0] - base).abs().mean((0, 1, 2))
    assert moved[:8].mean() > moved[-8:].mean() > 0
