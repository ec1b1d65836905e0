"""Training steps that are recorded and replayed, by the stand-in for CUDA graphs."""

import logging
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pfstorer_core import AdapterTraining, Restorer
from pfstorer_core.personalization.dual_pivot.settings import DualPivotTraining
from pfstorer_core.personalization.lora.train import LoRATraining
from pfstorer_core.personalization.objective import PersonObjective, PersonTraining
from pfstorer_core.personalization.photos import Pairs, Photos
from pfstorer_core.personalization.registry import method_named
from pfstorer_core.personalization.training import train_identity_adapter
from pfstorer_core.training.data import collate
from pfstorer_core.training.loop import fit, to_device
from pfstorer_core.training.processes import Processes
from pfstorer_core.training.progress import Progress, never, silent

from .recorder import Elsewhere, Recorder
from .small import small_diffbir, small_restorer

PHOTOS = list(torch.rand(3, 3, 40, 48, generator=torch.Generator().manual_seed(1)))
QUICK: dict[str, Any] = {"steps": 4, "batch": 2, "lr": 1e-2, "pool": 4, "bf16": False, "preview_every": 0}
PIVOT: dict[str, Any] = {**QUICK, "lr_model": 1e-2, "class_pictures": 2, "rank": 2}


class Stopped(BaseException):
    pass


def objective_of(restorer: Restorer, settings: PersonTraining[Any]) -> Any:
    make = method_named(settings.method, "It").objective
    assert make is not None
    return make(restorer, Photos.of(restorer, PHOTOS), settings)


def recorder_of(objective: Any, **options: Any) -> Recorder:
    """Besides weights a training reads what lies on the device from the first step on."""

    def constants() -> list[Tensor]:
        restorer, prompts = objective.restorer, getattr(objective, "prompts", None)
        tables = [values for _, values in restorer.schedule._placed.values()]
        return [restorer.null_context, *tables, *(vars(prompts).values() if prompts else ())]

    return Recorder(objective, objective.restorer.unet, constants=constants, **options)


def learned(
    objective: PersonObjective[Any],
    folder: Path,
    graphs: Recorder | bool = False,
    on_progress: Callable[[Progress], None] = silent,
) -> tuple[list[float], dict[str, Tensor]]:
    """Losses and weights of a training."""
    objective.prepare(folder, silent, never)
    samples = objective.samples(Photos.of(objective.restorer, PHOTOS), never)
    one = Processes(torch.device("cpu"))
    try:
        losses = fit("stage", objective, samples, objective.loop(), folder, on_progress, processes=one,
                     pictures=False, graphs=graphs)  # fmt: skip
    finally:
        if isinstance(samples, Pairs):
            samples.close()
    return losses, {name: p.detach().clone() for name, p in objective.named_parameters() if p.requires_grad}


TRAININGS = pytest.mark.parametrize(
    ("make", "settings"),
    [
        (small_restorer, AdapterTraining(**QUICK, gamma_lr=0.1)),
        (small_restorer, AdapterTraining(**{**QUICK, "bf16": True}, gamma_lr=0.1)),
        (
            small_restorer,
            AdapterTraining(**QUICK, null_lq="gray", reference_timestep="noised", gradients="full"),
        ),
        (small_restorer, AdapterTraining(**QUICK, gamma=False, lambda_gen=0.0, null_lq="zero_latent")),
        (small_restorer, LoRATraining(**QUICK)),
        (small_diffbir, DualPivotTraining(**PIVOT, pivots="text")),
        (small_diffbir, DualPivotTraining(**PIVOT, pivots="model", model_weights="full")),
    ],
    ids=["pfstorer", "bf16", "full", "vico", "lora", "text pivot", "model pivot"],
)


@TRAININGS
def test_a_training_is_the_same_bit_for_bit(
    make: Callable[[], Restorer], settings: PersonTraining[Any], tmp_path: Path
) -> None:
    losses, weights = learned(objective_of(make(), settings), tmp_path / "called")
    objective = objective_of(make(), settings)
    capture = recorder_of(objective)
    again, replayed = learned(objective, tmp_path / "replayed", capture)
    assert again == losses
    assert {name: torch.equal(replayed[name], weight) for name, weight in weights.items()} == dict.fromkeys(
        weights, True
    )
    assert len(set(losses)) == len(losses), "the test is blind"
    parts = len(losses) * objective.loop().accumulate
    assert (capture.recorded, capture.replayed, capture.closed) == (1, parts - 1, True)


@TRAININGS
def test_a_step_waits_for_no_device_and_brings_nothing_there(
    make: Callable[[], Restorer],
    settings: PersonTraining[Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On the device "meta", which knows shapes alone, and so cannot tell the CPU any number; nor has it
    autocast."""
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda _: False)
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    restorer, meta = make(), torch.device("meta")
    objective = objective_of(restorer, settings)
    objective.prepare(tmp_path, silent, never)
    samples = objective.samples(Photos.of(restorer, PHOTOS), never)
    given = collate([samples[k] for k in range(2)])
    batch = {**to_device(given, meta), "seed": given["seed"]}
    if isinstance(samples, Pairs):
        samples.close()
    for network in filter(None, (objective, restorer.unet, restorer.autoencoder, restorer.text)):
        network.to(meta)
    objective.restorer = replace(restorer, null_context=restorer.null_context.to(meta))
    trained = [p for p in objective.parameters() if p.requires_grad]

    def step() -> None:
        torch.autograd.grad(objective.loss(*drawn), trained, allow_unused=True)

    with torch.no_grad():
        drawn = objective.drawn(batch)
    step()
    with Elsewhere():
        step()


def test_what_is_stopped_goes_on_as_if_nothing_had_been(tmp_path: Path) -> None:
    settings = AdapterTraining(**QUICK, gamma_lr=0.1)
    expected, _ = learned(objective_of(small_restorer(), settings), tmp_path / "at once")

    def stop(progress: Progress) -> None:
        if progress.step == 3:
            raise Stopped

    objective = objective_of(small_restorer(), settings)
    capture = recorder_of(objective)
    with pytest.raises(Stopped):
        learned(objective, tmp_path / "stopped", capture, stop)
    assert capture.replayed
    assert capture.closed
    again = objective_of(small_restorer(), settings)
    assert learned(again, tmp_path / "stopped", recorder_of(again))[0] == expected


def test_weights_that_are_recomputed_are_recorded_too(tmp_path: Path) -> None:
    """As blocks are that forget their features for want of memory."""
    settings = LoRATraining(**QUICK)
    expected, _ = learned(objective_of(small_restorer(), settings), tmp_path / "called")
    objective = objective_of(small_restorer(), settings)
    objective.restorer.unet.checkpoint_gradients()
    capture = recorder_of(objective)
    assert learned(objective, tmp_path / "replayed", capture)[0] == expected
    assert capture.recorded == 1


def test_without_room_it_learns_as_before(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings = LoRATraining(**QUICK)
    expected, _ = learned(objective_of(small_restorer(), settings), tmp_path / "called")
    objective = objective_of(small_restorer(), settings)
    capture = recorder_of(objective, room=False)
    assert learned(objective, tmp_path / "replayed", capture)[0] == expected
    assert capture.recorded == 0
    assert sum("memory is short" in record.getMessage() for record in caplog.records) == 1


def test_the_entries_pass_it_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Both stages of Dual-Pivot; and without a GPU one line says that there is none."""
    asked: list[str] = []

    class Counted(Recorder):
        def has_room(self) -> bool:
            asked.append("room")
            return False

        def close(self) -> None:
            asked.append("end")

    restorer, both = small_diffbir(), DualPivotTraining(**{**PIVOT, "steps": 5, "steps_text": 2})
    train_identity_adapter(restorer, PHOTOS, both, folder=tmp_path, graphs=Counted())
    first = 2 * both.accumulate - 1
    assert asked == [*["room"] * first, "end", *["room"] * 2, "end"]
    caplog.clear()
    caplog.set_level(logging.WARNING)
    train_identity_adapter(small_restorer(), PHOTOS, LoRATraining(**{**QUICK, "steps": 1}), graphs=True)
    assert [record.getMessage() for record in caplog.records if "CUDA graph" in record.getMessage()] == [
        "Without a CUDA graph: they need an NVIDIA device, and this is cpu."
    ]
