"""A control network learned on a restorer: where it starts, what it learns from, and the files it becomes."""

import json
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from pfstorer_core import load_restorer, restore
from pfstorer_core.checkpoints.header import CONTROL_FORMAT, RestorerHeader
from pfstorer_core.checkpoints.parts import CONTROL, SWINIR
from pfstorer_core.checkpoints.tensors import read_checkpoint
from pfstorer_core.cli import app
from pfstorer_core.cli.controlling import ControlRun, run_control
from pfstorer_core.cli.runs import BaseRun, Changes, Data, run_base
from pfstorer_core.degradation import PRESETS
from pfstorer_core.models import SwinIRConfig
from pfstorer_core.restorers.condition import UNCONDITIONAL, Condition
from pfstorer_core.restorers.diffbir.cleaner import Cleaner, load_cleaner
from pfstorer_core.restorers.diffbir.start import open_control_start
from pfstorer_core.restorers.diffbir.train_cleaner import new_swinir, save_cleaner
from pfstorer_core.restorers.diffbir.train_control import PUBLISHED, control_training
from pfstorer_core.restorers.files import open_restorer, save_restorer
from pfstorer_core.restorers.inspection import inspect_checkpoint
from pfstorer_core.restorers.stablesr.train import DenoisingLoss
from pfstorer_core.training.data import collate
from pfstorer_core.training.degradation import random_degradation
from pfstorer_core.training.progress import Progress

from .small import HEADER, base_keys, published, select, small_diffbir, small_restorer, write
from .test_base_loss import calls, images, inputs
from .test_cleaner_training import pictures  # noqa: F401 - a fixture
from .test_training import written_losses

SHORT = Changes(steps=4, lr=1e-2, batch=2, save_every=2, validate_every=4, bf16=False)


@pytest.fixture(scope="module")
def cleaner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cleaner") / "cleaner.safetensors"
    save_cleaner(new_swinir(SwinIRConfig(12, (2,), (2,), 4, 2, 8)), path, {}, torch.float32)
    return path


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A StableSR-like restorer whose SFT acts."""
    path = tmp_path_factory.mktemp("base") / "base.safetensors"
    save_restorer(small_restorer(), path, torch.float32)
    return path


def run(folder: Path, base: Path, cleaner: Path, data: Path, stop: int | None = None, **changes: Any) -> Path:
    """Args: stop: the step after which somebody stops it."""
    output = folder / "out.safetensors"
    settings = {"loop": SHORT, "dtype": "fp32", "cleaner": cleaner, **changes}

    def listen(progress: Progress) -> None:
        if progress.stage == "base-control" and progress.step == stop:
            raise KeyboardInterrupt

    with suppress(KeyboardInterrupt):
        run_control(folder, output, ControlRun(base, data=Data([data], 32), **settings), listen)
    return output


def test_a_new_control_network_is_the_u_net_s_encoder_and_adds_nothing(base: Path, cleaner: Path) -> None:
    start = open_control_start(base, cleaner=load_cleaner(cleaner))
    restorer, sft = start.restorer, load_restorer(base)
    assert restorer.header == replace(
        HEADER, architecture="diffbir", condition="control", start="noise", control_prompt="empty"
    )
    generator = torch.Generator().manual_seed(0)
    x, hint = (torch.randn(2, 4, 8, 8, generator=generator) for _ in range(2))
    t = torch.tensor([500, 20])
    with torch.no_grad():
        plain = sft.denoise(x, t, UNCONDITIONAL)
        assert torch.equal(restorer.denoise(x, t, Condition(hint)), plain), "SFT is off, the rest as it was"
        assert not torch.equal(sft.denoise(x, t, Condition(hint)), plain)
    unet, control = restorer.unet, restorer.unet.control_model
    assert control is not None
    own = unet.state_dict()
    for key, value in control.state_dict().items():
        if key == "input_blocks.0.0.weight":
            assert torch.equal(value[:, :4], own[key])
            assert not value[:, 4:].any()
        elif key.startswith(("zero_convs.", "middle_block_out.")):
            assert not value.any()
        else:
            assert torch.equal(value, own[key]), key
    trained = {name for name, parameter in unet.named_parameters() if parameter.requires_grad}
    assert trained == {f"control_model.{name}" for name, _ in control.named_parameters()}


def test_it_starts_on_stable_diffusion_and_goes_on_with_its_own(
    base: Path, cleaner: Path, tmp_path: Path
) -> None:
    plain = select(published(small_restorer()), base_keys)
    sd = write(tmp_path / "v2-1_512.safetensors", plain, None)
    start = open_control_start(sd, cleaner=load_cleaner(cleaner))
    assert start.restorer.header == replace(
        RestorerHeader(), architecture="diffbir", condition="control", start="noise", control_prompt="empty"
    )
    before = small_diffbir("v2")
    save_restorer(before, tmp_path / "diffbir.safetensors", torch.float32)
    with pytest.raises(ValueError, match=r"diffbir\.safetensors has no cleaner.*`train-cleaner` makes one"):
        open_control_start(tmp_path / "diffbir.safetensors")
    save_restorer(replace(before, cleaner=load_cleaner(cleaner)), tmp_path / "whole.safetensors")
    again = open_control_start(tmp_path / "whole.safetensors", aligned="FFHQ")
    assert again.restorer.header == replace(before.header, aligned="FFHQ"), "what it says of itself stays"
    key = "control_model.zero_convs.1.0.weight"
    torch.testing.assert_close(
        again.restorer.unet.get_parameter(key), before.unet.get_parameter(key), rtol=0, atol=1e-4
    )
    assert isinstance(again.restorer.cleaner, Cleaner)


def test_it_learns_from_modes_of_cleaned_pictures(base: Path, cleaner: Path) -> None:
    """And no gradient flows through the U-Net's encoder."""
    start = open_control_start(base, cleaner=load_cleaner(cleaner))
    settings = replace(control_training(), degradation=random_degradation("light", 32))
    objective, control = DenoisingLoss(start, settings), start.restorer.unet.control_model
    assert control is not None
    batch = collate(images(2))
    seen: list[Tensor] = []

    def colours(bad: Tensor) -> Tensor:
        seen.append(bad)
        return bad.flip(1)

    start.restorer = replace(start.restorer, cleaner=colours)
    objective = DenoisingLoss(start, settings)
    with inputs(control.input_blocks[0]) as given, calls(start.restorer.unet) as called:
        loss = objective(batch)
    (bad,) = seen
    assert bad.shape == batch["image"].shape
    autoencoder, scale = start.restorer.autoencoder, HEADER.scale_factor
    with torch.no_grad():
        hint = scale * autoencoder.encode(2 * bad.flip(1) - 1)
    torch.testing.assert_close(given[0][:, 4:], hint)
    assert not torch.equal(given[0][:, :4], hint)
    assert torch.equal(given[0][:, :4], called[0].x)
    loss.backward()
    gradients = {name for name, p in objective.named_parameters() if p.grad is not None}
    assert gradients
    assert all(name.startswith("unet.control_model.") for name in gradients)
    assert objective.sheet(batch).shape == (1, 3, 64, 3 * 32)


def test_from_pictures_to_a_file_and_on(
    base: Path,
    cleaner: Path,
    pictures: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    whole = run(tmp_path / "whole", base, cleaner, pictures, pairs=3, sampling_start="lq")
    losses = written_losses(tmp_path / "whole", "base-control")
    assert len(losses) == 4
    given = (tmp_path / "alone", base, cleaner, pictures)
    run(*given, stop=3, pairs=3, sampling_start="lq")
    alone = run(*given, pairs=3, sampling_start="lq", alone=True)
    made, on_top = load_restorer(whole), load_restorer(base, alone)
    assert made.header.start == "lq"
    assert made.header.image_size == 32
    assert made.header == on_top.header
    assert made.header.training["stages"][-1]["train"] == "control"
    before = load_restorer(base)
    for key, value in made.unet.state_dict().items():
        assert torch.equal(value, on_top.unet.state_dict()[key]), "it resumes exactly"
        if not key.startswith("control_model."):
            assert torch.equal(value, before.unet.state_dict()[key]), "the generator stays"
    assert made.unet.control_model is not None
    assert made.unet.control_model.zero_convs[0][0].weight.any()  # type: ignore[index, union-attr]
    picture = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    one, other = (restore(each, picture, upscale=1, steps=2) for each in (made, on_top))
    assert torch.equal(one, other)
    assert not torch.equal(one, restore(before, picture, upscale=1, steps=2))
    tensors, metadata = read_checkpoint(alone)
    assert metadata["format"] == CONTROL_FORMAT
    assert len(tensors) == len(CONTROL.of(tensors)) + len(SWINIR.of(tensors))
    assert SWINIR.of(tensors)
    assert "or the restorer that it was trained on" in inspect_checkpoint(alone).missing[0]
    with pytest.raises(ValueError, match=r"goes on top of a checkpoint.*or the restorer that it was trained"):
        open_restorer(alone)


def test_other_cleaners_make_other_pairs(
    base: Path,
    cleaner: Path,
    pictures: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    other = tmp_path / "other.safetensors"
    save_cleaner(new_swinir(SwinIRConfig(12, (2,), (2,), 4, 2, 8), seed=1), other, {}, torch.float32)
    once = replace(SHORT, steps=1, validate_every=0)
    keys = []
    for file in (cleaner, other):
        run(tmp_path / "run", base, file, pictures, pairs=2, loop=once)
        keys.append(read_checkpoint(tmp_path / "run" / "pairs.safetensors")[1]["key"])
        (tmp_path / "run" / "base-control.state.safetensors").unlink()
    assert keys[0] != keys[1]


def test_the_command_line_trains_it(
    base: Path,
    cleaner: Path,
    pictures: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    output = tmp_path / "out.safetensors"
    arguments = [
        "train-control", tmp_path / "run", output, "--from", base, "--cleaner", cleaner, "--data", pictures,
        "--size", "32", "--steps", "1", "--batch", "2", "--no-bf16", "--start", "lq", "--aligned", "FFHQ",
        "--alone", "--degradation", "light", "--shift", "3",
    ]  # fmt: skip
    result = CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    header = load_restorer(base, output).header
    assert (header.start, header.aligned) == ("lq", "FFHQ")
    stage = header.training["stages"][-1]
    assert stage["shift"] == 3.0
    assert stage["degradation"]["presets"] == [json.loads(json.dumps(asdict(PRESETS["light"])))]
    with pytest.raises(ValueError, match="trained by train-control"):
        run_base(tmp_path, output, BaseRun(base, train="control", data=Data([pictures], 32)))


def test_settings_are_diffbir_s() -> None:
    settings = control_training()
    assert (settings.train, settings.no_lq, settings.no_prompt) == ("control", 0.0, 1.0)
    assert (PUBLISHED.lr, PUBLISHED.batch, PUBLISHED.steps, PUBLISHED.weight_decay) == (
        1e-4,
        192,
        25_000,
        0.01,
    )
    assert (PUBLISHED.ema, PUBLISHED.clip, PUBLISHED.decay) == (0.0, 0.0, False)
