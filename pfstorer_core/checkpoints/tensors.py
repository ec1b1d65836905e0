"""Checkpoint files: which kind one is, giving their tensors to the networks, and writing them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .errors import CheckpointError, StateDict
from .files import atomic_write
from .layouts import Layout, identify, with_prefixes
from .parts.base import check_fit
from .reading import DamagedFile, read_checkpoint
from .words import bytes_in_words

SAFETENSORS_DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8",
    torch.bool: "BOOL",
}  # fmt: skip


def read_layout(path: Path | str, also: tuple[Layout, ...] = ()) -> tuple[StateDict, dict[str, str], Layout]:
    """Tensors `with_prefixes` and header of a file, and which of `LAYOUTS`, and of those in `also`, it is.

    Raises what `read_checkpoint` and `identify` do.
    """
    try:
        tensors, metadata = read_checkpoint(path)
    except DamagedFile as error:
        raise CheckpointError(
            f"{error} Compare its size with the published one and download it again."
        ) from error
    tensors = with_prefixes(tensors)
    return tensors, metadata, identify(tensors, Path(path).name, also)


def is_finite(value: Tensor) -> bool:
    """Whether a tensor is free of NaN and infinity."""
    # The sum is one pass without a temporary copy; only a suspicious one is worth a closer look. Formats of
    # one byte know no sum.
    if value.is_floating_point() and value.element_size() == 1:
        value = value.to(torch.bfloat16)
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
        with atomic_write(path) as temporary:
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
        raise OSError(f"it needs {bytes_in_words(size)}, and its disk has {bytes_in_words(free)} left")


def _not_finite(key: str, value: Tensor, dtype: torch.dtype) -> str:
    if is_finite(value):
        return f"{key} has values that do not fit {str(dtype).removeprefix('torch.')}: choose bf16 or fp32."
    return f"{key} holds NaN or infinity: the file is damaged, or the training that made it diverged."
