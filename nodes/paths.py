"""Model folders: models/restorers beside the host's own models/checkpoints, and the shipped tiny restorer."""

from __future__ import annotations

import os
from pathlib import Path

import folder_paths

RESTORERS = "restorers"
CHECKPOINTS = "checkpoints"
TINY_RESTORER = "pfstorer_tiny.safetensors"
EXTENSIONS = {".safetensors", ".ckpt", ".pt", ".pth"}
ASSETS = Path(__file__).resolve().parent.parent / "assets"


def register_model_folders() -> None:
    """Add models/restorers, keeping what extra_model_paths.yaml may have said of it, and our assets."""
    own = os.path.join(folder_paths.models_dir, RESTORERS)
    os.makedirs(own, exist_ok=True)  # so that a user finds it
    for folder in (own, str(ASSETS)):
        folder_paths.add_model_folder_path(RESTORERS, folder)
    paths, _ = folder_paths.folder_names_and_paths[RESTORERS]
    folder_paths.folder_names_and_paths[RESTORERS] = (paths, EXTENSIONS)  # the host leaves it empty


def restorer_names() -> list[str]:
    """Every file that may hold a restorer; ours first, so that it is the default."""
    restorers = folder_paths.get_filename_list(RESTORERS)
    names = dict.fromkeys([*restorers, *folder_paths.get_filename_list(CHECKPOINTS)])
    return sorted(names, key=lambda name: (name != TINY_RESTORER, name.lower()))


def restorer_path(name: str) -> str:
    """The file of that name.

    Raises:
        FileNotFoundError: lists the folders that were searched.
    """
    for folder in (RESTORERS, CHECKPOINTS):
        if path := folder_paths.get_full_path(folder, name):
            return path
    searched = [
        *folder_paths.get_folder_paths(RESTORERS),
        *folder_paths.get_folder_paths(CHECKPOINTS),
    ]
    raise FileNotFoundError(f"No restorer named {name}. Folders searched: {', '.join(searched)}.")
