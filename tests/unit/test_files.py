from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pfstorer_core.files import written
from pfstorer_core.pictures import read_picture, write_picture


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "a.txt"
    with written(path) as temporary:
        temporary.write_text("old")

    def fail() -> None:
        with written(path) as temporary:
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
