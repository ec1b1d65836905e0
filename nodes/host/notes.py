"""What a node says of its work: below its name, in the log, and in the result that the host keeps."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from comfy_api.latest import ui
from server import PromptServer


def show_text(node: str, text: str) -> None:
    """Show a text below the node of that id."""
    PromptServer.instance.send_progress_text(text, node)


def show_notes(node: str, notes: Sequence[str]) -> ui.PreviewText:
    """Show notes on the node of that id, and log them; the result is what the host keeps of them."""
    for note in notes:
        logging.getLogger(__name__).info(note)
    text = "\n".join(notes)
    show_text(node, text)
    return ui.PreviewText(text)
