"""What a node says of its work: below its name, in the log, and in the result that the host keeps."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from comfy_api.latest import ui
from server import PromptServer

from ...pfstorer_core.restorers.files import RestorerFile
from ...pfstorer_core.restorers.registry import note_of

CLEANER_APART = (
    "Its cleaner is a file of its own: connect Load Upscale Model (face_swinir_v1.ckpt for faces) to the "
    "sampler's input cleaner. face_full_v1.ckpt has one inside."
)


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


def described(file: RestorerFile) -> str:
    """What an opened restorer was taken for, and what it still needs."""
    header = file.header
    what = " ".join(filter(None, (header.architecture, header.variant)))
    rule = "faces brought to" if header.size_rule == "fixed" else "tiles of"
    taken = f"Taken for {what}: {header.prediction_type}, {rule} {header.image_size} pixels"
    note = f" {note_of(header)}" if note_of(header) else ""
    if header.condition == "sft" or not header.cleans:
        return f"{taken}.{note}"
    return f"{taken}, own cleaner.{note}" if file.cleaner else f"{taken}. {CLEANER_APART}{note}"
