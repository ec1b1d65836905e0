"""The whole check, a few minutes on a GPU and one on a CPU:

    python -m lab.gpu.check --out DIR --work DIR [--parts ACBDEFGH] [--seconds 142] [--no-cap] [--cpu]

Everything is written to DIR/check.json after each single measurement. Each part has its own time limit, and
what fails in one stops no other. Without a GPU the networks are tiny. It ends by itself: with status 3 where
it had to be ended.
"""

from __future__ import annotations

import contextlib
import faulthandler
import importlib.metadata
import math
import os
import platform
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

from .options import PROJECT, Options, parse
from .report import Report, table

LIMITS = {"A": 24, "C": 52, "B": 30, "D": 12, "E": 16, "F": 110, "G": 60, "H": 50}
"""Seconds that a part may take at the most."""
USUAL = {"A": 12, "C": 40, "B": 20, "D": 5, "E": 9, "F": 32, "G": 0, "H": 0}
"""Seconds that are kept back for the parts that come later."""
LEAST = {"A": 8, "C": 15, "B": 8, "D": 4, "E": 5, "F": 20, "G": 35, "H": 20}
"""With less than that it is not begun."""
LARGEST_LOG = 8_000_000


class Check:
    """Runs the parts one after the other; only they need torch."""

    def __init__(self, options: Options) -> None:
        options.out.mkdir(parents=True, exist_ok=True)
        options.work.mkdir(parents=True, exist_ok=True)
        self.options = options
        self.report = Report(options.out / "check.json", options.started)
        self.report.put("run", "arguments", sys.argv[1:], quiet=True)
        threading.Thread(target=self._watchdog, daemon=True).start()
        sys.path.append(str(options.site))
        begun = time.time()
        import torch

        self.import_torch_s, self.before_s = time.time() - begun, begun - options.started
        torch.manual_seed(0)
        from .session import Session

        self.session = Session(options, self.report)
        self.server: Any = None
        self.resuming: Any = None

    def run(self) -> None:
        from . import compiling, controlling, determinism, learning, personal_steps, restoring, steps

        self.tell_environment()
        parts: dict[str, Callable[[], None]] = {
            "A": lambda: restoring.part_a(self.session),
            "B": lambda: steps.part_b(self.session),
            "C": lambda: learning.part_c(self.session),
            "D": lambda: personal_steps.part_d(self.session),
            "E": lambda: determinism.part_e(self.session),
            "F": self.part_f,
            "G": lambda: compiling.part_g(self.session),
            "H": lambda: controlling.part_h(self.session),
        }
        try:
            for name in self.options.parts:
                if name == "E":  # its seconds do not count, so that the host may start meanwhile
                    self.start_server()
                    with self.session.attempt("E", "resume_start"):
                        self.resuming = determinism.Resuming(self.session)
                self.run_part(name, parts[name])
                if self.resuming and (name == "F" or (name == "E" and "F" not in self.options.parts)):
                    self.resuming.end()
                    self.resuming = None
                if name == "F":
                    self.end_server()
        finally:
            self.stop_children()
            self.keep_host_log()
        self.report.put("run", "total_s", time.time() - self.options.started)

    def run_part(self, name: str, function: Callable[[], None]) -> None:
        from .session import OutOfTime

        session, report, options = self.session, self.report, self.options
        later = options.parts[options.parts.index(name) + 1 :]
        limit = session.left()
        if not options.no_cap:
            spare = limit - sum(USUAL[part] for part in later)
            limit = min(LIMITS[name], max(spare, LEAST[name]), limit)
        if limit < LEAST[name]:
            report.put(name, "status", f"skipped, {session.left():.0f} s left")
            return
        report.say(f"--- {name}, up to {limit:.0f} s")
        began = time.time()
        session.part_ends = began + limit
        status = "done"
        signal.setitimer(signal.ITIMER_REAL, limit)
        try:
            function()
        except OutOfTime:
            status = f"out of time after {time.time() - began:.0f} s"
        except Exception:
            status = "failed"
            report.put(name, "traceback", traceback.format_exc()[-4000:], quiet=True)
            report.say(traceback.format_exc()[-1500:])
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            session.part_ends = math.inf
        report.put(name, "seconds", time.time() - began, quiet=True)
        report.put(name, "status", status)
        try:
            session.tidy()
        except Exception:
            report.say(f"the device is out of order: {traceback.format_exc(limit=1)[-300:]}")

    # --- the host ---

    def start_server(self) -> None:
        from .server import Server

        if "F" in self.options.parts and not self.server and self.session.left() > LEAST["F"]:
            with self.session.attempt("F", "start"):
                self.server = Server(self.session)

    def part_f(self) -> None:
        from .host import of_stablesr, part_f
        from .host_diffbir import of_diffbir

        self.start_server()
        suites = [of_stablesr, of_diffbir]
        parts = self.options.parts
        if "H" in parts[: parts.index("F")]:  # then DiffBIR is what is asked about
            suites.reverse()
        if self.server:
            part_f(self.session, self.server, suites)

    def end_server(self) -> None:
        from .host import tell_log

        if self.server:
            self.stop_children()
            tell_log(self.session, self.server)

    def stop_children(self) -> None:
        for child in self.session.children:
            if child.poll() is None:
                child.terminate()
                try:
                    child.wait(4)
                except subprocess.TimeoutExpired:
                    child.kill()
                    child.wait(4)

    def keep_host_log(self) -> None:
        log = self.options.work / "host.log"
        if log.exists():
            with log.open("rb") as source:
                (self.options.out / "host.log").write_bytes(source.read(LARGEST_LOG))

    # --- everything else ---

    def _watchdog(self) -> None:
        """The last resort: whatever hangs, this ends the process in time."""
        while self.options.started + self.options.seconds - time.time() > -3:
            time.sleep(0.2)
        try:
            session = getattr(self, "session", None)
            for child in session.children if session else ():
                child.kill()
            self.report.put("run", "ended_by_watchdog", True)
            faulthandler.dump_traceback(all_threads=True)
            self.keep_host_log()
            self.tell_table()
        finally:
            os._exit(3)

    def tell_table(self) -> None:
        text = table(self.report.data, self.options.parts)
        (self.options.out / "table.txt").write_text(text)
        sys.stdout.write(f"{'=' * 40}\n{text[-9000:]}\n")
        sys.stdout.flush()

    def tell_environment(self) -> None:
        import torch

        from .session import flags

        commit = PROJECT / "COMMIT"
        found: dict[str, Any] = {
            "python": platform.python_version(), "torch": torch.__version__,
            "import_torch_s": self.import_torch_s, "before_this_script_s": self.before_s,
            "cores": os.cpu_count(), "threads": torch.get_num_threads(), "small": self.session.small,
            "commit": commit.read_text().split() if commit.exists() else None,
            "tmp_free_gb": shutil.disk_usage(self.options.work).free / 1e9,
        }  # fmt: skip
        for name in ("numpy", "safetensors", "tokenizers", "transformers", "accelerate", "einops", "kornia"):
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                found[name] = importlib.metadata.version(name)
        if self.session.cuda:
            found |= self.gpu()
        self.report.put("run", "environment", found | {"flags": flags()})

    def gpu(self) -> dict[str, Any]:
        import torch

        started = time.perf_counter()
        properties = torch.cuda.get_device_properties(0)
        torch.zeros(8, device="cuda").add_(1)
        self.session.sync()
        found: dict[str, Any] = {
            "device": properties.name, "device_gb": properties.total_memory / 1e9,
            "cuda": getattr(torch.version, "cuda", None), "cudnn": torch.backends.cudnn.version(),
            "cuda_start_s": time.perf_counter() - started,
        }  # fmt: skip
        with self.session.attempt("run", "nvidia_smi"):
            query = "--query-gpu=name,driver_version,memory.used,clocks.sm,clocks.mem"
            command = ["nvidia-smi", query, "--format=csv,noheader"]
            answer = subprocess.run(command, capture_output=True, text=True, timeout=8)
            found["nvidia_smi"] = answer.stdout.strip()
        return found


def main() -> None:
    faulthandler.enable()
    options = parse(sys.argv[1:])
    check = Check(options)
    signal.signal(signal.SIGALRM, _out_of_time)
    check.run()
    check.tell_table()
    os._exit(0)  # nothing that still runs somewhere may keep it


def _out_of_time(*_: object) -> None:
    from .session import OutOfTime

    raise OutOfTime


if __name__ == "__main__":
    main()
