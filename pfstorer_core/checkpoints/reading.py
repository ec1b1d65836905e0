"""Reading checkpoint files that nobody vouches for: what they claim is held against their size first."""

from __future__ import annotations

import json
import os
import pickle
import re
import stat
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from .errors import CheckpointError, StateDict
from .layouts import foreign
from .pickles import INERT, LONGEST, check_pickles
from .words import bytes_in_words, first_keys, plain

WRAPPERS = ("state_dict", "model", "params_ema", "params")
"""Entries under which training frameworks store the state dict itself."""
PARALLEL = "module."
"""In front of all keys of networks that were saved as several processes had them."""

NO_CHECKPOINT = {
    b"version https://git-lfs": "a pointer that git left in place of the file: fetch it with git lfs pull",
    b"<": "a web page instead of the file: download it again",
    b"\x93NUMPY": "a NumPy array",
    b"\x1f\x8b": "a compressed archive: unpack it",
    b"GGUF": "a GGUF file, which is not supported",
}
"""First bytes of what people have by mistake."""

KINDS = {
    stat.S_IFDIR: "a folder: name the checkpoint file in it",
    stat.S_IFIFO: "a pipe: name a file",
    stat.S_IFSOCK: "a socket: name a file",
    stat.S_IFCHR: "a device: name a file",
    stat.S_IFBLK: "a device: name a file",
}
"""What is no file."""

LONGEST_HEADER = 12_000_000
"""Bytes of a safetensors file's header: some 100,000 tensors."""
MOST_TENSORS = 20_000
SHARED = 2
"""How often tensors of a file may use the same values, on the average."""
PICKLES = 5
"""In a row at the beginning of a file of before PyTorch 1.6."""


class DamagedFile(CheckpointError):
    """One that cannot be read; what to do about it depends on what it was to be."""

    __module__ = "builtins"  # see CheckpointError


class Program(CheckpointError):
    """One whose network is a program besides weights."""

    __module__ = "builtins"


def read_checkpoint(path: Path | str) -> tuple[StateDict, dict[str, str]]:
    """Tensors and header of a .safetensors or .ckpt/.pt/.pth file, told apart by their first bytes.

    The tensors are mapped from the file, so that reading takes no memory before they are used (but for
    pickles of before PyTorch 1.6), and hold no more than the file does. Pickles are looked through before
    they are read (see `pickles`): they cannot execute code.

    Raises:
        FileNotFoundError, PermissionError: no such file; not readable.
        DamagedFile: cut short, damaged, or claiming more than it holds.
        Program: a TorchScript file.
        CheckpointError: of another kind, or holding more than weights.
    """
    path = Path(path)
    magic, size = _magic(path)
    if magic[8:9] == b"{":
        return _safetensors(path, size)
    for mark, what in NO_CHECKPOINT.items():
        if magic.lstrip().startswith(mark):
            raise CheckpointError(f"{path.name} is {what}.")
    zipped = magic.startswith(b"PK\x03\x04")
    if not zipped and not magic.startswith(b"\x80"):
        raise _damaged(path, size, "as a safetensors or PyTorch file")
    try:
        if zipped:
            _check_archive(path, size)
        else:
            with path.open("rb") as file:
                check_pickles(file.read(LONGEST), path.name, size, PICKLES)
        loaded = _unpickled(path, zipped)
    except CheckpointError:
        raise
    except pickle.UnpicklingError as error:
        found = re.search(r" GLOBAL ([\w.]+)", str(error))
        named = f" ({plain(found[1])})" if found else ""
        raise CheckpointError(
            f"{path.name} holds code or objects besides weights{named}, which are never executed, or is "
            "damaged: get a .safetensors version."
        ) from error
    except (FileNotFoundError, PermissionError):
        raise
    except Exception as error:  # what a damaged pickle leads to has no limits
        raise _damaged(path, size, f"as a PyTorch file ({type(error).__name__})") from error
    tensors = _unwrapped(loaded, path.name)
    claimed = sum(value.numel() * value.element_size() for value in tensors.values())
    if claimed > SHARED * size:
        raise _damaged(path, size, f"in full: its tensors claim {bytes_in_words(claimed)}")
    return tensors, {}


def read_metadata(path: Path | str, mark: bytes = b"") -> dict[str, str]:
    """What a .safetensors file says of itself, by its header alone; {} for any other file.

    Args:
        mark: bytes of the header without which it is not looked at: that of a large file takes a while.
    """
    found = _entries(path, mark).get("__metadata__")
    if not isinstance(found, dict):
        return {}
    return {key: value for key, value in found.items() if isinstance(value, str)}


def tensor_names(path: Path | str, mark: bytes = b"") -> list[str]:
    """Of the tensors of a .safetensors file, by its header alone; [] for any other file. `mark`: see
    `read_metadata`."""
    return [name for name in _entries(path, mark) if name != "__metadata__"]


def _entries(path: Path | str, mark: bytes) -> dict[str, Any]:
    """The header of a .safetensors file; {} for any other file, and without the mark."""
    try:
        head = _head(Path(path), os.path.getsize(path))
        found = json.loads(head) if mark in head else {}
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _head(path: Path, size: int) -> bytes:
    """The header of a .safetensors file, as JSON; raises ValueError where it claims more than there is."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > min(size - 8, LONGEST_HEADER):
            raise ValueError(f"its header claims {bytes_in_words(length)}")
        return file.read(length)


def _safetensors(path: Path, size: int) -> tuple[StateDict, dict[str, str]]:
    try:
        header = json.loads(_head(path, size))
        if len(header) > MOST_TENSORS:
            raise ValueError(f"it claims {len(header):,} tensors")
        # Empty tensors have room for any other size: nothing here is that long.
        if any(max(entry.get("shape") or [0]) > size for entry in header.values()):
            raise ValueError("a tensor is larger than the file")
        with safe_open(path, framework="pt") as file:  # it holds places and sizes against the file's
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (FileNotFoundError, PermissionError):
        raise
    except Exception as error:  # of JSON, of the library, of a number format that torch does not have
        raise _damaged(path, size, f"as a safetensors file ({plain(error)})") from error


def _check_archive(path: Path, size: int) -> None:
    """PyTorch's archives keep everything as it is; what they unpack to is what they hold."""
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        claimed = sum(member.file_size for member in members)
        packed = any(member.compress_type != zipfile.ZIP_STORED for member in members)
        if packed or claimed > size:
            raise DamagedFile(
                f"{path.name} ({bytes_in_words(size)}) is a compressed archive, of {bytes_in_words(claimed)} "
                "when unpacked, which PyTorch does not write: it is no checkpoint, or was changed."
            )
        names = [member.filename for member in members]
        if any(name.endswith("/constants.pkl") for name in names):
            raise Program(
                f"{path.name} is a TorchScript program, which is never executed: get a .safetensors version."
            )
        (pickled,) = (name for name in names if name.endswith("/data.pkl"))
        with archive.open(pickled) as file:
            data = file.read(LONGEST)
    check_pickles(data, path.name, size, members=len(members))


def _unpickled(path: Path, zipped: bool) -> object:
    with path.open("rb") as file, _inert_globals():
        if path.suffix == ".safetensors":  # torch would go by the name
            return torch.load(file, weights_only=True, map_location="cpu")
        return torch.load(path, weights_only=True, map_location="cpu", mmap=zipped)


class _Inert:
    def __init__(self, *_: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...


@contextmanager
def _inert_globals() -> Iterator[None]:
    stand_ins = []
    for name in INERT:
        module, _, own = name.rpartition(".")
        stand_ins.append(type(own, (_Inert,), {"__module__": module}))
    with torch.serialization.safe_globals(stand_ins), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of pickle protocols that may not be supported: an error says so
        yield


def _magic(path: Path) -> tuple[bytes, int]:
    """The first bytes of a file and its size, or a clear error. What is no file is never opened: a pipe
    would wait for somebody to write into it."""
    try:
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode):
            what = KINDS.get(stat.S_IFMT(found.st_mode), "no file")
            raise CheckpointError(f"{plain(path, 200)} is {what}.")
        with path.open("rb") as file:
            return file.read(32), found.st_size
    except FileNotFoundError:
        raise FileNotFoundError(f"No checkpoint at {plain(path, 200)}.") from None
    except PermissionError:
        raise PermissionError(
            f"No permission to read {plain(path, 200)}: check its owner and mode."
        ) from None
    except OSError as error:  # a circle of links, a name that is too long, a broken disk
        raise CheckpointError(
            f"{plain(path, 200)} cannot be opened: {plain(error.strerror or error)}."
        ) from error


def _damaged(path: Path, size: int, how: str) -> DamagedFile:
    return DamagedFile(
        f"{plain(path.name)} ({size:,} bytes) cannot be read {how}: it is cut short, damaged or of another "
        "kind."
    )


def _unwrapped(loaded: object, name: str) -> StateDict:
    for wrapper in WRAPPERS:
        if isinstance(loaded, dict) and isinstance(loaded.get(wrapper), dict):
            loaded = loaded[wrapper]
    entries: Mapping[object, object] = loaded if isinstance(loaded, dict) else {}
    tensors = {
        key: value.detach()
        for key, value in entries.items()
        if isinstance(key, str) and isinstance(value, Tensor)
    }
    if not tensors:
        known = foreign(dict.fromkeys(map(str, entries), torch.empty(0)))
        what = known.name if known else "no state dict"
        raise CheckpointError(
            f"{plain(name)} is {what}: expected tensors by their names, plain or under "
            f"{', '.join(WRAPPERS)}; it holds {first_keys(map(str, entries)) or type(loaded).__name__}."
        )
    if all(key.startswith(PARALLEL) for key in tensors):
        return {key.removeprefix(PARALLEL): value for key, value in tensors.items()}
    return tensors
