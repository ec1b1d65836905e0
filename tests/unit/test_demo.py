"""The demo takes whatever picture a user has, and says what is wrong with what it can't take."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from harness import ROOT
from harness.console import HarnessError
from harness.picture import LARGEST_OUTPUT, damage, plan, read_picture, side_by_side, write_png

GRADIENT = np.tile(np.linspace(0, 1, 64), (48, 1))
"""[48,64], dark at the left, bright at the right."""


def grey8() -> np.ndarray:
    return (GRADIENT * 255).round().astype(np.uint8)


def rgb() -> Image.Image:
    return Image.fromarray(grey8()).convert("RGB")


def save_sixteen_bit(path: Path) -> None:
    Image.fromarray((GRADIENT * 65535).astype(np.uint16)).save(path)


def save_float(path: Path) -> None:
    Image.fromarray(GRADIENT.astype(np.float32)).save(path, "TIFF")


def save_cmyk(path: Path) -> None:
    rgb().convert("CMYK").save(path, "TIFF")


def save_animated(path: Path) -> None:
    rgb().save(path, "GIF", save_all=True, append_images=[Image.new("RGB", (64, 48), "red")])


def save_palette(path: Path) -> None:
    rgb().quantize(256).save(path, "PNG")


@pytest.mark.parametrize("save", [save_sixteen_bit, save_float, save_cmyk, save_animated, save_palette])
def test_unusual_pictures_keep_their_tones(tmp_path: Path, save: Callable[[Path], None]) -> None:
    path = tmp_path / "picture.png"
    save(path)
    image = read_picture(path)
    assert (image.mode, image.size) == ("RGB", (64, 48))
    values = np.asarray(image, np.int16)
    assert np.abs(values - grey8()[..., None]).max() <= 6


def test_transparency_becomes_white(tmp_path: Path) -> None:
    Image.new("RGBA", (32, 32), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    assert read_picture(tmp_path / "clear.png").getpixel((5, 5)) == (255, 255, 255)


def test_camera_rotation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by a quarter, clockwise, to see it upright
    rgb().save(tmp_path / "turned.jpg", exif=exif)
    image = np.asarray(read_picture(tmp_path / "turned.jpg"))
    assert image.shape == (64, 48, 3)
    assert image[0].mean() < 10
    assert image[-1].mean() > 245


def save_text(path: Path) -> None:
    path.write_text("no picture")


def save_nothing(path: Path) -> None:
    path.write_bytes(b"")


def save_half(path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:4000])


def save_pixel(path: Path) -> None:
    Image.new("RGB", (1, 1)).save(path)


def save_huge(path: Path) -> None:
    Image.new("1", (20000, 20000)).save(path)


def save_large(path: Path) -> None:
    Image.new("1", (11000, 11000)).save(path)


@pytest.mark.parametrize(
    ("save", "message"),
    [
        (lambda path: None, "no such file"),
        (lambda path: path.mkdir(), "no such file"),
        (save_text, "not a picture"),
        (save_nothing, "not a picture"),
        (save_half, "damaged picture"),
        (save_pixel, "1 x 1 pixels are too few"),
        (save_large, "11000 x 11000 pixels are too many"),
        (save_huge, "far too large"),
    ],
)
def test_unusable_pictures_are_named(tmp_path: Path, save: Callable[[Path], None], message: str) -> None:
    path = tmp_path / "picture.png"
    save(path)
    with pytest.raises(HarnessError, match=message) as caught:
        read_picture(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("size", "upscale", "planned"),
    [
        ((128, 128), 4.0, ((128, 128), 4.0)),
        ((512, 512), 4.0, ((512, 512), 2.0)),
        ((1024, 1024), 4.0, ((1024, 1024), 1.0)),
        ((4000, 3000), 4.0, ((1182, 886), 1.0)),
        ((20000, 16), 4.0, ((4096, 3), 1.0)),
    ],
)
def test_output_stays_small(
    size: tuple[int, int], upscale: float, planned: tuple[tuple[int, int], float]
) -> None:
    assert plan(size, upscale) == planned
    (width, height), factor = planned
    assert width * height * factor**2 <= LARGEST_OUTPUT


def test_damage_is_seeded_and_loses_detail() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (256, 256, 3), np.uint8)
    image = Image.fromarray(noise)
    damaged = damage(image, seed=3)
    assert damaged.size == (64, 64)
    assert damaged.tobytes() == damage(image, seed=3).tobytes()
    assert damaged.tobytes() != damage(image, seed=4).tobytes()
    assert np.asarray(damaged).std() < 0.3 * noise.std()


@pytest.mark.parametrize("size", [(64, 64), (300, 40)], ids=["in a row", "in a column"])
def test_side_by_side_shows_every_panel(tmp_path: Path, size: tuple[int, int]) -> None:
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    sheet = side_by_side([(str(colour), Image.new("RGB", size, colour)) for colour in colours])
    write_png(sheet, tmp_path / "sheet.png")
    assert [path.name for path in tmp_path.iterdir()] == ["sheet.png"]
    pixels = np.asarray(Image.open(tmp_path / "sheet.png")).reshape(-1, 3)
    for colour in colours:
        assert (pixels == colour).all(axis=1).sum() == size[0] * size[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--image", "no-such.jpg"], "no-such.jpg: there is no such file"),
        (["--upscale", "lots"], "UPSCALE=lots: a number from 1 to 20 is needed"),
        (["--upscale", "nan"], "UPSCALE=nan: a number from 1 to 20 is needed"),
        (["--upscale", "21"], "UPSCALE=21: a number from 1 to 20 is needed"),
        (["--out", "LICENSE"], "OUT=LICENSE is no folder to write to"),
    ],
)
def test_command_ends_with_one_line(arguments: list[str], message: str) -> None:
    command = [sys.executable, "-m", "harness.demo", *arguments]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr.startswith(f"error: {message}")
    assert result.stderr.count("\n") == 1
