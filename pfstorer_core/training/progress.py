"""What long work tells its caller after every step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class Progress:
    """`step` of `steps` of the stage `stage` is done; `loss` where the stage has one; `picture`
    [1, 3, H, W] in [0, 1] where there is one to show; `seconds_left` where they can be foretold."""

    stage: str
    step: int
    steps: int
    loss: float | None = None
    picture: Tensor | None = field(default=None, compare=False)
    seconds_left: float | None = field(default=None, compare=False)


def silent(progress: Progress) -> None:
    """A caller that does not listen."""


OnTick = Callable[[], object]
"""Called every little while; raises where the work is to stop."""


def never() -> None:
    """Of a caller who does not stop anything."""
