"""Model folders of ours beside the host's, and what is shipped."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

import folder_paths

from ...pfstorer_core.checkpoints.names import check_place, checked_name
from ...pfstorer_core.restorers.clr_face.mask import MASKS as UNLEARNED
from . import listing

RESTORERS = "restorers"
CHECKPOINTS = "checkpoints"
ADDONS = "stablesr"
ADAPTERS = "identity_adapters"
ADAPTER_SUFFIX = ".safetensors"
VAES = "vae"
CONTROLNETS = "controlnet"
FACE_DETECTORS = "face_detection"
RECOGNIZERS = "face_recognizers"
MASKS = "identity_masks"
DLIB = "dlib_resnet29.safetensors"
BUILT_IN = "blazeface"
"""The choice of no file: the detector that is shipped."""
NONE = "none"
"""The choice of no add-on."""
TINY_RESTORER = "pfstorer_tiny.safetensors"
EXTENSIONS = {".safetensors", ".ckpt", ".pt", ".pth"}
EXTENSIONS_OF = {FACE_DETECTORS: {".onnx"}, RECOGNIZERS: EXTENSIONS | {".onnx"}}
"""ONNX files of recognisers are offered so that it can be said what to do with them."""
ASSETS = Path(__file__).resolve().parents[2] / "assets"


def register_model_folders() -> None:
    """Add models/restorers and models/stablesr, with our assets, keeping what extra_model_paths.yaml
    may have said of them."""
    shipped = {
        RESTORERS: [str(ASSETS)],
        ADDONS: [str(ASSETS)],
        ADAPTERS: [str(ASSETS / ADAPTERS)],
        FACE_DETECTORS: [],
        RECOGNIZERS: [str(ASSETS / RECOGNIZERS)],
        MASKS: [str(ASSETS / MASKS)],
    }
    for name, folders in shipped.items():
        own = os.path.join(folder_paths.models_dir, name)
        with suppress(OSError):  # models may be read-only
            os.makedirs(own, exist_ok=True)  # so that a user finds it
        for folder in (own, *folders):
            folder_paths.add_model_folder_path(name, folder)
        paths, _ = folder_paths.folder_names_and_paths[name]
        extensions = EXTENSIONS_OF.get(name, EXTENSIONS)  # the host leaves them empty
        folder_paths.folder_names_and_paths[name] = (paths, extensions)


def restorer_names() -> list[str]:
    """Every file that may hold a restorer; ours first, so that it is the default."""
    names = listing.restorers(RESTORERS, CHECKPOINTS)
    return sorted(names, key=lambda name: (name != TINY_RESTORER, name.lower()))


def weight_names() -> list[str]:
    """Every file that may hold a restorer's own weights; none first."""
    return [NONE, *sorted(listing.controls(ADDONS, CONTROLNETS), key=str.lower)]


def cfw_names() -> list[str]:
    """Every file that may be a CFW autoencoder; none first."""
    return [NONE, *sorted(listing.addons(ADDONS, VAES), key=str.lower)]


def restorer_path(name: str) -> str:
    """The restorer of that name; raises FileNotFoundError, with the folders that were searched."""
    return _path(name, RESTORERS, CHECKPOINTS)


def addon_paths(*names: str) -> tuple[str, ...]:
    """The add-ons of these names, none left out; raises FileNotFoundError as `restorer_path` does."""
    return tuple(_path(name, ADDONS, CONTROLNETS, VAES) for name in names if name != NONE)


def face_detectors() -> list[str]:
    """The built-in one, then every file that may be one."""
    return [BUILT_IN, *sorted(listing.addons(FACE_DETECTORS), key=str.lower)]


def face_detector(name: str) -> str | None:
    """The file of the detector of that name, None for the built-in one; raises FileNotFoundError as
    `restorer_path` does."""
    return None if name == BUILT_IN else _path(name, FACE_DETECTORS)


def recognizer_names() -> list[str]:
    """Every file that may hold a recogniser; dlib's first, so that it is the default."""
    return sorted(listing.recognizers(RECOGNIZERS), key=lambda name: (name != DLIB, name.lower()))


def recognizer_path(name: str) -> str:
    """The recogniser of that name; raises FileNotFoundError as `restorer_path` does."""
    return _path(name, RECOGNIZERS)


def mask_names() -> list[str]:
    """What needs no file, then every learned mask of identity guidance."""
    return [*UNLEARNED, *sorted(listing.masks(MASKS), key=str.lower)]


def mask_path(name: str) -> str | None:
    """The learned mask of that name, None for what needs no file; raises FileNotFoundError as
    `restorer_path` does."""
    return None if name in UNLEARNED else _path(name, MASKS)


def adapter_names() -> list[str]:
    return sorted(listing.adapters(ADAPTERS), key=str.lower)


def adapter_path(name: str) -> str:
    """The adapter of that name; raises FileNotFoundError as `restorer_path` does."""
    return _path(name, ADAPTERS)


def stamp(*paths: str) -> str:
    """Changes where one of the files is replaced: what nodes that read files tell the host."""
    stats = [os.stat(path) for path in paths]
    return " ".join(f"{stat.st_size}:{stat.st_mtime_ns}" for stat in stats)


def adapter_file(name: str) -> Path:
    """Where an adapter of that name is to be written.

    Raises:
        ValueError: no name that every system takes, see `checked_name`.
        OSError: no file of that name can be written there.
    """
    stem = checked_name(name, ADAPTER_SUFFIX)
    path = Path(folder_paths.get_folder_paths(ADAPTERS)[0]) / f"{stem}{ADAPTER_SUFFIX}"
    check_place(path)
    return path


def adapters_like(name: str) -> list[str]:
    """Adapters that have the name that is given, or that with a number; none for what is no name."""
    with suppress(ValueError):
        stem = re.escape(checked_name(name, ADAPTER_SUFFIX))
        own = re.compile(rf"{stem}(_\d+)?{re.escape(ADAPTER_SUFFIX)}")
        folder = Path(folder_paths.get_folder_paths(ADAPTERS)[0])
        return sorted(path.name for path in folder.glob(f"*{ADAPTER_SUFFIX}") if own.fullmatch(path.name))
    return []


def adapters_stamp(name: str | None) -> list[str] | float:
    """What nodes that write an adapter tell the host: changes where one of that name was deleted or added,
    and is never the same where there is none. A name that is linked from another node is not known."""
    # A NaN of its own each time: the host compares what it keeps in tuples, where one object equals itself.
    return (adapters_like(name) or float("nan")) if name else [""]


def _path(name: str, *folders: str) -> str:
    for folder in folders:
        if path := folder_paths.get_full_path(folder, name):
            return path
    searched = ", ".join(path for folder in folders for path in folder_paths.get_folder_paths(folder))
    raise FileNotFoundError(
        f"No file named {name}. Folders searched: {searched}. Put it there, or choose another."
    )
