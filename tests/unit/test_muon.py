"""Muon by number, its state, the rate's end, and which weights it is for."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pfstorer_core.restorers.stablesr.train import BaseTraining, DenoisingLoss
from pfstorer_core.training.data import Batch
from pfstorer_core.training.loop import LoopSettings, Objective, fit
from pfstorer_core.training.muon import MUON, MuonAdamW, orthogonal
from pfstorer_core.training.progress import Progress
from pfstorer_core.training.settings import finishing, learning_rate
from pfstorer_core.training.state import STATE, kept_history

from .small import small_diffbir
from .test_base_loss import start  # noqa: F401 - a fixture

LOOP = LoopSettings(
    steps=6, lr=1e-2, batch=2, warmup=0, decay=False, ema=0.5, save_every=2, bf16=False, muon=0.05, clip=0.0
)


def matrices(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 5, 12), (2, 12, 5)])
def test_singular_values_come_near_one_and_their_vectors_stay(shape: tuple[int, int, int]) -> None:
    given = matrices(*shape)
    found = orthogonal(given)
    assert found.shape == given.shape
    values = torch.linalg.svdvals(found)
    assert float(values.min()) > 0.3
    assert float(values.max()) < 1.3
    u, _, v = torch.linalg.svd(given, full_matrices=False)
    inside = u.mT @ found @ v.mT
    assert (inside - torch.diag_embed(inside.diagonal(dim1=-2, dim2=-1))).abs().max() < 1e-3
    torch.testing.assert_close(orthogonal(100 * given), found, rtol=1e-3, atol=1e-4)


def test_a_kernel_is_stepped_as_one_matrix_and_the_rest_by_adamw() -> None:
    """The paper's: momentum 0.95, Nesterov, decoupled decay, and a step that grows with tall matrices."""
    kernel, wide, bias = (nn.Parameter(matrices(*shape)) for shape in ((6, 2, 3, 3), (8, 4), (5,)))
    alone = nn.Parameter(bias.detach().clone())
    before = {name: p.detach().clone() for name, p in (("kernel", kernel), ("wide", wide))}
    groups: list[dict[str, Any]] = [
        {"params": [bias], "lr": 0.01, "weight_decay": 0.0, MUON: False},
        {"params": [kernel, wide], "lr": 0.1, "weight_decay": 0.2, MUON: True},
    ]
    optimizer, adamw = MuonAdamW(groups), torch.optim.AdamW([alone], lr=0.01, weight_decay=0.0)
    expected, momentum = dict(before), {name: torch.zeros_like(p) for name, p in before.items()}
    for step in range(3):
        for p in (kernel, wide, bias):
            p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(step))
        alone.grad = bias.grad.clone()  # type: ignore[union-attr]
        optimizer.step()
        adamw.step()
        for name, p in (("kernel", kernel), ("wide", wide)):
            assert p.grad is not None
            momentum[name] = 0.95 * momentum[name] + p.grad
            flat = (p.grad + 0.95 * momentum[name]).flatten(1)
            size = max(1.0, flat.shape[0] / flat.shape[1]) ** 0.5
            change = size * orthogonal(flat[None])[0].reshape(p.shape)
            expected[name] = (1 - 0.1 * 0.2) * expected[name] - 0.1 * change
    torch.testing.assert_close(kernel.detach(), expected["kernel"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(wide.detach(), expected["wide"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(bias, alone)
    assert len(optimizer.param_groups) == 2


class Layers(Objective):
    """Two layers, of which the second one's weight is Muon's."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(3, 8), nn.Linear(8, 8)
        self.last = nn.Linear(8, 1)

    def matrices(self) -> list[nn.Parameter]:
        return [self.second.get_parameter("weight")]

    def forward(self, batch: Batch) -> Tensor:
        x = batch["x"]
        return (self.last(torch.tanh(self.second(self.first(x)))) - x.prod(1, keepdim=True)).square().mean()

    def sheet(self, batch: Batch) -> Tensor:
        return torch.zeros(1, 3, 4, 4)

    def figures(self, batch: Batch) -> dict[str, float]:
        return {"one": float(self.last.bias.detach()), "two": 2.0}


class Points:
    def __len__(self) -> int:
        return 2

    def __getitem__(self, k: int) -> dict[str, Any]:
        return {"x": torch.randn(3, generator=torch.Generator().manual_seed(k)), "broken": []}


def layers(folder: Path, settings: LoopSettings, stop: int | None = None) -> tuple[list[float], Layers]:
    def listen(progress: Progress) -> None:
        if progress.step == stop:
            raise InterruptedError

    objective = Layers()
    try:
        return fit("layers", objective, Points(), settings, folder, listen, held=Points()), objective
    except InterruptedError:
        return [], objective


def test_what_was_stopped_resumes_exactly_with_both_optimizers(tmp_path: Path) -> None:
    losses, whole = layers(tmp_path / "whole", LOOP)
    layers(tmp_path / "parts", LOOP, stop=3)
    again, resumed = layers(tmp_path / "parts", LOOP)
    assert again == losses
    for one, other in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)
    adamw, other = layers(tmp_path / "adamw", replace(LOOP, muon=0.0))
    assert adamw[0] == losses[0]
    assert adamw[2] != losses[2]
    with pytest.raises(ValueError, match=r"other settings: muon \(0.05, now None\)"):
        layers(tmp_path / "whole", replace(LOOP, muon=0.0))


def test_figures_of_what_was_held_back_are_written(tmp_path: Path) -> None:
    layers(tmp_path, replace(LOOP, validate_every=3))
    rows = (tmp_path / "layers.held.csv").read_text().splitlines()
    assert rows[0] == "step,figure,value"
    assert [row.split(",")[:2] for row in rows[1:]] == [[s, n] for s in "36" for n in ("one", "two")]
    assert rows[2] == "3,two,2"


def test_a_rate_stays_for_ever_and_falls_to_nothing_when_it_is_to_end(tmp_path: Path) -> None:
    endless = replace(LOOP, warmup=2, steps=10**9)
    assert [learning_rate(endless, step) / endless.lr for step in (0, 1, 50, 10**8)] == [0.5, 1, 1, 1]
    ended = replace(endless, steps=100, finish=20)
    rates = [learning_rate(ended, step) / ended.lr for step in range(100)]
    assert rates[1:80] == [1.0] * 79
    fall = [(1 + math.cos(math.pi * (k + 1) / 21)) / 2 for k in range(20)]
    assert rates[80:] == pytest.approx(fall)
    assert 0 < rates[-1] < 0.01


def test_a_finish_that_was_stopped_goes_on_with_it(tmp_path: Path) -> None:
    state = tmp_path / f"layers{STATE}"
    endless = replace(LOOP, steps=10**9, warmup=2)
    layers(tmp_path, endless, stop=5)
    history = kept_history(state)
    assert len(history) == 5
    ending = finishing(history, endless, 4)
    assert (ending.steps, ending.finish, ending.decay) == (9, 4, False)
    layers(tmp_path, ending, stop=7)
    assert finishing(kept_history(state), endless, 4) == ending, "not four more"
    losses, _ = layers(tmp_path, ending)
    assert len(losses) == 9
    assert finishing([], endless, 4).steps == 4
    assert finishing(history[:1], endless, 4).steps == 5, "warming up is no end"


def test_matrices_are_those_between_hidden_features(start: Any) -> None:  # noqa: F811
    objective = DenoisingLoss(start, BaseTraining("all"))
    names = {id(p): name for name, p in objective.unet.named_parameters()}
    found = {names[id(p)] for p in objective.matrices()}
    assert "middle_block.1.transformer_blocks.0.attn1.to_q.weight" in found
    assert "lq_encoder.input_blocks.1.0.in_layers.2.weight" in found
    assert not found & {"input_blocks.0.0.weight", "out.2.weight", "lq_encoder.input_blocks.0.0.weight"}
    assert not [name for name in found if objective.unet.get_parameter(name).ndim < 2]
    first, second = objective.groups(replace(LOOP, weight_decay=0.1))
    assert (first[MUON], first["scale"], second[MUON], second["scale"]) == (False, 1.0, True, 5.0)
    assert len(first["params"]) + len(second["params"]) == sum(
        p.requires_grad for p in objective.parameters()
    )
    (only,) = objective.groups(replace(LOOP, muon=0.0))
    assert len(only["params"]) == len(first["params"]) + len(second["params"])
    start.restorer = small_diffbir()
    controlled = DenoisingLoss(start, BaseTraining("control"))
    names = {id(p): name for name, p in controlled.unet.named_parameters()}
    rim = ("control_model.input_blocks.0", "control_model.zero_convs", "control_model.middle_block_out")
    assert not [names[id(p)] for p in controlled.matrices() if names[id(p)].startswith(rim)]
