"""A training's state goes back to where torch keeps it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from pfstorer_core.checkpoints.tensors import read_checkpoint
from pfstorer_core.training.state import Resumed, kept_losses, load_state, save_state

HISTORY = [(0.5, 0.1)]


def trained_a_step(**options: Any) -> tuple[nn.Parameter, nn.Parameter, torch.optim.AdamW]:
    """Two parameters in two groups, as trainings have them."""
    first, second = nn.Parameter(torch.ones(4)), nn.Parameter(torch.ones(3))
    groups = [{"params": [second], "scale": 2.0}, {"params": [first], "scale": 1.0}]
    optimizer = torch.optim.AdamW(groups, lr=0.1, **options)
    first.grad, second.grad = torch.arange(4.0), torch.full((3,), 7.0)
    optimizer.step()
    return first, second, optimizer


def test_moments_belong_to_their_parameters_again(tmp_path: Path) -> None:
    first, second, optimizer = trained_a_step()
    path = tmp_path / "state.safetensors"
    trained = {"b": first, "a": second}
    save_state(path, 1, trained, trained, [optimizer], {}, {}, HISTORY)

    a, b, other = trained_a_step()
    names = {"b": a, "a": b}
    other.state.clear()
    average = {name: value.detach().clone() for name, value in names.items()}
    assert load_state(path, names, average, [other], {}) == (1, {}, HISTORY)
    for one, two in ((first, a), (second, b)):
        assert set(other.state[two]) == set(optimizer.state[one])
        for key, value in optimizer.state[one].items():
            assert torch.equal(other.state[two][key], value), key
    assert [group["scale"] for group in other.param_groups] == [2.0, 1.0]
    path.unlink()  # what was read does not hang on the file
    other.step()


@pytest.mark.parametrize(("fused", "step_on"), [(True, "meta"), (False, "cpu")])
def test_steps_are_counted_where_the_optimizer_looks_for_them(
    tmp_path: Path, fused: bool, step_on: str
) -> None:
    """A fused AdamW counts on the parameters' device (here the meta device stands for a GPU)."""
    parameter, _, optimizer = trained_a_step()
    path = tmp_path / "state.safetensors"
    save_state(path, 1, {"a": parameter}, {"a": parameter}, [optimizer], {}, {}, HISTORY)

    there = nn.Parameter(torch.empty(4, device="meta"))
    other = torch.optim.AdamW([there])
    other.param_groups[0]["fused"] = fused
    load_state(path, {"a": there}, {"a": torch.empty(4, device="meta")}, [other], {})
    assert other.state[there]["step"].device.type == step_on
    assert other.state[there]["exp_avg"].device.type == "meta"


def saved(folder: Path) -> tuple[Path, dict[str, torch.Tensor], dict[str, str]]:
    """The state of two parameters after a step: its path, tensors and notes."""
    first, second, optimizer = trained_a_step()
    trained = {"b": first, "a.b": second}
    save_state(path := folder / "state.safetensors", 1, trained, trained, [optimizer], {"lr": 1}, {}, HISTORY)
    tensors, notes = read_checkpoint(path)
    return path, {key: value.clone() for key, value in tensors.items()}, notes


def resumed(path: Path) -> Resumed:
    first, second, optimizer = trained_a_step()
    names = {"b": first, "a.b": second}
    before = {name: value.detach().clone() for name, value in names.items()}
    moments = {p: {key: value.clone() for key, value in optimizer.state[p].items()} for p in (first, second)}
    try:
        return load_state(
            path, names, {name: value.clone() for name, value in before.items()}, [optimizer], {"lr": 1}
        )
    except ValueError:
        for name, value in names.items():
            assert torch.equal(value, before[name]), "it was changed before all was checked"
            for key, moment in moments[value].items():
                assert torch.equal(optimizer.state[value][key], moment)
        raise


def spoiled(change: str, tensors: dict[str, torch.Tensor]) -> str:
    """What is named in the error."""
    kind, key = change.split(" ")
    value = tensors.get(key, torch.zeros(1))
    if kind == "lacks":
        del tensors[key]
    elif kind == "strange":
        tensors[key] = value
    elif kind == "longer":
        tensors[key] = torch.cat([value.reshape(-1), value.reshape(-1)])
    elif kind == "double":
        tensors[key] = value.float() if value.dtype == torch.float64 else value.double()
    elif kind == "nan":
        tensors[key] = torch.full_like(value, torch.nan)
    elif kind == "negative":
        tensors[key] = torch.full_like(value, -1)
    return key


KEYS = [
    "trained.b",
    "average.a.b",
    "optimizer.b.exp_avg",
    "optimizer.a.b.exp_avg_sq",
    "optimizer.b.step",
    "history",
]


@pytest.mark.parametrize(
    "change",
    [
        *(f"{kind} {key}" for key in KEYS for kind in ("lacks", "longer", "double", "nan")),
        "negative optimizer.b.exp_avg_sq", "negative optimizer.a.b.step",
        "strange optimizer.c.exp_avg", "strange optimizer.b.momentum", "strange trained.c",
        "strange average.", "strange x",
    ],
)  # fmt: skip
def test_a_damaged_state_is_refused_before_it_is_used(tmp_path: Path, change: str) -> None:
    path, tensors, notes = saved(tmp_path)
    key = spoiled(change, tensors)
    save_file(tensors, path, notes)
    with pytest.raises(ValueError, match=f"is damaged .*{key}.*restart, to begin again"):
        resumed(path)


@pytest.mark.parametrize(
    "notes",
    [
        {"step": "-1"}, {"step": "1.5"}, {"step": "true"}, {"step": "x"}, {"step": "2"}, {"step": "9" * 30},
        {"made_with": "[]"}, {"made_with": "{"}, {"broken": "3"}, {"step": "[" * 100_000},
        {"made_with": None},
    ],
)  # fmt: skip
def test_damaged_notes_are_refused(tmp_path: Path, notes: dict[str, str | None]) -> None:
    path, tensors, before = saved(tmp_path)
    save_file(tensors, path, {key: value for key, value in {**before, **notes}.items() if value is not None})
    with pytest.raises(ValueError, match="is damaged"):
        resumed(path)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match="restart, to begin again"):
        resumed(path)
    assert kept_losses(path) == []


def test_what_is_whole_is_taken(tmp_path: Path) -> None:
    path, tensors, notes = saved(tmp_path)
    assert resumed(path) == (1, {}, HISTORY)
    assert kept_losses(path) == [0.5]
    for key in [key for key in tensors if key.startswith("optimizer.b.")]:
        del tensors[key]  # of a parameter that had no gradient yet
    save_file(tensors, path, notes)
    assert resumed(path).step == 1
