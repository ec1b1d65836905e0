"""What a cleaner is trained by, and that its training goes from pictures to a file."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from pfstorer_core import CheckpointError
from pfstorer_core.checkpoints.layouts import CLEANER
from pfstorer_core.checkpoints.tensors import read_checkpoint
from pfstorer_core.cli import app
from pfstorer_core.cli.cleaning import run_cleaner
from pfstorer_core.cli.runs import Changes, Data
from pfstorer_core.degradation import PRESETS
from pfstorer_core.imaging.pictures import read_picture
from pfstorer_core.models import SwinIRConfig
from pfstorer_core.models.iresnet import IResNet, IResNetConfig
from pfstorer_core.recognition import ARCFACE, Recognizer
from pfstorer_core.restorers.diffbir.cleaner import load_cleaner
from pfstorer_core.restorers.diffbir.train_cleaner import (
    PUBLISHED,
    TINY_LOOP,
    TINY_SWINIR,
    CleanerTraining,
    CleaningLoss,
    new_swinir,
    open_swinir,
    save_cleaner,
    train_cleaner,
)
from pfstorer_core.restorers.inspection import inspect_checkpoint
from pfstorer_core.training.data import collate
from pfstorer_core.training.progress import Progress

from .test_base_loss import images
from .test_training import written_losses

SIZES = SwinIRConfig(12, (2,), (2,), 4, 2, 8)
SHORT = Changes(steps=4, lr=1e-3, batch=2, save_every=2, validate_every=4, bf16=False)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for index in range(3):
        pixels = rng.integers(0, 256, (4, 4, 3), np.uint8)
        Image.fromarray(pixels).resize((70, 64), Image.Resampling.BICUBIC).save(folder / f"{index}.png")
    return folder


@pytest.mark.parametrize("objective", ["l1", "sse"])
def test_the_loss_is_the_objective_of_cleaned_pictures(objective: str) -> None:
    model, batch = new_swinir(SIZES), collate(images(2))
    settings = CleanerTraining(objective, CleanerTraining.suited(SIZES, 32).degradation)
    hq = batch["image"].float() / 255
    lq = settings.degradation(hq, [np.random.default_rng(int(seed)) for seed in batch["seed"]])[1]
    error = model(lq) - hq
    expected = error.abs().mean() if objective == "l1" else error.square().sum()
    torch.testing.assert_close(CleaningLoss(model, settings)(batch), expected)
    good = replace(settings, p_hq=1.0)
    error = model(hq) - hq
    expected = error.abs().mean() if objective == "l1" else error.square().sum()
    torch.testing.assert_close(CleaningLoss(model, good)(batch), expected)
    sheet = CleaningLoss(model, good).sheet(batch)
    assert sheet.shape == (1, 3, 2 * hq.shape[-2], 3 * hq.shape[-1])
    torch.testing.assert_close(sheet[..., : hq.shape[-1]], sheet[..., -hq.shape[-1] :])


def test_an_identity_recovery_network_also_keeps_who_it_is() -> None:
    """Each term of its loss, and that it reaches the network; a recogniser is neither trained nor kept."""
    torch.manual_seed(0)
    network = IResNet(IResNetConfig(4, (4, 4, 8, 8), (1, 1, 1, 1), features=8, side=32)).eval()
    recognizer = Recognizer(network.requires_grad_(False), replace(ARCFACE, side=32))
    model, batch = new_swinir(SIZES), collate(images(2))
    base = CleanerTraining("l1", CleanerTraining.suited(SIZES, 32).degradation)
    hq = batch["image"].float() / 255
    lq = base.degradation(hq, [np.random.default_rng(int(seed)) for seed in batch["seed"]])[1]
    found, wanted = (recognizer.embed(2 * image - 1) for image in (model(lq), hq))
    edges = (model(lq) - hq).diff(dim=-1).abs().mean() + (model(lq) - hq).diff(dim=-2).abs().mean()
    likeness = torch.cosine_similarity(found, wanted).mean()
    objective = CleaningLoss(model, replace(base, identity=0.5, edges=0.1), recognizer)
    expected = CleaningLoss(model, base)(batch) + 0.5 * (1 - likeness) + 0.1 * edges
    torch.testing.assert_close(objective(batch), expected)
    trained = {name for name, p in objective.named_parameters() if p.requires_grad}
    assert trained == {f"model.{name}" for name, _ in model.named_parameters()}
    gradient = torch.autograd.grad(likeness, [*model.parameters()], allow_unused=True)
    assert any(each is not None and each.abs().max() > 0 for each in gradient)


def test_an_identity_needs_a_recogniser(tmp_path: Path) -> None:
    settings = CleanerTraining(identity=0.5)
    with pytest.raises(ValueError, match="needs a face recogniser and a weight above 0"):
        train_cleaner(new_swinir(SIZES), images(2), settings, tmp_path)


def test_settings_suit_the_network_and_the_pictures() -> None:
    wide = SwinIRConfig()
    for objective, preset in (("l1", "face"), ("sse", "codeformer")):
        suited = CleanerTraining.suited(wide, 512, objective)
        assert suited.degradation.presets == (PRESETS[preset],)
        assert replace(suited.loop, clip=1.0) == PUBLISHED[objective]
        assert (suited.loop.clip > 1e9) == (objective == "sse"), "a sum has gradients of any size"
    assert CleanerTraining.suited(TINY_SWINIR, 128).loop == TINY_LOOP
    assert {PRESETS["heavy"], PRESETS["light"]} == set(
        CleanerTraining.suited(TINY_SWINIR, 128).degradation.presets
    )
    assert CleanerTraining.suited(TINY_SWINIR, 128, preset="face").degradation.presets == (PRESETS["face"],)
    with pytest.raises(ValueError, match="No objective named 'l2'"):
        CleanerTraining("l2")
    with pytest.raises(ValueError, match="p_hq must be from 0 to 1"):
        CleanerTraining(p_hq=2)


def test_from_pictures_to_a_file_with_a_stop_between(pictures: Path, tmp_path: Path) -> None:
    data = Data([pictures], 64)

    def run(name: str, seed: int = 0, stop_after: int = 9) -> Path:
        def stop(progress: Progress) -> None:
            if progress.step == stop_after:
                raise KeyboardInterrupt

        path = tmp_path / f"{name}.safetensors"
        changes = replace(SHORT, seed=seed)
        run_cleaner(tmp_path / name, path, data, changes, sizes=SIZES, dtype="fp32", on_progress=stop)
        return path

    with pytest.raises(KeyboardInterrupt):
        run("parts", stop_after=2)
    assert not (tmp_path / "parts.safetensors").exists()
    whole, metadata = read_checkpoint(run("whole"))
    parts, _ = read_checkpoint(run("parts"))
    assert all(torch.equal(value, parts[key]) for key, value in whole.items())
    assert len(written_losses(tmp_path / "parts", "cleaner")) == 4
    assert (tmp_path / "whole" / "sheets" / "cleaner-0000004.png").exists()
    record = json.loads(metadata["training"])
    assert (record["objective"], record["steps"]) == ("l1", 4)
    assert record["config"]["img_size"] == 8, "of the crops"
    picture = torch.rand(1, 3, 64, 64)
    cleaner, start = load_cleaner(tmp_path / "whole.safetensors"), new_swinir(replace(SIZES, img_size=8))
    assert (cleaner.clean(picture) - start(picture)).abs().max() > 1e-4
    with pytest.raises(ValueError, match=r"other settings: .*seed"):
        run("whole", seed=1)


def test_a_cleaner_is_trained_further(pictures: Path, tmp_path: Path) -> None:
    start = tmp_path / "start.safetensors"
    save_cleaner(new_swinir(SIZES, 3), start, {}, torch.float32)
    model = open_swinir(start)
    assert model.config == SIZES
    changes = replace(SHORT, steps=1, lr=1e-12)
    run_cleaner(
        tmp_path / "run", tmp_path / "b.safetensors", Data([pictures]), changes, source=start, dtype="fp32"
    )
    for key, value in read_checkpoint(tmp_path / "b.safetensors")[0].items():
        torch.testing.assert_close(value, model.state_dict()[key])
    torch.save({"other": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=r"other\.pth holds no SwinIR"):
        open_swinir(tmp_path / "other.pth")


def test_crops_have_to_fit(pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"Crops of 100 pixels do not fit the network: .* multiple of 64"):
        run_cleaner(tmp_path, tmp_path / "a.safetensors", Data([pictures], 100), SHORT)
    assert list(tmp_path.iterdir()) == []


def test_a_new_network_is_drawn_by_its_seed() -> None:
    one, same, other = (new_swinir(SIZES, seed).state_dict() for seed in (0, 0, 1))
    key = "layers.0.residual_group.blocks.1.attn.relative_position_bias_table"
    assert torch.equal(one[key], same[key])
    assert not torch.equal(one[key], other[key])
    for name in (key, "layers.0.residual_group.blocks.1.mlp.fc1.weight"):
        assert one[name].std() == pytest.approx(0.02, rel=0.2)
    assert not one["layers.0.residual_group.blocks.1.mlp.fc1.bias"].any()


def test_the_tiny_one_is_a_small_file(tmp_path: Path) -> None:
    path = tmp_path / "tiny.safetensors"
    save_cleaner(new_swinir(TINY_SWINIR), path, {"config": asdict(TINY_SWINIR)})
    assert path.stat().st_size <= 2e6
    assert open_swinir(path).config == TINY_SWINIR


def test_it_learns_by_the_command_line(pictures: Path, tmp_path: Path) -> None:
    """Sizes are options; what it makes is told by `inspect`."""
    path = tmp_path / "a.safetensors"
    sizes = ["--embed-dim", "12", "--groups", "2", "--depth", "1", "--heads", "3", "--size", "64"]
    loop = ["--steps", "24", "--lr", "0.01", "--batch", "2", "--no-bf16", "--degradation", "light"]
    command = ["train-cleaner", str(tmp_path / "run"), str(path), "--data", str(pictures), *sizes, *loop]
    result = CliRunner().invoke(app, command, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    losses = written_losses(tmp_path / "run", "cleaner")
    assert len(losses) == 24
    assert sum(losses[-6:]) < 0.7 * sum(losses[:6])
    assert open_swinir(path).config == SwinIRConfig(12, (1, 1), (3, 3), img_size=8)
    assert inspect_checkpoint(path).kind == CLEANER.name
    bad, good = next(iter(pictures.iterdir())), tmp_path / "good.png"
    result = CliRunner().invoke(
        app, ["clean", str(path), str(bad), str(good), "--tile", "64"], catch_exceptions=False
    )
    assert result.exit_code == 0, result.output
    expected = load_cleaner(path).clean(read_picture(bad), 64).clamp(0, 1)
    torch.testing.assert_close(read_picture(good), expected, rtol=0, atol=0.5 / 255 + 1e-6)
