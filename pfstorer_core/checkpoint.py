"""Checkpoint files: reading them safely, giving their tensors to the networks, and writing them."""

from __future__ import annotations

import json
import pickle
import re
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from .files import written
from .layouts import CheckpointError, Layout, StateDict, first, foreign, identify, with_prefixes

WRAPPERS = ("state_dict", "model", "params_ema", "params")
"""Entries under which training frameworks store the state dict itself."""

INERT = (
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.dtype",
)
"""What trainers pickle beside the weights: read as objects that do nothing."""

NO_CHECKPOINT = {
    b"version https://git-lfs": "a pointer that git left in place of the file: fetch it with git lfs pull",
    b"<": "a web page instead of the file: download it again",
    b"\x93NUMPY": "a NumPy array",
    b"\x1f\x8b": "a compressed archive: unpack it",
    b"GGUF": "a GGUF file, which is not supported",
}
"""First bytes of what people have by mistake."""

SAFETENSORS_DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8",
    torch.bool: "BOOL",
}  # fmt: skip


def read_checkpoint(path: Path | str) -> tuple[StateDict, dict[str, str]]:
    """Tensors and header of a .safetensors or .ckpt/.pt/.pth file, told apart by their first bytes.

    The tensors are mapped from the file, so that reading takes no memory before they are used (but for
    pickles of before PyTorch 1.6). Pickles are read with `weights_only=True`: they cannot execute code.

    Raises:
        FileNotFoundError, PermissionError: no such file; not readable.
        CheckpointError: damaged, of another kind, or holding more than weights.
    """
    path = Path(path)
    magic, size = _magic(path)
    if magic[8:9] == b"{":
        try:
            with safe_open(path, framework="pt") as file:
                return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
        except SafetensorError as error:
            raise _damaged(path, size, f"as a safetensors file ({error})") from error
    for mark, what in NO_CHECKPOINT.items():
        if magic.lstrip().startswith(mark):
            raise CheckpointError(f"{path.name} is {what}.")
    zipped = magic.startswith(b"PK\x03\x04")
    if not zipped and not magic.startswith(b"\x80"):
        raise _damaged(path, size, "as a safetensors or PyTorch file")
    try:
        loaded = _unpickled(path, zipped)
    except pickle.UnpicklingError as error:
        found = re.search(r" GLOBAL ([\w.]+)", str(error))
        named = f" ({found[1]})" if found else ""
        raise CheckpointError(
            f"{path.name} holds code or objects besides weights{named}, which are never executed, or is "
            "damaged: get a .safetensors version."
        ) from error
    except OSError:
        raise
    except Exception as error:  # what a damaged pickle leads to has no limits
        raise _damaged(path, size, f"as a PyTorch file ({type(error).__name__})") from error
    return _unwrapped(loaded, path.name), {}


def _unpickled(path: Path, zipped: bool) -> object:
    with path.open("rb") as file, _inert_globals():
        if path.suffix == ".safetensors":  # torch would go by the name
            return torch.load(file, weights_only=True, map_location="cpu")
        return torch.load(path, weights_only=True, map_location="cpu", mmap=zipped)


def read_layout(path: Path | str) -> tuple[StateDict, dict[str, str], Layout]:
    """Tensors `with_prefixes` and header of a file, and which of `LAYOUTS` it is.

    Raises what `read_checkpoint` and `identify` do.
    """
    tensors, metadata = read_checkpoint(path)
    tensors = with_prefixes(tensors)
    return tensors, metadata, identify(tensors, Path(path).name)


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
    """The first bytes of a file and its size, or a clear error."""
    try:
        with path.open("rb") as file:
            return file.read(32), path.stat().st_size
    except FileNotFoundError:
        raise FileNotFoundError(f"No checkpoint at {path}.") from None
    except IsADirectoryError:
        raise CheckpointError(f"{path} is a folder: name the checkpoint file in it.") from None
    except PermissionError:
        raise PermissionError(f"No permission to read {path}: check its owner and mode.") from None


def _damaged(path: Path, size: int, how: str) -> CheckpointError:
    return CheckpointError(
        f"{path.name} ({size:,} bytes) cannot be read {how}: it is cut short, damaged or of another kind. "
        "Compare its size with the published one and download it again."
    )


def _unwrapped(loaded: object, name: str) -> StateDict:
    for wrapper in WRAPPERS:
        if isinstance(loaded, dict) and isinstance(loaded.get(wrapper), dict):
            loaded = loaded[wrapper]
    entries = loaded if isinstance(loaded, dict) else {}
    tensors = {
        key: value for key, value in entries.items() if isinstance(key, str) and isinstance(value, Tensor)
    }
    if not tensors:
        what = foreign(dict.fromkeys(map(str, entries), torch.empty(0))) or "no state dict"
        raise CheckpointError(
            f"{name} is {what}: expected tensors by their names, plain or under {', '.join(WRAPPERS)}; "
            f"it holds {first(map(str, entries)) or type(loaded).__name__}."
        )
    return tensors


def check_fit(expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor], what: str) -> None:
    """Raise CheckpointError, with the first missing, unexpected and mis-shaped keys, unless `tensors`
    has exactly the keys and shapes of `expected`; `what` names the network in it."""
    faults = {
        "missing": [key for key in expected if key not in tensors],
        "unexpected": [key for key in tensors if key not in expected],
        "of another shape": [
            f"{key} {list(tensors[key].shape)} instead of {list(value.shape)}"
            for key, value in expected.items()
            if key in tensors and tensors[key].shape != value.shape
        ],
    }
    listed = "; ".join(f"{len(keys)} {fault}: {first(keys)}" for fault, keys in faults.items() if keys)
    if listed:
        raise CheckpointError(f"The {what} of this checkpoint does not fit the architecture: {listed}.")


def is_finite(value: Tensor) -> bool:
    """Whether a tensor is free of NaN and infinity."""
    # The sum is one pass without a temporary copy; only a suspicious one is worth a closer look.
    return (
        not value.is_floating_point()
        or bool(value.sum(dtype=torch.float32).isfinite())
        or bool(value.isfinite().all())
    )


def load_exactly(
    module: nn.Module,
    tensors: Mapping[str, Tensor],
    what: str,
    *,
    expected: Mapping[str, Tensor] | None = None,
    assign: bool = False,
    placement: Mapping[str, Any] | None = None,
) -> None:
    """Load a state dict that has to fit.

    Args:
        what: the module's name in the error.
        expected: the keys and shapes that have to be there, for a module that has no weights yet; else its
            own state dict tells.
        assign: let the module keep these very tensors, in their own number format, instead of copying them.
        placement: dtype and device of the tensors that the module is to get in place of its own (it may be
            on the meta device); they are converted one by one, so that the peak of memory is hardly above
            the result.
    Raises:
        CheckpointError: lists the first missing, unexpected and mis-shaped keys, or names a tensor
            with values that are not finite.
    """
    check_fit(module.state_dict() if expected is None else expected, tensors, what)
    for key, value in tensors.items():
        if not is_finite(value):
            raise CheckpointError(
                f"{key} of the {what} holds NaN or infinity: the file is damaged, download it again."
            )
    if placement is not None:
        tensors = {key: value.to(**placement, copy=True) for key, value in tensors.items()}
    module.load_state_dict(dict(tensors), assign=assign or placement is not None)


def write_safetensors(
    path: Path | str,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    dtype: torch.dtype | None = None,
    on_tensor: Callable[[int, int], object] | None = None,
) -> None:
    """Write a .safetensors file tensor by tensor: where the tensors are mapped from a file, that takes
    little more memory than the largest of them (the library's own writer wants all of them converted).

    Args:
        dtype: of all floating-point tensors in the file; None keeps theirs.
        on_tensor: called with (written, of how many) after each tensor; raise in it to stop.
    Raises:
        CheckpointError: a value is not finite, or does not fit `dtype`; names its tensor.
        OSError: the file cannot be written; whether the disk has room is checked before anything is.
    """
    path = Path(path)
    stored = {
        key: dtype if dtype and value.is_floating_point() else value.dtype for key, value in tensors.items()
    }
    # Wide numbers first, so that each tensor starts at a multiple of its item size.
    order = sorted(tensors, key=lambda key: (-stored[key].itemsize, key))
    header, end = {"__metadata__": dict(metadata)}, 0
    for key in order:
        start, end = end, end + tensors[key].numel() * stored[key].itemsize
        shape = list(tensors[key].shape)
        header[key] = {"dtype": SAFETENSORS_DTYPES[stored[key]], "shape": shape, "data_offsets": [start, end]}  # type: ignore[dict-item]
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    try:
        with written(path) as temporary:
            _check_room(path, 8 + len(head) + end)
            with temporary.open("wb") as file:
                file.write(len(head).to_bytes(8, "little") + head)
                for number, key in enumerate(order):
                    value = tensors[key].detach().to("cpu", stored[key]).contiguous()
                    if not is_finite(value):
                        raise CheckpointError(_not_finite(key, tensors[key], stored[key]))
                    file.write(value.reshape(-1).view(torch.uint8).numpy().data)
                    if on_tensor is not None:
                        on_tensor(number + 1, len(order))
    except OSError as error:
        reason = error.strerror or error
        raise type(error)(f"{path} cannot be written: {reason}. Nothing was changed.") from error


def _check_room(path: Path, size: int) -> None:
    free = shutil.disk_usage(path.parent).free
    if free < size:
        raise OSError(f"it needs {size / 1e9:.2f} GB, and its disk has {free / 1e9:.2f} GB left")


def _not_finite(key: str, value: Tensor, dtype: torch.dtype) -> str:
    if is_finite(value):
        return f"{key} has values that do not fit {str(dtype).removeprefix('torch.')}: choose bf16 or fp32."
    return f"{key} holds NaN or infinity: the file is damaged, or the training that made it diverged."
