"""Pictures side by side, each with a caption on it, by ComfyUI's own nodes."""

from __future__ import annotations

from collections.abc import Sequence

from .parts import Links, Node

CAPTION = {"font_size": 6.0, "position": "bottom", "align": "center"}
SPACE = {"spacing_width": 8}


def captioned(captions: Sequence[tuple[str, str]]) -> tuple[Node, ...]:
    """A caption for each (name, text), and what stitches them into a row."""
    return (
        *(Node(f"caption {name}", "TextOverlay", text, {"text": text, **CAPTION}) for name, text in captions),
        *(Node(f"with {name}", "ImageStitch", widgets=SPACE) for name, _ in captions[1:]),
    )


def in_a_row(names: Sequence[str]) -> Links:
    """Between the nodes of `captioned`, whose row comes from the last `with …`."""
    before, links = f"caption {names[0]}", []
    for name in names[1:]:
        links += [
            (before, "IMAGE" if before.startswith("with") else "images", f"with {name}", "image1"),
            (f"caption {name}", "images", f"with {name}", "image2"),
        ]
        before = f"with {name}"
    return tuple(links)
