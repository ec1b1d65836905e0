"""A training's state goes back to where torch keeps it."""

from pathlib import Path

import pytest
import torch
from torch import nn

from pfstorer_core.training.state import load_state, save_state


def trained_a_step(**options: bool) -> tuple[nn.Parameter, nn.Parameter, torch.optim.AdamW]:
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
    save_state(path, 1, trained, trained, optimizer, {}, {})

    a, b, other = trained_a_step()
    names = {"b": a, "a": b}
    other.state.clear()
    average = {name: value.detach().clone() for name, value in names.items()}
    assert load_state(path, names, average, other, {}) == (1, {})
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
    save_state(path, 1, {"a": parameter}, {"a": parameter}, optimizer, {}, {})

    there = nn.Parameter(torch.empty(4, device="meta"))
    other = torch.optim.AdamW([there])
    other.param_groups[0]["fused"] = fused
    load_state(path, {"a": there}, {"a": torch.empty(4, device="meta")}, other, {})
    assert other.state[there]["step"].device.type == step_on
    assert other.state[there]["exp_avg"].device.type == "meta"
