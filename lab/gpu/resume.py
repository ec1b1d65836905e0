"""A training's state, written and read back on the device, and one more step after it: as a training that was
stopped goes on.

    python -m lab.gpu.resume DEVICE
"""

from __future__ import annotations

import json
import sys
import tempfile
import traceback
from pathlib import Path

import torch

from pfstorer_core.training.state import load_state, save_state


def main() -> None:
    device = torch.device(sys.argv[1])
    found: dict[str, object] = {"device": str(device)}
    try:
        straight = steps(device, None, found)
        with tempfile.TemporaryDirectory() as folder:
            again = steps(device, Path(folder) / "state.safetensors", found)
        found["difference"] = float((straight - again).abs().max())
        found["as_without_a_stop"] = found["difference"] == 0
    except Exception:
        found["error"] = traceback.format_exc()[-2000:]
    sys.stdout.write(json.dumps(found) + "\n")


def steps(device: torch.device, path: Path | None, found: dict[str, object]) -> torch.Tensor:
    """The parameter after three steps; with `path` stopped and taken up again after two."""
    parameter, optimizer = fresh(device)
    for number in range(3):
        if number == 2 and path is not None:
            trained = {"p": parameter}
            save_state(path, 2, trained, trained, [optimizer], {}, {}, [(1.0, 0.01)] * 2)
            found["step_before"] = str(optimizer.state[parameter]["step"].device)
            parameter, optimizer = fresh(device)
            average = {"p": parameter.detach().clone()}
            load_state(path, {"p": parameter}, average, [optimizer], {})
            after = optimizer.state[parameter]["step"].device
            found["step_after"] = str(after)
            if after.type != device.type:  # the kernel would read memory that it cannot see: not tried
                raise RuntimeError(f"AdamW's step came back on {after}, but a fused one wants it on {device}")
        parameter.grad = torch.full_like(parameter, 0.1 * (number + 1))
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize()
    return parameter.detach().cpu()


def fresh(device: torch.device) -> tuple[torch.nn.Parameter, torch.optim.AdamW]:
    parameter = torch.nn.Parameter(torch.linspace(-1, 1, 64, device=device))
    return parameter, torch.optim.AdamW([parameter], lr=0.01, fused=True)  # as training.loop makes it


if __name__ == "__main__":
    main()
