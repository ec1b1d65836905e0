"""Text that comes from files, and sizes, as they are shown to people."""

from __future__ import annotations

from collections.abc import Iterable

LONGEST = 1500
"""Characters of an error: what was tried with an unknown file, and its own keys, find room."""


def plain(text: object, most: int = 100) -> str:
    """A text of unknown origin on one line: without control characters (terminals obey some) and lone
    surrogates, and cut to `most` characters."""
    told = str(text)
    shown = "".join(c if c.isprintable() else " " if c.isspace() else "�" for c in told[: most + 1])
    return shown if len(told) <= most else shown[: most - 1] + "…"


def bytes_in_words(count: int) -> str:
    """A size with three digits and the unit that suits it, such as 12.3 MB."""
    size, units = float(count), ["bytes", "kB", "MB", "GB", "TB"]
    while size >= 999.5 and len(units) > 1:
        size, units = size / 1000, units[1:]
    return f"{size:.3g} {units[0]}"


def first_keys(keys: Iterable[str], count: int = 4) -> str:
    """The first keys of a list, for an error."""
    listed = list(keys)
    return ", ".join(map(plain, listed[:count])) + (", …" if len(listed) > count else "")
