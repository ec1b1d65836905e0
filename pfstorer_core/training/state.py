"""The state of a training as a file: everything that resuming exactly takes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..checkpoints.errors import CheckpointError, StateDict
from ..checkpoints.tensors import is_finite, read_checkpoint, write_safetensors
from .muon import MOMENTUM

Names = dict[str, str]
MOMENTS = ("exp_avg", "exp_avg_sq", "step")
"""What AdamW keeps of a parameter, from its first gradient on."""
MUONS = (MOMENTUM, "step")
"""What Muon does."""
STATE = ".state.safetensors"
"""What the name of a state ends with, after its stage."""
KEPT = "kept."
"""What the name of a tensor begins with that is not trained and changes all the same."""
HISTORY = "history"
"""Loss and learning rate of every step [steps, 2]."""
NOTHING: Mapping[str, Tensor] = MappingProxyType({})


class Resumed(NamedTuple):
    """Where a training goes on: the steps done, the broken pictures so far, loss and rate of every step."""

    step: int
    broken: Names
    history: list[tuple[float, float]]


def save_state(
    path: Path,
    step: int,
    trained: Mapping[str, Tensor],
    average: Mapping[str, Tensor],
    optimizers: Sequence[torch.optim.Optimizer],
    made_with: Mapping[str, Any],
    broken: Names,
    history: Sequence[tuple[float, float]],
    kept: Mapping[str, Tensor] = NOTHING,
) -> None:
    """Write the state after `step` steps. See `write_safetensors` for the errors.

    Args:
        optimizers: each parameter is one's.
        kept: see `Objective.kept`.
    """
    tensors = {f"trained.{name}": value for name, value in trained.items()}
    tensors |= {f"average.{name}": value for name, value in average.items()}
    tensors |= {KEPT + name: value for name, value in kept.items()}
    for name, parameter in trained.items():
        for optimizer in optimizers:
            moments = optimizer.state.get(parameter, {})
            tensors |= {f"optimizer.{name}.{key}": value for key, value in moments.items()}
    tensors[HISTORY] = torch.tensor(list(history), dtype=torch.float64).reshape(-1, 2)
    notes = {"step": step, "made_with": made_with, "broken": broken}
    write_safetensors(path, tensors, {key: json.dumps(value) for key, value in notes.items()})


@torch.no_grad()
def load_state(
    path: Path,
    trained: Mapping[str, nn.Parameter],
    average: Mapping[str, Tensor],
    optimizers: Sequence[torch.optim.Optimizer],
    made_with: Mapping[str, Any],
    kept: Mapping[str, Tensor] = NOTHING,
) -> Resumed:
    """Go back to the state in `path`, where there is one. Nothing is changed before all of it was checked.

    Raises:
        ValueError: the file is damaged, or of a training with other settings or networks.
    """
    if not path.exists():
        return Resumed(0, {}, [])
    try:
        tensors, metadata = read_checkpoint(path)
        step, before, broken = _notes(metadata)
    except (CheckpointError, ValueError) as error:
        raise _damaged(path, str(error)) from error
    now = json.loads(json.dumps(made_with))
    other = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    if other:
        changes = ", ".join(f"{key} ({before.get(key)}, now {now.get(key)})" for key in other)
        raise ValueError(
            f"{path} is of a training with other settings: {changes}. Resume with those, choose another "
            "folder, or delete that file to start again."
        )
    if fault := _fault(tensors, trained, kept, step):
        raise _damaged(path, fault)
    for name, parameter in trained.items():
        parameter.copy_(tensors[f"trained.{name}"])
        average[name].copy_(tensors[f"average.{name}"])
    for name, value in kept.items():
        value.copy_(tensors[KEPT + name])
    for optimizer in optimizers:
        _load_moments(optimizer, tensors, trained)
    return Resumed(step, broken, [(loss, rate) for loss, rate in tensors[HISTORY].tolist()])


def _load_moments(
    optimizer: torch.optim.Optimizer, tensors: StateDict, trained: Mapping[str, nn.Parameter]
) -> None:
    number = {id(p): k for k, p in enumerate(p for group in optimizer.param_groups for p in group["params"])}
    moments: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        name, _, entry = key.removeprefix("optimizer.").rpartition(".")
        if key.startswith("optimizer.") and id(trained[name]) in number:
            # The optimizer keeps what it is given where it lies already, and the file is mapped.
            moments.setdefault(number[id(trained[name])], {})[entry] = value.clone()
    # It knows where each of them belongs: a fused AdamW counts its steps on the device, others on the CPU.
    optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})


def kept_losses(path: Path) -> list[float]:
    """Of every step that the state in `path` has done; none where there is no state that can be read."""
    return [loss for loss, _ in kept_history(path)]


def kept_history(path: Path) -> list[tuple[float, float]]:
    """Loss and rate of every step that the state in `path` has done; none where none can be read."""
    try:
        return [(loss, rate) for loss, rate in read_checkpoint(path)[0][HISTORY].tolist()]
    except (FileNotFoundError, CheckpointError, LookupError):
        return []


def _damaged(path: Path, fault: str) -> ValueError:
    return ValueError(
        f"The state of a training {path} is damaged ({fault}): it cannot go on from there. Delete that file, "
        "or choose restart, to begin again."
    )


def _notes(metadata: Mapping[str, str]) -> tuple[int, dict[str, Any], Names]:
    """Step, settings and broken pictures; raises ValueError where they are not that."""
    try:
        step, made_with, broken = (json.loads(metadata[key]) for key in ("step", "made_with", "broken"))
    except (KeyError, ValueError, RecursionError) as error:
        raise ValueError(f"its notes: {error!r}"[:200]) from error
    notes = isinstance(made_with, dict) and isinstance(broken, dict)
    if type(step) is not int or not 0 <= step < 2**31 or not notes:
        raise ValueError("its notes are of another kind")
    return step, made_with, {str(name): str(why) for name, why in broken.items()}


def _fault(
    tensors: StateDict, trained: Mapping[str, nn.Parameter], kept: Mapping[str, Tensor], step: int
) -> str:
    """What keeps the tensors from being the state of these parameters; "" where nothing does."""
    expected = {KEPT + name: value for name, value in kept.items()}
    for name, value in trained.items():
        expected |= {f"trained.{name}": value, f"average.{name}": value}
    expected[HISTORY] = torch.empty(step, 2, dtype=torch.float64, device="meta")
    for name, value in trained.items():
        by_muon = f"optimizer.{name}.{MOMENTUM}" in tensors
        by_muon &= f"optimizer.{name}.{MOMENTS[0]}" not in tensors
        own = {f"optimizer.{name}.{entry}": entry for entry in (MUONS if by_muon else MOMENTS)}
        if any(key in tensors for key in own):
            one = torch.empty((), device="meta")
            expected |= {key: one if entry == "step" else value for key, entry in own.items()}
    for what, keys in (
        ("lacks", [key for key in expected if key not in tensors]),
        ("has a strange", [key for key in tensors if key not in expected]),
    ):
        if keys:
            return f"it {what} {keys[0][:80]}"
    for key, value in expected.items():
        found = tensors[key]
        if found.shape != value.shape or found.dtype != value.dtype:
            return f"{key[:80]} is {found.dtype} {list(found.shape)}, not {value.dtype} {list(value.shape)}"
        if not is_finite(found):
            return f"{key[:80]} holds NaN or infinity"
        if key.endswith((".exp_avg_sq", ".step")) and (found < 0).any():
            return f"{key[:80]} is below 0"
    return ""
