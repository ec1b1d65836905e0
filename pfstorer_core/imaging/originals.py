"""Picture files that are restored: what of them a result keeps beside its pixels."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageOps
from torch import Tensor

from ..checkpoints.files import atomic_write
from ..checkpoints.words import plain
from .pictures import WRITTEN, check_picture_name, from_image, opened, to_bytes, to_rgb
from .resizing import resize

MODES = {
    "PNG": ("L", "LA", "RGB", "RGBA"),
    "TIFF": ("L", "LA", "RGB", "RGBA"),
    "WEBP": ("RGB", "RGBA"),
    "JPEG": ("L", "RGB"),
    "BMP": ("L", "RGB"),
}
"""Pillow's modes that a format holds: grey, colours, and both with transparency."""
GREY_MODES = ("1", "L", "LA", "La", "I", "F")
"""Pillow's modes of grey pictures; those of 16 bits begin with "I;"."""
PROFILES = {"L": b"GRAY", "LA": b"GRAY", "RGB": b"RGB ", "RGBA": b"RGB "}
"""What the header of a colour profile (ICC.1, bytes 16 to 19) says of the pixels that it is for."""
EXIF_IFD, GPS_IFD, INTEROPERABILITY = 0x8769, 0x8825, 0xA005
SIDES = ((0xA003, 0), (0xA002, 1))
"""EXIF's height and width of the picture."""
DESCRIPTIONS = (
    *range(0x010D, 0x0111),  # name of the document, description, make, model
    0x0131, 0x0132, 0x013B, 0x013C,  # software, date, artist, computer
    0x4746, 0x4749, 0x8298,  # rating, copyright
    *range(0x9C9B, 0x9CA0),  # title, comment, author, keywords and subject of Windows
)  # fmt: skip
"""Tags of the file as a whole that are kept. The others say how its pixels are stored, or turned."""
LONGEST_EXIF = 65_000
"""Bytes of it that a JPEG has room for."""


@dataclass(frozen=True, eq=False)
class Original:
    """A picture file.

    Attributes:
        picture: [1, 3, H, W] in [0, 1], upright; white where nothing is seen of it.
        alpha: [1, 1, H, W] in [0, 1]; None: it is opaque.
        grey: whether it has no colours.
        profile: of its colours (ICC); empty where it has none. It is kept as it is: pixels are restored as
            they are stored.
        exif: whoever took it, when, where and how, without how it is to be turned.
        times: when it was last read and changed, in nanoseconds.
    """

    picture: Tensor
    alpha: Tensor | None = None
    grey: bool = False
    profile: bytes = b""
    exif: Image.Exif = field(default_factory=Image.Exif)
    times: tuple[int, int] | None = None

    @classmethod
    def read(cls, path: Path | str) -> Original:
        """Of a file, the first picture of several.

        Raises:
            FileNotFoundError, ValueError: see `read_picture`.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"No picture at {plain(path, 200)}.")
        stat = path.stat()
        with opened(path, path) as image:
            grey = image.mode in GREY_MODES or image.mode.startswith("I;")
            profile, exif = image.info.get("icc_profile") or b"", described(image)
            upright = ImageOps.exif_transpose(image)
            picture, alpha = from_image(to_rgb(upright, image.format)), None
            if upright.has_transparency_data:
                pixels = from_image(upright.convert("RGBA"))
                alpha = pixels[:, 3:]
                # Not as they look on white: seen through once more, they would be paler.
                picture = torch.where(alpha > 0, pixels[:, :3], 1.0)
        return cls(picture, alpha, grey, profile, exif, (stat.st_atime_ns, stat.st_mtime_ns))

    def write(self, restored: Tensor, path: Path | str) -> None:
        """Write a restored picture [1, 3, h, w] in [0, 1] as this one was, as far as the format of its ending
        can: grey or in colours, with its transparency, else on white, 8 bits a value; with profile, EXIF and
        date.

        Raises:
            ValueError: see `check_picture_name`.
        """
        check_picture_name(path)
        kind, settings = WRITTEN[Path(path).suffix.lower()]
        size = restored.shape[-2], restored.shape[-1]
        alpha = None if self.alpha is None else resize(self.alpha, size).clamp(0, 1)
        if alpha is not None and "RGBA" not in MODES[kind]:
            restored, alpha = restored.lerp(torch.ones(()), 1 - alpha), None
        image = Image.fromarray(to_bytes(restored[0]))
        if self.grey and "L" in MODES[kind]:
            image = image.convert("L")
        if alpha is not None:
            image.putalpha(Image.fromarray(to_bytes(alpha[0])[..., 0]))
        extras: dict[str, Any] = {}
        if self.profile[16:20] == PROFILES[image.mode]:
            extras["icc_profile"] = self.profile
        if exif := sized(self.exif, size):
            extras["exif"] = exif
        with atomic_write(path) as temporary:
            image.save(temporary, kind, **settings, **extras)
            if self.times:
                os.utime(temporary, ns=self.times)


def described(image: Image.Image) -> Image.Exif:
    """What of a picture's EXIF holds for a restored one; nothing where it is damaged."""
    kept = Image.Exif()
    try:
        found = image.getexif()
        kept.update({tag: found[tag] for tag in DESCRIPTIONS if tag in found})
        for number in (EXIF_IFD, GPS_IFD):
            if values := {tag: v for tag, v in found.get_ifd(number).items() if tag != INTEROPERABILITY}:
                kept[number] = values
        kept.tobytes()
    except Exception:  # what damaged tags lead to has no limits, and the picture is worth more
        return Image.Exif()
    return kept


def sized(exif: Image.Exif, size: tuple[int, int]) -> bytes:
    """EXIF for a picture of that height and width; empty where there is none, or too much for a file."""
    if not len(exif):
        return b""
    copy = Image.Exif()
    copy.load(exif.tobytes())
    values = dict(copy.get_ifd(EXIF_IFD))
    if values:
        copy[EXIF_IFD] = {**values, **{tag: size[axis] for tag, axis in SIDES if tag in values}}
    found = copy.tobytes()
    return found if len(found) <= LONGEST_EXIF else b""
