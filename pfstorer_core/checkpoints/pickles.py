"""Pickled weights, looked through before they are loaded.

`torch.load(weights_only=True)` runs no code, but it does what a file says: it calls what makes containers and
tensors with any size, and hashes any key. Here the operations are followed without doing them, and only those
that weights need are let through.
"""

from __future__ import annotations

import io
import math
import pickletools
import re
from dataclasses import dataclass
from typing import Any, NoReturn

from .errors import CheckpointError
from .words import bytes_in_words, plain

LONGEST = 32_000_000
"""Bytes of the pickle, without the tensors' values."""
MOST_OPERATIONS = 400_000
"""Some 10,000 tensors."""
OPERATIONS_A_MEMBER = 60
"""Where an archive holds more: of each tensor's file in it (an optimizer's state takes about 40)."""
LONGEST_BYTES = 1024
"""Of a numpy scalar, which is all that is pickled so beside the weights."""
LARGEST_KEY = 2**60
"""Of numbers as keys: larger ones may all have one hash."""

INERT = (
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.dtype",
)
"""What trainers pickle beside the weights: read as objects that do nothing."""

CALLED = {
    *INERT,
    "_codecs.encode",
    "collections.Counter",
    "collections.OrderedDict",
    "torch.Size",
    "torch.device",
    "torch._tensor._rebuild_from_type_v2",
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_tensor_v3",
    "torch.nn.parameter.Parameter",
}
"""What may be called: torch has others, which make things of any size without a file's bytes."""

NAMED = re.compile(
    r"torch\.(\w+Storage|storage\.(Untyped|Typed)Storage|(bfloat|float|u?int|complex|bool)\w*)"
)
"""What may be named beside that: kinds of numbers, and of storages."""

ITEM_SIZES = {"Double": 8, "Long": 8, "Float": 4, "Int": 4, "Half": 2, "BFloat16": 2, "Short": 2}
"""Bytes of a number in the storages of these names; 1 in all others (complex ones are refused)."""

PUT, GET = {"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"}, {"GET", "BINGET", "LONG_BINGET"}


@dataclass(frozen=True)
class Named:
    """A class or function that the pickle names."""

    name: str


@dataclass(frozen=True)
class Storage:
    count: int


class Something:
    """A value that is of no interest."""


MARK, SOMETHING = object(), Something()


class Refused(Exception):
    """Why a pickle is not loaded."""

    __module__ = "builtins"  # see CheckpointError


def check_pickles(data: bytes, name: str, file_size: int, count: int = 1, members: int = 0) -> None:
    """Raise CheckpointError unless the pickles that `data` begins with hold nothing but weights that fit into
    the file.

    Args:
        data: the beginning of a file, with `LONGEST` bytes of it at the most.
        count: pickles in a row.
        members: files in the archive that the pickle is of.
    """
    stream, claimed = io.BytesIO(data), dict[object, int]()
    left = most = max(MOST_OPERATIONS, OPERATIONS_A_MEMBER * members)
    try:
        for _ in range(count):
            left = _follow(stream, left, most, claimed)
    except Refused as error:
        raise CheckpointError(f"{name} {error}") from error
    if sum(claimed.values()) > file_size:
        raise CheckpointError(
            f"{name} is damaged: it claims {bytes_in_words(sum(claimed.values()))} of weights, but is a "
            f"file of {bytes_in_words(file_size)}."
        )


def _follow(stream: io.BytesIO, left: int, most: int, claimed: dict[object, int]) -> int:
    stack, memo = list[Any](), dict[int, Any]()
    for operation, argument, _ in pickletools.genops(stream):
        left -= 1
        if left < 0:
            raise Refused(f"holds too much beside weights: more than {most:,} operations to load it.")
        _step(operation, argument, stack, memo, claimed)
    return left


def _step(
    operation: pickletools.OpcodeInfo, argument: Any, stack: list, memo: dict, claimed: dict[object, int]
) -> None:
    name = operation.name
    if name in PUT:
        memo[len(memo) if argument is None else argument] = stack[-1]
    elif name in GET:
        stack.append(memo[argument])
    elif name == "MARK":
        stack.append(MARK)
    elif name in ("GLOBAL", "INST"):
        stack.append(_named(argument.replace(" ", ".")))
    elif name == "STACK_GLOBAL":
        own, module = stack.pop(), stack.pop()
        stack.append(_named(f"{module}.{own}"))
    elif name in ("REDUCE", "NEWOBJ"):
        arguments, function = stack.pop(), stack.pop()
        stack.append(_called(function, arguments))
    elif name == "BINPERSID":
        stack.append(_storage(stack.pop(), claimed))
    elif name in ("SETITEM", "SETITEMS", "DICT"):
        items = _popped(stack, 2 if name == "SETITEM" else None)
        for key in items[::2]:
            _check_key(key)
        if name == "DICT":
            stack.append(SOMETHING)
    elif "TUPLE" in name:
        size = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}.get(name)
        stack.append(tuple(_popped(stack, size)))
    else:
        before = operation.stack_before
        marked = pickletools.markobject in before
        _popped(stack, None if marked else len(before))
        for _ in range(before.index(pickletools.markobject) if marked else 0):
            stack.pop()
        plainly = isinstance(argument, str | int) or name == "NONE"
        stack += [argument if plainly else SOMETHING for _ in operation.stack_after]


def _popped(stack: list, count: int | None) -> list:
    """The last values of the stack, or those above its last mark."""
    start = len(stack) - count if count is not None else _above_mark(stack)
    if start < 0:
        raise IndexError("the stack is empty")
    values = stack[start:]
    del stack[start if count is not None else start - 1 :]
    return values


def _above_mark(stack: list) -> int:
    for place in range(len(stack) - 1, -1, -1):
        if stack[place] is MARK:
            return place + 1
    raise IndexError("no mark is on the stack")


def _named(name: str) -> Named:
    if name not in CALLED and not NAMED.fullmatch(name):
        _refuse(name)
    return Named(name)


def _refuse(name: str) -> NoReturn:
    raise Refused(
        f"holds code or objects besides weights ({plain(name)}), which are never executed: "
        "get a .safetensors version."
    )


def _called(function: Any, arguments: Any) -> Any:
    if not isinstance(function, Named) or function.name not in CALLED:
        _refuse(function.name if isinstance(function, Named) else type(function).__name__)
    name = function.name
    if name == "collections.OrderedDict" and arguments != ():
        _refuse(name)
    if name == "collections.Counter" and arguments not in ((), (SOMETHING,)):
        _refuse(name)
    if name == "_codecs.encode" and not _is_short_latin(arguments):
        _refuse(name)
    if name == "torch._tensor._rebuild_from_type_v2":
        if not (isinstance(arguments, tuple) and len(arguments) > 2):
            _refuse(name)
        _called(arguments[0], arguments[2])
    if name in ("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor_v3"):
        storage, _, size, *_ = arguments
        if not isinstance(storage, Storage) or not _are_sizes(size):
            _refuse(name)
        if math.prod(size) > storage.count:
            raise Refused(
                f"is damaged: a tensor of {plain(list(size))} is larger than what the file keeps for it, "
                f"{storage.count:,} numbers."
            )
    return SOMETHING


def _is_short_latin(arguments: Any) -> bool:
    """How old Pythons pickle a few bytes; other codecs make more of what they get, and that again."""
    if not (isinstance(arguments, tuple) and len(arguments) == 2):
        return False
    value, codec = arguments
    return codec == "latin1" and isinstance(value, str) and len(value) <= LONGEST_BYTES


def _are_sizes(size: Any) -> bool:
    return isinstance(size, tuple) and len(size) < 16 and all(type(n) is int and 0 <= n < 2**63 for n in size)


def _storage(identity: Any, claimed: dict[object, int]) -> Storage:
    kind, storage, key, _, count, *_ = identity if isinstance(identity, tuple) else [None] * 5
    if not (kind == "storage" and isinstance(storage, Named) and isinstance(key, str) and type(count) is int):
        raise Refused("is damaged: a tensor without numbers of its own.")
    own = storage.name.rpartition(".")[2].removesuffix("Storage")
    if count < 0 or own.startswith("Complex"):
        raise Refused(f"is damaged: {plain(count)} numbers of the kind {plain(own)}.")
    claimed[key] = max(claimed.get(key, 0), count * ITEM_SIZES.get(own, 1))
    return Storage(count)


def _check_key(key: Any) -> None:
    if isinstance(key, tuple) or (isinstance(key, int) and abs(key) >= LARGEST_KEY):
        raise Refused("is damaged: it has keys that are neither names nor small numbers.")
