"""What long work tells its caller after every step."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """`step` of `steps` of the stage `stage` is done; `loss` where the stage has one."""

    stage: str
    step: int
    steps: int
    loss: float | None = None


def silent(progress: Progress) -> None:
    """A caller that does not listen."""
