"""What dropdowns offer: files of a kind in the host's model folders, and nothing that cannot be chosen."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import lru_cache

import folder_paths

from ...pfstorer_core.checkpoints.header import CONTROL_FORMAT
from ...pfstorer_core.checkpoints.header import FORMAT as RESTORER
from ...pfstorer_core.checkpoints.names import is_hidden
from ...pfstorer_core.checkpoints.reading import read_metadata, tensor_names
from ...pfstorer_core.personalization.header import FORMAT as ADAPTER
from ...pfstorer_core.personalization.lora.files import is_lora
from ...pfstorer_core.recognition.recognizer import FORMAT as RECOGNIZER
from ...pfstorer_core.restorers.clr_face.mask import FORMAT as MASK

OURS = b'"pfstorer'
"""Begins the format's name in each file of ours."""

LORA = "lora"
"""What anybody's LoRA is called here; also a part of its tensors' names."""


def names(folders: Sequence[str], formats: Sequence[str]) -> list[str]:
    """Files of the host's folders of these names, by their paths within them; links are followed.

    Args:
        formats: of the files, see `format_of`.
    """
    found = dict.fromkeys(
        name
        for folder in folders
        for name in folder_paths.get_filename_list(folder)
        if not is_hidden(name) and _offered(folder, name, formats)
    )
    return list(found)


def restorers(*folders: str) -> list[str]:
    """Also files that do not say what they are."""
    return names(folders, (RESTORER, ""))


def addons(*folders: str) -> list[str]:
    """Files that do not say what they are."""
    return names(folders, ("",))


def controls(*folders: str) -> list[str]:
    """Also control networks of ours."""
    return names(folders, (CONTROL_FORMAT, ""))


def masks(*folders: str) -> list[str]:
    return names(folders, (MASK,))


def recognizers(*folders: str) -> list[str]:
    """Also files that do not say what they are."""
    return names(folders, (RECOGNIZER, ""))


def adapters(*folders: str) -> list[str]:
    """Also LoRAs that were made elsewhere."""
    return names(folders, (ADAPTER, LORA))


def _offered(folder: str, name: str, formats: Sequence[str]) -> bool:
    for root in folder_paths.get_folder_paths(folder):
        path = os.path.join(root, name)
        if os.path.isfile(path):
            return not _in_a_loop(root, name) and format_of(path) in formats
    return False


def _in_a_loop(root: str, name: str) -> bool:
    """Whether the way to a file goes through a folder twice, by a link to a folder that it lies in."""
    folder = os.path.dirname(os.path.join(root, name))
    seen = [os.path.realpath(root)]
    for part in os.path.relpath(folder, root).split(os.sep):
        root = os.path.join(root, part)
        if part != os.curdir:
            seen.append(os.path.realpath(root))
    return len(set(seen)) < len(seen)


def format_of(path: str) -> str:
    """What a .safetensors file of ours says that it is, by its header alone; `LORA` for any LoRA, "" for
    any other file."""
    try:
        stat = os.stat(path)
    except OSError:
        return ""
    return _format_of(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=4096)
def _format_of(path: str, size: int, modified: int) -> str:
    """`size` and `modified`: a file that is changed is read again."""
    return read_metadata(path, OURS).get("format") or (
        LORA if is_lora(tensor_names(path, LORA.encode())) else ""
    )
