"""The recipe of a small restorer: one graph for all rows, degradation in groups, one command."""

import inspect
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from pfstorer_core import load_restorer
from pfstorer_core.checkpoints.tensors import write_safetensors
from pfstorer_core.cli import app, cleaning, controlling, first_stage, training
from pfstorer_core.cli.first_stage import run_autoencoder
from pfstorer_core.cli.runs import BaseRun, Changes, Data, run_base
from pfstorer_core.models import Autoencoder, AutoencoderConfig, Backend, LQEncoderConfig, UNet
from pfstorer_core.restorers.condition import Condition
from pfstorer_core.restorers.first_stage.train import FINISHED, GROUPS
from pfstorer_core.restorers.stablesr.tiny import F8_Z16, SMALL_RESTORERS
from pfstorer_core.restorers.stablesr.train import (
    LOOKED_AT,
    BaseTraining,
    DenoisingLoss,
    denoising_loss,
    evaluated,
)
from pfstorer_core.training.data import collate
from pfstorer_core.training.degradation import random_degradation
from pfstorer_core.training.progress import Progress

from .small import SIZES, small_diffbir
from .test_base_loss import SCALE, images, latents, start  # noqa: F401 - a fixture
from .test_cleaner_training import pictures  # noqa: F401 - a fixture
from .test_training import written_losses


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_one_graph_is_the_rows_with_and_without_an_lq_picture(start: Any) -> None:  # noqa: F811
    restorer = start.restorer
    context = restorer.null_context.expand(4, -1, -1)
    given: dict[str, Any] = {
        "x0": drawn(4, 4, 8, 8), "lq_latent": drawn(4, 4, 8, 8, seed=1), "noise": drawn(4, 4, 8, 8, seed=2),
        "t": torch.tensor([999, 500, 300, 10]), "context": context,
    }  # fmt: skip
    for null in ([True, False, False, True], [False] * 4):
        rows = torch.tensor(null)
        one = denoising_loss(restorer, **given, null_lq=rows, evaluate=evaluated)
        torch.testing.assert_close(one, denoising_loss(restorer, **given, null_lq=rows))
    diffbir = small_diffbir()
    x, t, hint = given["x0"], given["t"], given["lq_latent"]
    guided = torch.ones(4, 1, 1, 1, dtype=torch.bool)
    with torch.no_grad():
        found = evaluated(diffbir, x, t, context + 1, hint, guided)
        torch.testing.assert_close(found, diffbir.denoise(x, t, Condition(hint), context + 1))


def test_it_is_one_graph(start: Any) -> None:  # noqa: F811
    """Without a break, and none that is made anew for other rows; of a U-Net of one level, for speed."""
    lq_encoder = LQEncoderConfig(
        model_channels=32, out_channels=32, channel_mult=(1,), num_res_blocks=1, attention_resolutions=()
    )
    sizes = replace(
        SIZES, channel_mult=(1,), attention_resolutions=(), num_head_channels=32, lq_encoder=lq_encoder
    )
    compiled = torch.compile(evaluated, backend="eager", fullgraph=True, dynamic=False)
    restorer, context = replace(start.restorer, unet=UNet(sizes)), start.restorer.null_context
    context = context.expand(2, -1, -1)
    x, lq = drawn(2, 4, 8, 8), drawn(2, 4, 8, 8, seed=1)
    with torch.no_grad():
        for k, rows in enumerate(([True, False], [False, False])):
            guided, t = torch.tensor(rows)[:, None, None, None], torch.tensor([10 + k, 700])
            stance = "default" if k == 0 else "fail_on_recompile"
            with torch.compiler.set_stance(stance):
                found = compiled(restorer, x, t, context, lq, guided)
            torch.testing.assert_close(found, evaluated(restorer, x, t, context, lq, guided))


def test_figures_are_the_losses_at_time_steps(start: Any) -> None:  # noqa: F811
    objective, batch = DenoisingLoss(start, BaseTraining("all")), collate(latents(3))
    found = objective.figures(batch)
    assert list(found) == [f"loss at {t}" for t in LOOKED_AT]
    assert LOOKED_AT == (999, 700, 400, 150)
    assert objective.figures(batch) == found, "always with the same noise"
    restorer, zero = start.restorer, torch.zeros(3, 4, 8, 8)
    with torch.no_grad():
        hq, lq = (SCALE * batch[key][:, :4] for key in ("hq", "lq"))
        one = restorer.denoising_error(hq, torch.full((3,), 999), zero, restorer.condition(lq))
    assert found["loss at 999"] != pytest.approx(float(one))
    plain = DenoisingLoss(start, BaseTraining("unet"))
    assert plain.figures(batch) != found


def test_groups_are_degraded_at_once(start: Any, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    degradation, batch = random_degradation("light", 32), collate(images(4))
    settings = BaseTraining("sft", degradation=degradation, group=2)
    seen: list[int] = []
    whole = type(degradation).in_groups

    def counted(self: Any, pictures: Tensor, rngs: Any, p_hq: float, group: int) -> Any:  # noqa: F811
        seen.append(group)
        return whole(self, pictures, rngs, p_hq, group)

    monkeypatch.setattr(type(degradation), "in_groups", counted)
    assert torch.isfinite(DenoisingLoss(start, settings)(batch))
    DenoisingLoss(start, replace(settings, group=1))(batch)
    assert seen == [2]
    with pytest.raises(ValueError, match="group must be 1 or above"):
        BaseTraining(group=0)


def test_f8_z16_is_as_large_as_it_says() -> None:
    unet = UNet(F8_Z16.unet, Backend(device="meta"))
    assert sum(p.numel() for p in unet.parameters()) == pytest.approx(13.2e6, rel=0.01)
    autoencoder = F8_Z16.autoencoder.config
    assert (autoencoder.downscale, autoencoder.embed_dim) == (8, F8_Z16.unet.in_channels)
    assert F8_Z16.loop.finish < F8_Z16.loop.steps
    assert set(SMALL_RESTORERS) == {"tiny", "f8_z16"}


def test_one_command_makes_it_and_another_ends_it(
    tmp_path: Path,
    pictures: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two steps that could go on for ever, and two to the end, of a network that is as small as they go."""
    folder, output = tmp_path / "run", tmp_path / "f8.safetensors"
    config = AutoencoderConfig(ch=32, ch_mult=(1, 1, 1), num_res_blocks=1)
    sizes = replace(SIZES, num_head_channels=32)
    monkeypatch.setitem(SMALL_RESTORERS, "f8_z16", replace(F8_Z16, unet=sizes))
    torch.manual_seed(0)
    autoencoder = Autoencoder(config)
    write_safetensors(folder / FINISHED, autoencoder.state_dict(), {GROUPS: str(config.norm_groups)})
    arguments = [
        "train-base", folder, output, "--network", "f8_z16", "--data", pictures, "--size", "32",
        "--batch", "2", "--pairs", "3", "--no-bf16", "--null-lq", "0.12", "--shift", "3",
    ]  # fmt: skip

    def run(*more: str) -> None:
        result = CliRunner().invoke(app, [*map(str, arguments), *more], catch_exceptions=False)
        assert result.exit_code == 0, result.output

    run("--endless", "--steps", "2", "--validate-every", "2")
    run("--finish", "2")
    rates = [float(row.split(",")[2]) for row in (folder / "base-all.csv").read_text().splitlines()[1:]]
    assert len(written_losses(folder, "base-all")) == 4
    assert rates[:2] == pytest.approx([1.2e-5, 2.4e-5], rel=1e-3)
    assert rates[3] < rates[2]
    made = load_restorer(output, text=True)
    assert made.unet.config == sizes
    assert made.header.image_size == 32
    stage = json.loads(json.dumps(dict(made.header.training)))["stages"][-1]
    assert (stage["muon"], stage["finish"]) == (0.02, 2)
    assert (folder / "base-all.held.csv").exists()


def test_bad_settings_are_refused(tmp_path: Path, pictures: Path) -> None:  # noqa: F811
    data, output = Data([pictures], 64), tmp_path / "out.safetensors"
    with pytest.raises(ValueError, match="No network named 'huge'; choose one of tiny, f8_z16"):
        run_base(tmp_path, output, BaseRun(network="huge", data=data))
    with pytest.raises(ValueError, match="No network named 'huge'"):
        run_autoencoder(tmp_path, data, Changes(), network="huge")


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (
            ["train-base", "a", "out.safetensors", "--endless"],
            "--finish 1500 in place of --endless ends it in",
        ),
        (["train-base", "a", "out.safetensors"], "from there, and writes out.safetensors at the end."),
        (["train-control", "a", "out.safetensors", "--from", "b", "--endless"], "and writes out.safetensors"),
        (["train-cleaner", "a", "out.safetensors"], "the same command goes on from there."),
        (["train-cfw", "a", "out.safetensors", "--from", "b"], "the same command goes on from there."),
        (["train-autoencoder", "a"], "the same command goes on from there."),
    ],
)
def test_stopped_it_says_how_to_go_on(command: list[str], says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one line; not before there is anything to go on from."""
    steps = 1

    def stopped(*given: Any, on_progress: Any = None, **_: Any) -> None:
        show = on_progress or next(each for each in given if inspect.isfunction(each))
        for step in range(steps):
            show(Progress("base", step + 1, 10))
        raise KeyboardInterrupt

    for module, kinds in {
        training: "base cfw",
        first_stage: "autoencoder",
        controlling: "control",
        cleaning: "cleaner",
    }.items():
        for kind in kinds.split():
            monkeypatch.setattr(module, f"run_{kind}", stopped)
    lines = CliRunner().invoke(app, command).stderr.splitlines()
    (said,) = [line for line in lines if line.startswith("Stopped. What was trained so far is in a: ")]
    assert says in said
    steps = 0
    assert "Stopped" not in CliRunner().invoke(app, command).stderr
