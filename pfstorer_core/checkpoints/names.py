"""Names that people give to files: such as every system takes."""

from __future__ import annotations

import os
import tempfile
import unicodedata
from pathlib import Path

RESERVED = {"CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$"} | {
    f"{device}{number}" for device in ("COM", "LPT") for number in "0123456789¹²³"
}
"""Names that Windows keeps for devices, whatever follows after a dot."""
FORBIDDEN = '<>:"/\\|?*'
UNSEEN = ("Cc", "Cs", "Zl", "Zp")
"""Unicode's categories of what no name can hold: controls, halves of characters, ends of lines."""
TURNING = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
"""Characters that turn the direction of writing, so that a name reads as another one."""
LONGEST = 255
"""Bytes of a file's name on most systems."""
RESERVE = 36
"""Bytes for what is added to a name, a number (_2) or what a file is called while it is written."""


def checked_name(name: str, suffix: str) -> str:
    """A name without its suffix, in Unicode's form NFC.

    Raises:
        ValueError: one that this system or Windows, to which files are carried, does not take.
    """
    name = unicodedata.normalize("NFC", name)
    if name.lower().endswith(suffix):
        name = name[: -len(suffix)]
    why = _fault(name, LONGEST - RESERVE - len(suffix))
    if why:
        shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in name[:40])
        raise ValueError(f"{shown!r} is no name for a file: {why}. Use letters, digits and spaces.")
    return name


def _fault(name: str, longest: int) -> str:
    bad = [c for c in name if c in FORBIDDEN or c in TURNING or unicodedata.category(c) in UNSEEN]
    if not any(unicodedata.category(c)[0] not in "CZ" for c in name):
        return "it is empty"
    if bad:
        shown = " ".join(dict.fromkeys(c if c.isprintable() else f"U+{ord(c):04X}" for c in bad))
        return f"it holds {shown}, which not every system takes (and folders cannot be named here)"
    if name[0] in " ." or name[-1] in " .":
        return "it begins or ends with a space or a dot"
    if name.split(".")[0].rstrip().upper() in RESERVED:
        return "Windows keeps it for a device"
    if (size := len(name.encode())) > longest:
        return f"it takes {size} bytes, and {longest} are the most"
    return ""


def check_place(path: Path) -> None:
    """See, before any work is done, whether a file of that name can be written where it is to lie.

    Raises:
        OSError: it cannot; the message has the folder and what the system says.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(f"{path.name} is a folder there")
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", suffix=".part"):
            pass
    except OSError as error:
        raise type(error)(
            f"{path.name} cannot be written into {path.parent}: {error.strerror or error}. Make that folder "
            "writable, or choose another name."
        ) from error


def numbered(path: Path, number: int) -> Path:
    """The name that is taken where `number` - 1 like it are taken: anna, anna_2, anna_3, …"""
    return path if number == 1 else path.with_name(f"{path.stem}_{number}{path.suffix}")


def is_hidden(name: str | os.PathLike[str]) -> bool:
    """Whether a part of a relative path begins with a dot."""
    return any(part.startswith(".") for part in Path(name).parts)
