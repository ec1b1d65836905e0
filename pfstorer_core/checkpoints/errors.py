"""What is wrong with a file, in one line."""

from __future__ import annotations

from torch import Tensor

from .words import LONGEST, plain

StateDict = dict[str, Tensor]


class CheckpointError(ValueError):
    """A file that is not what it has to be; the message says what was expected and found, on one line,
    whatever the file's own names are."""

    # ComfyUI shows an error's class with its module in front, which is a path of folders there, unless it is
    # one of Python's own. So in every class of exceptions of ours.
    __module__ = "builtins"

    def __init__(self, message: str) -> None:
        super().__init__(plain(message, LONGEST))
