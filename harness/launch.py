"""Becomes another program that dies with the process that started it.

`python -m harness.launch PARENT_PID PROGRAM ARGUMENT ...`. Where the system can do it (Linux) the
kernel kills the program when its parent ends, however that ends.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    parent, program = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the kernel was told
        sys.exit(1)
    os.execv(program[0], program)


if __name__ == "__main__":
    main()
