"""The state of a training as a file: everything that resuming exactly takes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..checkpoint import check_fit, read_checkpoint, write_safetensors

Names = dict[str, str]


def save_state(
    path: Path,
    step: int,
    trained: Mapping[str, Tensor],
    average: Mapping[str, Tensor],
    optimizer: torch.optim.Optimizer,
    made_with: Mapping[str, Any],
    broken: Names,
) -> None:
    """Write the state after `step` steps. See `write_safetensors` for the errors."""
    for left in path.parent.glob(f".{path.name}.*.part"):  # of a training that was killed while it wrote
        left.unlink(missing_ok=True)
    tensors = {f"trained.{name}": value for name, value in trained.items()}
    tensors |= {f"average.{name}": value for name, value in average.items()}
    for name, parameter in trained.items():
        moments = optimizer.state.get(parameter, {})
        tensors |= {f"optimizer.{name}.{key}": value for key, value in moments.items()}
    notes = {"step": step, "made_with": made_with, "broken": broken}
    write_safetensors(path, tensors, {key: json.dumps(value) for key, value in notes.items()})


@torch.no_grad()
def load_state(
    path: Path,
    trained: Mapping[str, nn.Parameter],
    average: Mapping[str, Tensor],
    optimizer: torch.optim.Optimizer,
    made_with: Mapping[str, Any],
) -> tuple[int, Names]:
    """Go back to the state in `path`, where there is one; the steps done, and the broken pictures so far.

    Raises:
        ValueError: the file is damaged, or of a training with other settings or networks.
    """
    if not path.exists():
        return 0, {}
    tensors, metadata = read_checkpoint(path)
    before, now = json.loads(metadata["made_with"]), json.loads(json.dumps(made_with))
    other = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    if other:
        changes = ", ".join(f"{key} ({before.get(key)}, now {now.get(key)})" for key in other)
        raise ValueError(
            f"{path} is of a training with other settings: {changes}. Resume with those, choose another "
            "folder, or delete that file to start again."
        )
    weights = {key: value for key, value in tensors.items() if not key.startswith("optimizer.")}
    expected = {f"trained.{name}": value for name, value in trained.items()}
    check_fit(
        {**expected, **{f"average.{name}": value for name, value in average.items()}}, weights, "networks"
    )
    for name, parameter in trained.items():
        parameter.copy_(tensors[f"trained.{name}"])
        average[name].copy_(tensors[f"average.{name}"])
    moments: dict[int, dict[str, Tensor]] = {}
    number = {id(p): k for k, p in enumerate(p for group in optimizer.param_groups for p in group["params"])}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            name, _, entry = key.removeprefix("optimizer.").rpartition(".")
            # The optimizer keeps what it is given where it lies already, and the file is mapped.
            moments.setdefault(number[id(trained[name])], {})[entry] = value.clone()
    # It knows where each of them belongs: a fused AdamW counts its steps on the device, others on the CPU.
    optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})
    return json.loads(metadata["step"]), json.loads(metadata["broken"])
