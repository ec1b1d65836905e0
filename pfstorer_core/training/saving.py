"""When the state of a training is saved besides every so many steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from time import monotonic

LEAST_WORK = 20
"""Times as long as it takes to save a state: the least work before the next is saved by the clock."""


class Saving:
    """When a state is saved besides by steps: at least so often that a crash loses little, and never so often
    that saving large networks becomes most of the work.

    Attributes:
        seconds: at least so many between two states.
        step: after which the last one was saved.
    """

    def __init__(self, seconds: float, step: int) -> None:
        self.seconds, self.step = seconds, step
        self._at, self._took = monotonic(), 0.0

    def is_due(self) -> bool:
        return monotonic() - self._at >= max(self.seconds, LEAST_WORK * self._took)

    @contextmanager
    def of(self, step: int) -> Iterator[None]:
        """The saving of the state after `step` steps."""
        began = monotonic()
        yield
        self.step, self._at = step, monotonic()
        self._took = self._at - began


@contextmanager
def kept_if_stopped(save: Callable[[int], None], step: int) -> Iterator[None]:
    """Whoever stops it here, or whatever, wants to go on later from what `step` steps have come to."""
    try:
        yield
    except BaseException:
        with suppress(Exception):  # what stopped it is to be said
            save(step)
        raise
