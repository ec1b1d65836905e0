"""The command line of the check."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

PARTS = "ACBDEFGH"
PROJECT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Options:
    """What `parse` makes of the arguments; see there."""

    out: Path
    work: Path
    site: Path
    comfy: Path
    started: float
    seconds: float
    parts: str
    cpu: bool
    small: bool
    side: int
    no_cap: bool
    host_arguments: str


def parse(arguments: Sequence[str]) -> Options:
    parser = argparse.ArgumentParser(prog="python -m lab.gpu.check")
    add = parser.add_argument
    add("--out", type=Path, required=True, help="where check.json goes")
    add("--work", type=Path, default=Path("/tmp/pf"), help="a folder for everything else")
    add("--site", type=Path, help="packages that the machine lacks; default: WORK/site")
    add("--comfy", type=Path, help="ComfyUI's sources; default: WORK/comfy")
    add("--started", type=float, default=time.time(), help="when the call began")
    add("--seconds", type=float, default=142, help="for everything, from --started on")
    add("--parts", default=PARTS, help="in this order")
    add("--cpu", action="store_true", help="on a CPU with tiny networks, as without a GPU")
    add("--small", action="store_true", help="tiny networks, also on a GPU")
    add("--side", type=int, default=0, help="of a tile in pixels; with it full-size networks run on a CPU")
    add("--no-cap", action="store_true", help="parts get all the time that is left")
    add("--host-arguments", default="", help="more arguments of ComfyUI's main.py")
    given = parser.parse_args(arguments)
    given.parts = "".join(part for part in given.parts.upper() if part in PARTS)
    given.out, given.work = given.out.resolve(), given.work.resolve()
    given.site = given.site.resolve() if given.site else given.work / "site"
    given.comfy = given.comfy.resolve() if given.comfy else given.work / "comfy"
    return Options(**vars(given))
