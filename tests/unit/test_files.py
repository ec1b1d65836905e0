import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import EpsImagePlugin, Image

from harness import ROOT
from pfstorer_core.checkpoints.files import atomic_write, check_output
from pfstorer_core.imaging.pictures import read_picture, write_picture


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "a.txt"
    with atomic_write(path) as temporary:
        temporary.write_text("old")

    def fail() -> None:
        with atomic_write(path) as temporary:
            temporary.write_text("half of the n")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


def test_pictures_round_trip(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255
    write_picture(image, tmp_path / "a.png")
    torch.testing.assert_close(read_picture(tmp_path / "a.png"), image, rtol=0, atol=1e-6)


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.png"):
        read_picture(tmp_path / "none.png")
    (tmp_path / "text.png").write_text("not a picture")
    with pytest.raises(ValueError, match=r"text\.png"):
        read_picture(tmp_path / "text.png")


@pytest.mark.parametrize("mode", ["L", "RGBA", "CMYK", "P", "I;16"])
def test_any_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    name = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    Image.new(mode, (4, 3)).save(name)
    assert read_picture(name).shape == (1, 3, 3, 4)


@pytest.mark.parametrize(
    ("name", "values", "scale", "stray"),
    [
        ("a.tif", np.float32, 1, 1.02),
        ("b.tif", np.float32, 1, 3.5),
        ("c.tif", np.float32, 255, 255),
        ("d.tif", np.int32, 255, 255),
        ("e.tif", np.int32, 255, 300),
        ("f.tif", np.int32, 65535, 65535),
        ("g.tif", np.uint16, 65535, 65535),
        ("h.png", np.uint16, 65535, 65535),
    ],
)
def test_grey_pictures_of_more_than_8_bits_come_out_right(
    tmp_path: Path, name: str, values: type, scale: float, stray: float
) -> None:
    pixels = np.full((64, 64), 0.6)
    pixels[10:50, 20:40] = 0.8
    stored = (pixels * scale).astype(values)
    stored[0, 0] = stray
    Image.fromarray(stored).save(tmp_path / name)
    expected = torch.from_numpy(pixels).float().expand(1, 3, -1, -1)
    found = read_picture(tmp_path / name)
    torch.testing.assert_close(found[..., 1:, :], expected[..., 1:, :], rtol=0, atol=0.006)


def test_nan_in_a_picture_is_an_error_that_names_it(tmp_path: Path) -> None:
    values = np.zeros((4, 4), np.float32)
    values[1, 2] = np.nan
    Image.fromarray(values).save(tmp_path / "nan.tif")
    with pytest.raises(ValueError, match=r"nan\.tif .*NaN or infinity"):
        read_picture(tmp_path / "nan.tif")


def png(*chunks: tuple[bytes, bytes]) -> bytes:
    made = b"\x89PNG\r\n\x1a\n"
    for kind, data in chunks:
        made += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return made


SIZE = struct.pack(">IIBBBBB", 4, 4, 8, 2, 0, 0, 0)
BROKEN = {
    "postscript.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n",
    "program.png": b"%PDF-1.4\n",
    "bomb.png": png((b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)), (b"IDAT", b"x")),
    "no data.png": png((b"IHDR", SIZE), (b"IEND", b"")),
    "chunk.png": png((b"IHDR", SIZE), (b"iCCP", b"x")) + b"\xff" * 30,
    "cut.png": png((b"IHDR", SIZE))[:20],
    "short.png": png((b"IHDR", b"\x00\x00")),
    "cut.tif": b"II*\x00\x08\x00\x00\x00\xff\xff",
    "cut.jpg": b"\xff\xd8\xff\xe0\x00\x10JFIF",
    "cut.bmp": b"BM" + bytes(30),
    "empty.png": b"",
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_and_other_pictures_are_refused_in_a_line(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def started(*_: object, **__: object) -> None:
        raise AssertionError("a program was started")

    monkeypatch.setattr(subprocess, "Popen", started)
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", started)
    (tmp_path / name).write_bytes(BROKEN[name])
    with pytest.raises(ValueError, match=rf"{name} is not a picture that can be read") as error:
        read_picture(tmp_path / name)
    assert type(error.value) is ValueError
    assert str(error.value).isprintable()
    assert "AssertionError" not in repr(error.value.__cause__)


@pytest.mark.parametrize(
    ("ending", "kind"), [("png", "PNG"), ("JPG", "JPEG"), ("webp", "WEBP"), ("tif", "TIFF")]
)
def test_the_ending_is_the_format(tmp_path: Path, ending: str, kind: str) -> None:
    write_picture(torch.full((1, 3, 8, 8), 0.5), tmp_path / f"a.{ending}")
    with Image.open(tmp_path / f"a.{ending}") as image:
        assert image.format == kind


def test_another_ending_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a\.xyz has to end in \.png"):
        write_picture(torch.zeros(1, 3, 8, 8), tmp_path / "a.xyz")
    assert not list(tmp_path.iterdir())


def test_what_a_killed_writer_left_is_removed(tmp_path: Path) -> None:
    script = "import os, sys\nfrom pfstorer_core.checkpoints.files import atomic_write\n"
    script += "with atomic_write(sys.argv[1]) as t: t.write_text('half'); os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "a.txt")], cwd=ROOT, check=False)
    assert len(list(tmp_path.iterdir())) == 1
    (tmp_path / ".somebody.else.part").write_text("not ours")
    with atomic_write(tmp_path / "b.txt") as temporary:
        temporary.write_text("one")
        with atomic_write(tmp_path / "a.txt") as other:  # what is being written stays
            other.write_text("two")
    assert sorted(p.name for p in tmp_path.iterdir()) == [".somebody.else.part", "a.txt", "b.txt"]


def test_the_longest_name_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / ("é" * 125 + ".png")
    check_output(path)
    with atomic_write(path) as temporary:
        temporary.write_text("x")
    assert path.read_text() == "x"


def test_where_nothing_can_be_written_is_said_before(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    for path, said in {
        tmp_path: "is a folder",
        tmp_path / "file" / "a.png": "is no folder",
        tmp_path / ("é" * 130): "cannot be written",
    }.items():
        with pytest.raises(OSError, match=said):
            check_output(path)
    check_output(tmp_path / "new" / "folder" / "a.png")
    assert not (tmp_path / "new").exists()
