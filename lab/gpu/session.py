"""What the parts share: options, report, device, networks, and how much time is left."""

from __future__ import annotations

import gc
import json
import math
import subprocess
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from harness.stand_in_adapter import stand_in_adapter
from pfstorer_core import Restorer

from .networks import Sizes, build, full_diffbir, full_sizes, tiny_diffbir, tiny_sizes
from .options import Options
from .report import Report

BATCHES = (1, 4, 9)


class OutOfTime(BaseException):
    """A part used up its time."""


class Session:
    """One run of the check."""

    def __init__(self, options: Options, report: Report) -> None:
        self.options, self.report = options, report
        self.cuda = torch.cuda.is_available() and not options.cpu
        self.device = torch.device("cuda" if self.cuda else "cpu")
        self.small = options.small or not (self.cuda or options.side)
        self.sizes: Sizes = tiny_sizes() if self.small else full_sizes(options.side or 512)
        self.deadline = options.started + options.seconds
        self.part_ends = math.inf
        self.children: list[subprocess.Popen[bytes]] = []
        self.diffbir_sizes = tiny_diffbir() if self.small else full_diffbir(options.side or 512)
        self._built: dict[str, Restorer] = {}

    # --- time and report ---

    def left(self) -> float:
        return self.deadline - time.time()

    def left_of_part(self) -> float:
        return min(self.part_ends, self.deadline) - time.time()

    def put(self, part: str, key: str, value: Any, quiet: bool = False) -> None:
        self.report.put(part, key, value, quiet)

    @contextmanager
    def attempt(self, part: str, key: str) -> Iterator[None]:
        """A measurement whose failure is written down and stops no other."""
        try:
            yield
        except OutOfTime:
            self.put(part, f"{key}_error", "out of time")
            raise
        except Exception:
            text = traceback.format_exc()
            self.put(part, f"{key}_error", text[-2500:], quiet=True)
            self.report.say(f"{part} {key} FAILED: {text.strip().splitlines()[-1][:300]}")

    # --- device ---

    def sync(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()

    def tidy(self) -> None:
        gc.collect()
        if self.cuda:
            torch.cuda.synchronize()
            torch.cuda.empty_cache()

    def memory(self, reset: bool = False) -> dict[str, float]:
        """10^9 bytes; with `reset` the peak begins anew."""
        if not self.cuda:
            return {}
        found = {
            "peak_gb": torch.cuda.max_memory_allocated() / 1e9,
            "peak_reserved_gb": torch.cuda.max_memory_reserved() / 1e9,
            "now_gb": torch.cuda.memory_allocated() / 1e9,
        }
        if reset:
            torch.cuda.reset_peak_memory_stats()
        return found

    # --- networks and their inputs ---

    @property
    def restorer(self) -> Restorer:
        """StableSR in bf16, built when it is first asked for."""
        return self._restorer("stablesr", self.sizes)

    @property
    def diffbir(self) -> Restorer:
        """DiffBIR, likewise."""
        return self._restorer("diffbir", self.diffbir_sizes)

    def _restorer(self, name: str, sizes: Sizes) -> Restorer:
        if name not in self._built:
            begun = time.perf_counter()
            with torch.inference_mode(False):  # a training needs weights that autograd may see
                built = self._built[name] = build(sizes, torch.bfloat16, self.device)
            self.sync()
            self.put("run", f"{name}_build_s", time.perf_counter() - begun)
            count = {
                part: sum(p.numel() for p in getattr(built, part).parameters()) / 1e6
                for part in ("unet", "autoencoder", "text")
            }
            self.put("run", f"{name}_million_parameters", count)
            self.put("run", f"memory_after_build_of_{name}", self.memory())
        return self._built[name]

    def drop_restorers(self) -> None:
        self._built.clear()
        self.tidy()

    def person(self, references: int, reference_timestep: str = "zero") -> Any:
        """An adapter that nobody has learned, with so many references."""
        side = self.sizes.side
        latents = torch.randn(references, 4, side, side, generator=torch.Generator().manual_seed(5))
        with torch.random.fork_rng():
            torch.manual_seed(6)
            return stand_in_adapter(self.restorer, latents, reference_timestep=reference_timestep, gamma=0.02)

    def inputs(self, batch: int, dtype: torch.dtype, side: int = 0) -> tuple[Tensor, Tensor, Tensor]:
        """x, time steps and text context of an evaluation."""
        side = side or self.sizes.side
        generator = torch.Generator().manual_seed(8)
        x = torch.randn(batch, 4, side, side, generator=generator).to(self.device, dtype)
        t = torch.full((batch,), 500, device=self.device)
        context = torch.randn(1, 77, self.sizes.unet.context_dim or 0, generator=generator)
        return x, t, context.to(self.device, dtype).expand(batch, -1, -1)


def flags() -> dict[str, Any]:
    """PyTorch's switches, which a host may change."""
    return {
        "cudnn.benchmark": torch.backends.cudnn.benchmark,
        "cudnn.allow_tf32": torch.backends.cudnn.allow_tf32,
        "matmul.allow_tf32": torch.backends.cuda.matmul.allow_tf32,
        "flash": torch.backends.cuda.flash_sdp_enabled(),
        "cudnn_sdp": torch.backends.cuda.cudnn_sdp_enabled(),
    }


def last_json_line(text: str) -> Any:
    """Raises ValueError where the last line is none."""
    return json.loads((text.strip().splitlines() or [""])[-1])
