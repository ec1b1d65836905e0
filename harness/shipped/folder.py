"""Restore a folder: picture after picture of any sizes, each face as whoever it is."""

from __future__ import annotations

from .film import restored
from .parts import Node, Workflow

PICTURES = "pictures"

NODES, LINKS = restored(("pictures", "images"))

RESTORE_A_FOLDER = Workflow(
    "restore_a_folder",
    (
        Node("pictures", "LoadImageDataSetFromFolder", widgets={"folder": PICTURES}),
        *NODES,
        Node("save", "SaveImage", widgets={"filename_prefix": "PFStorer_folder"}),
    ),
    (*LINKS, ("paste", "IMAGE", "save", "images")),
)
