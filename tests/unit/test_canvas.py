import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pfstorer_core.imaging import resizing
from pfstorer_core.imaging.canvas import MAX_ASPECT, MAX_UPSCALE, prepare_canvas, resize
from pfstorer_core.imaging.resizing import resize_short_side


@given(
    height=st.integers(1, 60),
    width=st.integers(1, 200),
    upscale=st.floats(1, 4),
    image_size=st.sampled_from([1, 32, 64]),
    multiple=st.sampled_from([4, 8]),
)
def test_any_size_comes_back_at_the_size_asked_for(
    height: int, width: int, upscale: float, image_size: int, multiple: int
) -> None:
    canvas = prepare_canvas(torch.rand(1, 3, height, width), upscale, image_size, multiple)
    assert canvas.target == (max(1, round(height * upscale)), max(1, round(width * upscale)))
    assert min(canvas.content) >= image_size or max(canvas.content) >= MAX_ASPECT * image_size - 1
    assert max(canvas.content) <= max(*canvas.target, MAX_ASPECT * image_size)
    assert all(side % multiple == 0 for side in canvas.picture.shape[-2:])
    assert all(
        0 <= side - inner < multiple
        for side, inner in zip(canvas.picture.shape[-2:], canvas.content, strict=True)
    )
    finished = canvas.finish(canvas.picture)
    assert finished.shape == (1, 3, *canvas.target)
    assert 0 <= finished.min() <= finished.max() <= 1


def test_padding_does_not_reach_the_result() -> None:
    image = torch.rand(2, 3, 9, 13)
    canvas = prepare_canvas(image, 1.0, 1, 8)
    spoiled = canvas.picture.clone()
    spoiled[..., 9:, :] = 5
    spoiled[..., :, 13:] = 5
    torch.testing.assert_close(canvas.finish(spoiled), image)


@pytest.mark.parametrize("upscale", [0.5, 0, MAX_UPSCALE + 1])
def test_upscale_out_of_range_is_named(upscale: float) -> None:
    with pytest.raises(ValueError, match="upscale"):
        prepare_canvas(torch.rand(1, 3, 8, 8), upscale, 8, 8)


def test_resize_leaves_the_right_size_alone() -> None:
    image = torch.rand(1, 3, 5, 7)
    assert resize(image, (5, 7)) is image


@pytest.mark.parametrize("size", [(5, 7), (40, 64), (3, 90), (90, 3), (17, 33)])
def test_large_pictures_are_resized_in_strips_to_the_same_bits(
    monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]
) -> None:
    pictures, heard = torch.rand(2, 3, 21, 34).movedim(1, -1).contiguous().movedim(-1, 1), []
    whole = resize(pictures, size, lambda: heard.append(1))
    assert not heard
    monkeypatch.setattr(resizing, "AT_ONCE", 100)
    monkeypatch.setattr(resizing, "STRIP", 2000)
    assert torch.equal(resize(pictures, size, lambda: heard.append(1)), whole)
    assert len(heard) > 3


@pytest.mark.parametrize(
    ("size", "result"),
    [
        ((75, 90), (96, 116)),
        ((90, 75), (116, 96)),
        ((200, 193), (100, 96)),
        ((96, 300), (96, 300)),
        ((7, 7), (96, 96)),
    ],
)
def test_the_short_side_gets_its_size_and_the_long_one_is_rounded_up(
    size: tuple[int, int], result: tuple[int, int]
) -> None:
    picture = torch.rand(1, 3, *size)
    resized = resize_short_side(picture, 96)
    assert torch.equal(resized, resize(picture, result))


def test_a_canvas_can_be_stopped_between_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resizing, "AT_ONCE", 100)
    heard: list[int] = []
    canvas = prepare_canvas(torch.rand(1, 3, 20, 24), 1.0, 64, 4, lambda: heard.append(1))
    for work in (canvas.enlarged, lambda: canvas.finish(canvas.picture.clone(), "wavelet")):
        assert heard
        heard.clear()
        work()
    assert heard


@pytest.mark.parametrize("fix", ["wavelet", "adain"])
def test_what_was_grey_comes_back_grey(fix: str) -> None:
    canvas = prepare_canvas(torch.rand(1, 1, 20, 24).expand(-1, 3, -1, -1), 2.0, 64, 8)
    finished = canvas.finish(torch.rand_like(canvas.picture), fix)
    assert (finished - finished[:, :1]).abs().max() < 1e-6
    assert finished.shape == (1, 3, 40, 48)


def test_padding_repeats_the_border() -> None:
    image = torch.rand(1, 3, 9, 13)
    picture = prepare_canvas(image, 1.0, 1, 8).picture
    assert picture.shape[-2:] == (16, 16)
    assert torch.equal(picture[..., :9, :13], image)
    assert torch.equal(picture[..., 9:, :13], image[..., -1:, :].expand(-1, -1, 7, -1))
    assert torch.equal(picture[..., :9, 13:], image[..., -1:].expand(-1, -1, -1, 3))


def test_small_results_are_restored_larger() -> None:
    """Up to the restorer's size along the short side; panoramas up to eight times it along the long one."""
    for size, content in (((20, 30), (64, 96)), ((4, 400), (5, 512)), ((70, 90), (70, 90))):
        canvas = prepare_canvas(torch.rand(1, 3, *size), 1.0, 64, 4)
        assert (canvas.content, canvas.target) == (content, size)


def test_what_is_finished_is_a_picture() -> None:
    canvas = prepare_canvas(torch.rand(1, 3, 16, 16), 1.0, 16, 8)
    wild = 3 * torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert torch.equal(canvas.finish(wild.clone()), wild.clamp(0, 1))
    wavelet, adain = (canvas.finish(wild.clone(), fix) for fix in ("wavelet", "adain"))
    assert not torch.equal(wavelet, adain)
    grey = prepare_canvas(torch.full((1, 3, 16, 16), 0.25), 1.0, 16, 8)
    flat = grey.finish(0.5 + 0.01 * wild, "wavelet")
    torch.testing.assert_close(flat.mean(), torch.tensor(0.25), rtol=0, atol=0.05)


def test_a_result_without_end_is_refused_before_it_is_made() -> None:
    with pytest.raises(ValueError, match="20000 x 20000 pixels, more than"):
        prepare_canvas(torch.zeros(1, 1, 1, 1).expand(1, 3, 2000, 2000), 10.0, 64, 8)
