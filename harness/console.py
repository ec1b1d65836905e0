"""How the harness talks to its user: plain lines, and errors that say what to do."""

from __future__ import annotations

import sys
from collections.abc import Callable


class HarnessError(Exception):
    """Something that the user can mend; the message says what was wrong and what to do."""


def say(text: str) -> None:
    """Write one line to the user at once, also through a pipe."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def run_main(main: Callable[[], None]) -> None:
    """Run a command's main function; end with one line and a non-zero status when it fails.

    Only errors that the harness raised itself become one line: anything else is a defect of the
    harness and keeps its traceback.
    """
    try:
        main()
    except HarnessError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(1)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(130)
