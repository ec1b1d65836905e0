"""Milliseconds of a call, alternating with others, and what a profiler sees in it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from .session import Session


def interleaved(
    session: Session, calls: dict[str, Callable[[], object]], runs: int = 12, warm: int = 2
) -> dict[str, float]:
    """Median milliseconds of each; fewer runs where the part has little time left."""
    runs, warm = (runs, warm) if session.cuda else (2, 1)
    found: dict[str, list[float]] = {name: [] for name in calls}
    for run in range(runs + warm):
        if run >= warm + 5 and session.left_of_part() < 1.5:
            break
        for name, call in calls.items():
            ms = timed_ms(call, session.cuda)
            if run >= warm:
                found[name].append(ms)
    return {name: statistics.median(values) for name, values in found.items()}


def timed_ms(call: Callable[[], object], cuda: bool) -> float:
    if not cuda:
        begun = time.perf_counter()
        call()
        return 1000 * (time.perf_counter() - begun)
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    call()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end)


def new_profiler(cuda: bool) -> Any:
    activities = [torch.profiler.ProfilerActivity.CPU]
    if cuda:
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    return torch.profiler.profile(activities=activities)


def profiled(session: Session, call: Callable[[], object], times: int = 1) -> dict[str, Any]:
    session.sync()
    with new_profiler(session.cuda) as profiler:
        begun = time.perf_counter()
        for _ in range(times):
            call()
        session.sync()
        wall = time.perf_counter() - begun
    return summary(profiler, times, wall)


def summary(profiler: Any, times: int, wall: float) -> dict[str, Any]:
    """Milliseconds a time: on the device, and of the CPU itself, by operation.

    From the raw events, since the profiler's own averages take many seconds to make.
    """
    on_cpu = torch.autograd.DeviceType.CPU  # type: ignore[reportPrivateImportUsage]
    kernels: dict[str, list[float]] = {}
    launched: dict[int, float] = {}
    runtime: dict[str, list[float]] = {}
    threads: dict[int, list[tuple[int, int, str, int]]] = {}
    for event in profiler.profiler.kineto_results.events():
        name, link = event.name(), event.linked_correlation_id()
        start, end = event.start_ns(), event.end_ns()
        if name.startswith("["):  # memory and the profiler's own
            continue
        if event.device_type() != on_cpu:
            if not event.is_user_annotation():
                _add(kernels, name, end - start)
                launched[link] = launched.get(link, 0.0) + end - start
        elif link > 0:
            _add(runtime, name, end - start)
        elif not event.is_async():
            events = threads.setdefault(event.start_thread_id(), [])
            events.append((start, -end, name, event.correlation_id()))
    own, device = _by_operation(threads, launched)

    def top(of: dict[str, list[float]], count: int = 10) -> list[Any]:
        best = sorted(of.items(), key=lambda item: -item[1][0])[:count]
        return [[name[:100], ns / 1e6 / times, number / times] for name, (ns, number) in best if ns]

    return {
        "times": times,
        "wall_ms": 1000 * wall / times,
        "device_busy_ms": sum(ns for ns, _ in kernels.values()) / 1e6 / times,
        "kernels": sum(number for _, number in kernels.values()) / times,
        "cpu_ms": sum(ns for ns, _ in own.values()) / 1e6 / times,
        "operations_by_device": top(device),
        "kernels_by_time": top(kernels, 8),
        "operations_by_cpu": top(own),
        "runtime_by_cpu": top(runtime, 5),
    }


def _by_operation(
    threads: dict[int, list[tuple[int, int, str, int]]], launched: dict[int, float]
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Nanoseconds and number of each operation: its own on the CPU, and of the kernels that it launched."""
    own: dict[str, list[float]] = {}
    device: dict[str, list[float]] = {}
    for events in threads.values():
        around: list[tuple[int, str]] = []
        for start, minus_end, name, number in sorted(events):
            while around and around[-1][0] <= start:
                around.pop()
            _add(own, name, -minus_end - start)
            if around:
                own[around[-1][1]][0] -= -minus_end - start
            around.append((-minus_end, name))
            if number in launched:
                _add(device, name, launched.pop(number))
    return own, device


def _add(sums: dict[str, list[float]], name: str, ns: float) -> None:
    entry = sums.setdefault(name, [0.0, 0])
    entry[0] += ns
    entry[1] += 1
