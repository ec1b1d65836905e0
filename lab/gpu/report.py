"""What was found, written to check.json after each single measurement, and its short end."""

from __future__ import annotations

import json
import math
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any


class Report:
    """Values by part and key. Lines that are said begin with the seconds since `started`."""

    def __init__(self, path: Path, started: float) -> None:
        self.path, self.started = path, started
        self.data: dict[str, dict[str, Any]] = {}
        self.lock = threading.RLock()

    def put(self, part: str, key: str, value: Any, quiet: bool = False) -> None:
        with self.lock:
            self.data.setdefault(part, {})[key] = plain(value)
            temporary = self.path.with_suffix(".part")
            temporary.write_text(json.dumps(self.data, indent=1))
            temporary.replace(self.path)
        if not quiet:
            self.say(f"{part} {key}: {json.dumps(plain(value))[:420]}")

    def say(self, text: str) -> None:
        sys.stdout.write(f"[{time.time() - self.started:6.1f}] {text}\n")
        sys.stdout.flush()


def plain(value: Any) -> Any:
    """For JSON: rounded, and without NaN."""
    if isinstance(value, dict):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, bool | int | str) or value is None:
        return value
    if isinstance(value, float):
        return float(f"{value:.5g}") if math.isfinite(value) else str(value)
    return str(value)


def table(data: dict[str, dict[str, Any]], parts: Iterable[str]) -> str:
    """The short end of the output."""
    rows = []
    for p in parts:
        found = data.get(p, {})
        errors = [key for key in found if key.endswith("_error")]
        rows.append(f"{p}: {found.get('status')} in {found.get('seconds')} s; errors: {errors}")
    for key, row in data.get("A", {}).items():
        if isinstance(row, dict) and "s" in row:
            rows.append(f"A {key}: {row['s']} s, peak {row.get('peak_gb')} GB, finite {row['finite']}")
        elif key.endswith(("a_step", "_same")):
            rows.append(f"A {key}: {row}")
    for key, row in data.get("B", {}).items():
        if isinstance(row, dict) and "kernels" in row:
            rows.append(f"B {key}: {dict(list(row.items())[:5])}")
        elif isinstance(row, dict) and any(name.endswith("_ms") for name in row):
            rows.append(f"B {key}: " + ", ".join(f"{name} {value}" for name, value in row.items()))
    for part in "CDEGH":
        for key, row in data.get(part, {}).items():
            if "profile" not in key and key not in ("status", "seconds"):
                rows.append(f"{part} {key}: {json.dumps(row)[:700]}")
    for key, row in data.get("F", {}).items():
        if key != "log":
            rows.append(f"F {key}: {json.dumps(row)[:330]}")
    return "\n".join(rows)
