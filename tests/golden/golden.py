"""Where the golden data is, and how to read it.

The folder is $PFSTORER_GOLDEN, else `../shared/golden` beside the repository, else the small files
in `data/`. A
folder need not hold every file: tests ask `has` at collection, and make cases of what is there.
"""

import atexit
import json
import math
import os
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from pfstorer_core.diffusion.schedule import Schedule

HERE = Path(__file__).resolve().parent


@cache
def folder() -> Path:
    named = os.environ.get("PFSTORER_GOLDEN")
    if named and not Path(named).is_dir():
        raise NotADirectoryError(f"PFSTORER_GOLDEN names {named}, which is not a folder")
    shared = HERE.parents[2] / "shared" / "golden"
    return Path(named) if named else shared if shared.is_dir() else HERE / "data"


def has(*names: str) -> bool:
    """Whether the safetensors files of all these names are there."""
    return all(path(name).is_file() for name in names)


def path(name: str, source: Path | None = None) -> Path:
    """A safetensors file of the folder, or of another one."""
    return (source or folder()) / f"{name}.safetensors"


NOTES = "PFSTORER_GOLDEN_READ"
"""Names a file that gets a line for every tensor that the tests of this process have read."""
read = set[tuple[str, str]]()
"""File and key of each, see test_golden_keys.py."""


@atexit.register
def _note() -> None:
    if NOTES in os.environ:
        with open(os.environ[NOTES], "a", encoding="utf-8") as notes:
            notes.writelines(f"{name} {key}\n" for name, key in sorted(read))


class Group(Mapping[str, Tensor]):
    """The tensors of a file whose keys begin with `prefix`, by what follows it; notes in `read` those whose
    values are asked for."""

    def __init__(self, name: str, prefix: str, stored: Mapping[str, Tensor]) -> None:
        self.name, self.prefix, self.stored = name, prefix, stored
        self.names = [key.removeprefix(prefix) for key in stored if key.startswith(prefix)]

    def __getitem__(self, key: str) -> Tensor:
        value = self.stored[self.prefix + key]
        read.add((self.name, self.prefix + key))
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def __contains__(self, key: object) -> bool:
        return f"{self.prefix}{key}" in self.stored


@cache
def tensors(name: str) -> Group:
    """Every tensor of a file, weights (`sd.*`) excepted."""
    stored = load_file(path(name))
    return Group(name, "", {key: value for key, value in stored.items() if not key.startswith("sd.")})


def state_dict(name: str, source: Path | None = None) -> dict[str, Tensor]:
    """The weights of a file; stored narrow, their exact values are the float32 ones."""
    stored = load_file(path(name, source))
    return {key[3:]: value.float() for key, value in stored.items() if key.startswith("sd.")}


def under(name: str, prefix: str) -> dict[str, Tensor]:
    """`group` of weights that are stored narrow: as fp32."""
    return {key: value.float() for key, value in group(name, prefix).items()}


def pooled(name: str) -> dict[str, Tensor]:
    """The weights of a file that are slices of one stored vector, in fp32."""
    pool = tensors(name).get("pool", torch.empty(0)).float()
    found = {}
    for key, (shape, start, gain, offset) in metadata(name).get("pooled", {}).items():
        at = (start + torch.arange(math.prod(shape))) % len(pool)
        found[key] = (offset + gain * pool[at]).reshape(shape)
    return found


@cache
def metadata(name: str, source: Path | None = None) -> dict[str, Any]:
    """A file's header, entries that are JSON decoded."""

    def decoded(value: str) -> Any:
        try:
            return json.loads(value)
        except json.JSONDecodeError:
            return value

    with safe_open(path(name, source), "pt") as file:
        return {key: decoded(value) for key, value in (file.metadata() or {}).items()}


@cache
def document(name: str) -> dict[str, Any]:
    """The JSON file of this name."""
    return json.loads((folder() / f"{name}.json").read_text(encoding="utf-8"))


def cases(name: str, suffix: str) -> list[str]:
    """Every c such that the file has a tensor `c.<suffix>`."""
    return sorted(key.removesuffix(f".{suffix}") for key in tensors(name) if key.endswith(f".{suffix}"))


def group(name: str, prefix: str) -> Group:
    """The tensors `<prefix>.<key>` of a file, by their key."""
    return Group(name, f"{prefix}.", tensors(name).stored)


def base_schedule(dtype: torch.dtype = torch.float64) -> Schedule:
    """The full schedule that the golden numbers were made with."""
    constants = document("stablesr_schedule")
    return Schedule.scaled_linear(
        constants["linear_start"], constants["linear_end"], constants["num_train_timesteps"], dtype
    )


def assert_near(actual: Tensor, expected: Tensor, tolerance: float = 1e-4) -> None:
    """Equal up to `tolerance` of the largest absolute value (or of 1, if that is less)."""
    scale = max(1.0, expected.abs().max().item())
    torch.testing.assert_close(actual.to(expected.dtype), expected, rtol=0, atol=tolerance * scale)


def assert_ratio(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    """Equal up to `tolerance` of each value; a zero is a zero."""
    torch.testing.assert_close(actual.to(expected.dtype), expected, rtol=tolerance, atol=1e-12)


def by_level(features: Mapping[str, Tensor]) -> list[Tensor]:
    """Feature maps that the reference keys by their width, finest first."""
    return [features[width] for width in sorted(features, key=int, reverse=True)]
