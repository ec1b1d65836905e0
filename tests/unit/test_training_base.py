"""Training of the restorer: from pictures to a file, in one process, in two, and after being killed."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from harness import ROOT
from pfstorer_core import load_restorer, restore
from pfstorer_core.checkpoints.header import RestorerHeader
from pfstorer_core.checkpoints.tensors import read_checkpoint
from pfstorer_core.cli.first_stage import run_autoencoder
from pfstorer_core.cli.runs import BaseRun, Changes, Data, run_base, run_cfw
from pfstorer_core.models import Autoencoder, AutoencoderConfig
from pfstorer_core.restorers.files import save_restorer
from pfstorer_core.restorers.first_stage.low_pass import start_as_low_pass
from pfstorer_core.restorers.first_stage.objective import AutoencoderTraining
from pfstorer_core.restorers.first_stage.train import (
    load_autoencoder,
    normalize_latents,
    train_autoencoder,
)
from pfstorer_core.restorers.stablesr.cfw import CFWTraining, restored
from pfstorer_core.restorers.stablesr.start import new_start, open_start
from pfstorer_core.restorers.stablesr.tiny import TINY, TINY_TEXT
from pfstorer_core.restorers.stablesr.train import BaseTraining, DenoisingLoss, train_base
from pfstorer_core.training.data import Crops, collate, find_pictures
from pfstorer_core.training.degradation import random_degradation
from pfstorer_core.training.loop import LoopSettings
from pfstorer_core.training.pairs import EncodedPairs, LatentPairs, latent_pairs

from .small import AUTOENCODER, SIZES, TEXT, base_keys, published, select, small_restorer, write
from .test_training import written_losses

LOOP = LoopSettings(steps=3, lr=1e-3, batch=4, warmup=1, save_every=2, bf16=False)
SIDE, STEPS = 32, 12
ALONE = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "ACCELERATE_USE_CPU": "true",
         "PYTHONPATH": str(ROOT)}  # fmt: skip
"""So that processes add up in the same order, and need no GPU each."""


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of six pictures of mixed sizes, two of them with captions."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for index, size in enumerate([(32, 32), (40, 33), (64, 48), (33, 70), (50, 50), (90, 90)]):
        pixels = rng.integers(0, 256, (4, 4, 3), np.uint8)
        Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).save(folder / f"{index}.png")
    for index in (1, 3):
        (folder / f"{index}.txt").write_text("a photo of a person")
    return folder


@pytest.fixture(scope="module")
def restorer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("restorer") / "small.safetensors"
    save_restorer(small_restorer(), path, torch.float32)
    return path


RANK = """
import sys
from pathlib import Path
from accelerate import PartialState
from pfstorer_core.cli import main
try:
    main()
finally:
    state = PartialState()
    name = f"rank {state.process_index} of {state.num_processes}"
    Path(__file__).with_name(name).touch()
"""
"""The command line, in one of several processes that leave word of themselves."""


def crops(folder: Path, size: int = SIDE, seed: int = 0) -> Crops:
    found = find_pictures([folder])
    return Crops(found, range(len(found)), size, seed)


def command(folder: Path, restorer: Path, pictures: Path) -> list[str]:
    return [
        "-m", "pfstorer_core", "train-base", str(folder), str(folder / "out.safetensors"),
        "--from", str(restorer), "--data", str(pictures), "--size", str(SIDE), "--no-bf16", "--dtype", "fp32",
        "--lr", "1e-3", "--batch", "4", "--save-every", "2",
        "--train", "all", "--null-lq", "0.5", "--steps", str(STEPS),
    ]  # fmt: skip


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, env=ALONE)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, restorer: Path, pictures: Path) -> Path:
    """The folder of a training in one process that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    result = run(*command(folder, restorer, pictures))
    assert result.returncode == 0, result.stderr
    assert len(written_losses(folder, "base-all")) == STEPS
    return folder


def test_two_processes_give_the_losses_of_one(
    tmp_path: Path, whole: Path, restorer: Path, pictures: Path
) -> None:
    # `accelerate launch --cpu` would start a single process, however many are asked for.
    script = tmp_path / "rank.py"
    script.write_text(RANK)
    launch = ("-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone", str(script))
    result = run(*launch, *command(tmp_path, restorer, pictures)[2:])
    assert result.returncode == 0, result.stderr
    assert sorted(path.name for path in tmp_path.glob("rank * of *")) == ["rank 0 of 2", "rank 1 of 2"]
    one, two = (written_losses(folder, "base-all") for folder in (whole, tmp_path))
    assert two == pytest.approx(one, rel=1e-4)
    weights = [read_checkpoint(folder / "out.safetensors")[0] for folder in (whole, tmp_path)]
    torch.testing.assert_close(weights[1], weights[0], rtol=0, atol=2e-3)


def test_a_killed_training_goes_on_with_the_same_losses(
    tmp_path: Path, whole: Path, restorer: Path, pictures: Path
) -> None:
    arguments = command(tmp_path, restorer, pictures)
    killed_at = random.Random(os.getpid()).randint(1, STEPS - 1)
    process = subprocess.Popen([sys.executable, *arguments], cwd=ROOT, stdout=subprocess.DEVNULL, env=ALONE)
    while process.poll() is None and _steps(tmp_path) < killed_at:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    result = run(*arguments)
    assert result.returncode == 0, result.stderr
    assert written_losses(tmp_path, "base-all") == written_losses(whole, "base-all"), killed_at
    assert (tmp_path / "out.safetensors").read_bytes() == (whole / "out.safetensors").read_bytes()


def _steps(folder: Path) -> int:
    path = folder / "base-all.csv"
    return path.read_text().count("\n") - 1 if path.exists() else 0


@pytest.mark.parametrize("train", ["sft", "unet", "all"])
def test_only_what_is_named_is_trained(tmp_path: Path, restorer: Path, pictures: Path, train: str) -> None:
    run_ = BaseRun(restorer, train=train, empty_prompt=0.5, dtype="fp32", data=Data([pictures], size=SIDE))
    loop = Changes(steps=2, lr=1e-3, batch=4, bf16=False)
    run_base(tmp_path, tmp_path / "out.safetensors", replace(run_, loop=loop))
    before, _ = read_checkpoint(restorer)
    after, metadata = read_checkpoint(tmp_path / "out.safetensors")
    assert before.keys() == after.keys()
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    own = {key for key in before if ".spade." in key or key.startswith("structcond_stage_model.")}
    unet = {key for key in before if key.startswith("model.diffusion_model.")} - own
    allowed = {"sft": own, "unet": unet, "all": own | unet}[train]
    assert changed <= allowed
    # A few have no gradient, such as biases before a GroupNorm, or LQ features that nothing reads.
    assert len(changed) > 0.8 * len(allowed)
    header = RestorerHeader.from_file(metadata, after, "out")
    assert header.training["stages"][-1]["train"] == train
    assert header.image_size == SIDE


def test_an_sd21_checkpoint_gets_sft_and_lq_encoder(tmp_path: Path, pictures: Path) -> None:
    sd21 = write(tmp_path / "v2-1_512.ckpt", select(published(small_restorer()), base_keys), None)
    start = open_start(sd21)
    block = start.restorer.unet.input_blocks[1][0]  # type: ignore[index]
    assert block.spade.mlp_gamma.weight.shape[1] == 128
    assert not block.spade.mlp_gamma.weight.any()
    assert not block.spade.mlp_beta.weight.any()
    x, t, context = torch.randn(1, 4, 8, 8), torch.tensor([500]), torch.randn(1, 3, SIZES.context_dim)
    features = [start.restorer.unet(x, t, context, condition=torch.randn(1, 4, 8, 8)) for _ in range(2)]
    torch.testing.assert_close(*features, rtol=0, atol=0)
    loop = Changes(steps=1, batch=2, bf16=True)
    output = tmp_path / "out.safetensors"
    run_base(tmp_path, output, BaseRun(sd21, data=Data([pictures], size=SIDE), loop=loop, dtype="fp32"))
    trained = load_restorer(output, text=True)
    kept, _ = read_checkpoint(sd21)
    key = "input_blocks.1.0.in_layers.2.weight"
    assert torch.equal(trained.unet.state_dict()[key], kept[f"model.diffusion_model.{key}"])


def test_checkpointing_changes_memory_only(restorer: Path, pictures: Path) -> None:
    batch = collate([crops(pictures)[k] for k in range(2)])
    gradients = []
    for checkpointing in (False, True):
        start = open_start(restorer, train="sft")
        loss = DenoisingLoss(start, BaseTraining(checkpointing=checkpointing))(batch)
        loss.backward()
        gradients.append({n: p.grad for n, p in start.restorer.unet.named_parameters() if p.grad is not None})
    assert any(".spade." in name for name in gradients[0])
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-7)


def test_a_sample_is_the_same_in_any_batch(restorer: Path, pictures: Path) -> None:
    """Its noise, time step, degradation and share of the LQ picture come from its own seed."""
    objective = DenoisingLoss(open_start(restorer, train="all"), BaseTraining("all", null_lq=0.5))
    samples = [crops(pictures)[k] for k in range(6)]
    with torch.no_grad():
        together = objective(collate(samples))
        apart = torch.stack([objective(collate([sample])) for sample in samples])
    torch.testing.assert_close(together, apart.mean(), rtol=1e-4, atol=0)


def test_a_shift_draws_time_steps_nearer_to_noise(restorer: Path, pictures: Path) -> None:
    batch = collate([crops(pictures)[k] for k in range(8)])
    seen: list[torch.Tensor] = []
    for shift in (1.0, 3.0):
        start = open_start(restorer, train="sft")
        start.restorer.unet.register_forward_pre_hook(lambda _, args: seen.append(args[1]))
        DenoisingLoss(start, BaseTraining(shift=shift))(batch)
    uniform, shifted = (t / 1000 for t in seen)
    assert (shifted > uniform).all()
    torch.testing.assert_close(shifted, 3 * uniform / (1 + 2 * uniform), rtol=0, atol=1e-3)


@pytest.mark.parametrize("shift", [0.0, -1.0, float("nan")])
def test_a_shift_out_of_range_is_refused(shift: float) -> None:
    with pytest.raises(ValueError, match="shift must be above 0"):
        BaseTraining(shift=shift)


@pytest.mark.parametrize("share", [-0.1, 10.0, float("nan")])
@pytest.mark.parametrize("name", ["null_lq", "empty_prompt", "p_hq"])
def test_a_share_out_of_range_is_refused_before_anything_is_read(
    tmp_path: Path, restorer: Path, name: str, share: float
) -> None:
    run = replace(BaseRun(restorer, train="all"), **{name: share})
    with pytest.raises(ValueError, match=f"{name} must be from 0 to 1"):
        run_base(tmp_path, tmp_path / "out.safetensors", run)


def test_what_is_renewed_is_drawn_anew_and_the_rest_stays(restorer: Path) -> None:
    before = open_start(restorer, train="all").restorer.unet.state_dict()
    after = open_start(restorer, train="all", renew=["middle_block", "attn2"]).restorer.unet.state_dict()
    changed = {key for key, value in before.items() if not torch.equal(value, after[key])}
    renewed = {k for k in before if k.startswith("middle_block.") or ".attn2." in k}
    assert changed <= renewed
    assert {
        k for k in renewed if k.endswith("weight") and before[k].ndim > 1 and ".spade." not in k
    } <= changed
    assert not any(".spade." in key for key in changed)
    again = open_start(restorer, train="all", renew=["middle_block", "attn2"]).restorer.unet.state_dict()
    assert all(torch.equal(value, again[key]) for key, value in after.items())


def test_latents_are_drawn_not_taken_at_their_mode(restorer: Path, pictures: Path) -> None:
    start = open_start(restorer, train="sft")
    sample = crops(pictures)[0]
    moments = torch.zeros(2 * AUTOENCODER.embed_dim, 8, 8)
    losses = []
    for logvar in (-30.0, 2.0):
        moments[AUTOENCODER.embed_dim :] = logvar
        given = {**{k: v for k, v in sample.items() if k != "image"}, "hq": moments, "lq": moments}
        with torch.no_grad():
            losses.append(DenoisingLoss(start, BaseTraining())(collate([given])).item())
    assert losses[0] != losses[1]


@pytest.mark.parametrize(("train", "null_lq"), [("sft", 0.1), ("unet", 0.5)])
def test_shares_that_would_teach_nothing_are_refused(train: str, null_lq: float) -> None:
    with pytest.raises(ValueError, match="cannot learn"):
        BaseTraining(train, null_lq)


def test_captions_need_a_text_tower(tmp_path: Path) -> None:
    path = tmp_path / "mute.safetensors"
    save_restorer(replace(small_restorer(), text=None), path)
    with pytest.raises(ValueError, match=r"mute\.safetensors has no text tower"):
        open_start(path, captions=True)


SMALL_AE = AutoencoderTraining(
    config=AutoencoderConfig(ch=32, ch_mult=(1, 1, 1), num_res_blocks=1),
    loop=replace(LOOP, lr=2e-3, steps=12),
)


def test_from_pictures_to_a_restorer(tmp_path: Path, pictures: Path) -> None:
    """The order of the tiny restorer: autoencoder, plain U-Net with captions, then SFT, then CFW."""
    samples = crops(pictures)
    train_autoencoder(samples, SMALL_AE, tmp_path)
    losses = written_losses(tmp_path, "autoencoder")
    assert sum(losses[-3:]) < sum(losses[:3])
    autoencoder = load_autoencoder(tmp_path)

    loop = replace(LOOP, validate_every=3)
    plain = tmp_path / "plain.safetensors"
    start = new_start(autoencoder, samples, train="unet", config=SIZES, text=TEXT)
    settings = BaseTraining("unet", empty_prompt=0.1, loop=loop)
    pairs = LatentPairs(*pairs_of(autoencoder, samples, tmp_path)[:3], batch=4, crop=4)
    embedding = start.restorer.text.model.token_embedding.weight.detach().clone()  # type: ignore[union-attr]
    header = train_base(start, pairs, settings, tmp_path, held=crops(pictures, seed=1))
    assert not torch.equal(start.restorer.text.model.token_embedding.weight, embedding)  # type: ignore[union-attr]
    start.write(plain, header, torch.float32)
    assert load_restorer(plain, text=True).null_context.shape == (1, 77, SIZES.context_dim)

    guided, finished = tmp_path / "guided.safetensors", tmp_path / "finished.safetensors"
    changes = Changes(steps=2, batch=4, validate_every=2)
    run_base(tmp_path, guided, BaseRun(plain, data=Data([pictures], size=SIDE), loop=changes))
    run_cfw(tmp_path, finished, guided, Data([pictures], size=SIDE), changes, pictures=4, sampling_steps=2)
    restorer = load_restorer(finished, text=True)
    assert [stage["train"] for stage in restorer.header.training["stages"]] == ["unet", "sft"]
    assert restorer.autoencoder.config.cfw
    lq = torch.rand(1, 3, 8, 8)
    images = [restore(restorer, lq, upscale=2, steps=1, fidelity=w, color_fix="none") for w in (0.0, 1.0)]
    assert not torch.equal(*images)
    sheets = {path.name.rpartition("-")[0] for path in (tmp_path / "sheets").iterdir()}
    assert sheets == {"base-unet", "base-sft", "cfw"}


def test_cfw_refuses_a_share_out_of_range(tmp_path: Path, restorer: Path) -> None:
    with pytest.raises(ValueError, match="p_hq must be from 0 to 1"):
        run_cfw(tmp_path, tmp_path / "out.safetensors", restorer, Data(), Changes(), p_hq=10)


@pytest.mark.parametrize("p_hq", [0.0, 1.0])
def test_cfw_also_sees_pictures_that_are_good(
    tmp_path: Path, restorer: Path, pictures: Path, p_hq: float
) -> None:
    settings = CFWTraining(
        sampling_steps=1, pictures=3, p_hq=p_hq, degradation=random_degradation("heavy", SIDE)
    )
    seen = restored(load_restorer(restorer), crops(pictures), settings, tmp_path / "restored.safetensors")
    assert torch.equal(seen.tensors["lq"], seen.tensors["hq"]) == (p_hq == 1)


def pairs_of(autoencoder: Autoencoder, samples: Crops, folder: Path, p_hq: float = 0.0) -> EncodedPairs:
    path = folder / "pairs.safetensors"
    return latent_pairs(autoencoder, samples, 6, BaseTraining().degradation, p_hq, path)


def test_pairs_are_encoded_once(tmp_path: Path, pictures: Path) -> None:
    torch.manual_seed(0)
    autoencoder, samples = Autoencoder(SMALL_AE.config).eval(), crops(pictures, 16)
    hq, lq, captions, people, shown = pairs_of(autoencoder, samples, tmp_path)
    assert people == shown == []
    assert hq.shape == lq.shape == (6, 8, 4, 4)
    assert captions.count("a photo of a person") == 2
    written = (tmp_path / "pairs.safetensors").stat().st_mtime_ns
    stored = {key: value.half().float() for key, value in autoencoder.state_dict().items()}
    autoencoder.load_state_dict(stored)  # as the file has it that the next stage starts from
    again = pairs_of(autoencoder, samples, tmp_path)
    torch.testing.assert_close(again[0], hq, rtol=0, atol=0)
    assert (tmp_path / "pairs.safetensors").stat().st_mtime_ns == written
    same = pairs_of(autoencoder, samples, tmp_path, p_hq=1.0)
    torch.testing.assert_close(same[0], same[1], rtol=0, atol=0.02)
    assert (tmp_path / "pairs.safetensors").stat().st_mtime_ns != written


def test_normalizing_the_latents_does_not_change_the_pictures() -> None:
    torch.manual_seed(0)
    model = Autoencoder(SMALL_AE.config).eval().requires_grad_(False)
    model.state_dict()["quant_conv.weight"][1] *= 30
    images = torch.rand(5, 3, 16, 16)
    before = model.decode(model.encode(2 * images - 1))
    normalize_latents(model, images)
    latents = model.encode(2 * images - 1)
    torch.testing.assert_close(latents.mean((0, 2, 3)), torch.zeros(4), rtol=0, atol=1e-4)
    torch.testing.assert_close(latents.std((0, 2, 3)), torch.ones(4), rtol=0, atol=1e-4)
    torch.testing.assert_close(model.decode(latents), before, rtol=0, atol=1e-4)


@pytest.mark.parametrize("size", [32, 64])
def test_a_new_autoencoder_passes_a_blurred_picture(size: int) -> None:
    torch.manual_seed(0)
    model = Autoencoder(AutoencoderTraining().config)
    start_as_low_pass(model)
    colours = torch.tensor([[0.45, -0.35, 0.1], [-0.5, 0.5, 0.0]])
    picture = colours[:, :, None, None].repeat(1, 1, size, size)
    picture[:, :, :, size // 2 :] *= 0.3
    picture[:, :, size // 4 * 3 :] = -0.2
    passed = model.decode(model.encode(picture))
    error = (passed - picture).abs().mean(1)
    assert error[:, 8 : size // 2, 8 : size // 2 - 4].max() < 0.05
    assert error[:, 8 : size // 2, size // 2 + 4 : -8].max() < 0.05
    # Half a latent pixel away from an edge one is on the other side of it.
    columns = passed[0, 0, size // 4] - passed[0, 0, size // 4, size // 2 + 4]
    assert columns[size // 2 - 3] > 0.9 * columns[size // 4]
    assert columns[size // 2 + 2] < 0.1 * columns[size // 4]


def test_the_default_networks_fit_together() -> None:
    autoencoder = AutoencoderTraining().config
    assert TINY.lq_encoder is not None
    assert {TINY.in_channels, TINY.out_channels, TINY.lq_encoder.in_channels} == {autoencoder.embed_dim}
    assert TINY.sft_channels == TINY.lq_encoder.out_channels
    assert TINY_TEXT.width == TINY.context_dim


def test_what_is_wrong_is_said_before_the_work(tmp_path: Path, restorer: Path, pictures: Path) -> None:
    output = tmp_path / "out.safetensors"
    with pytest.raises(FileNotFoundError, match="train-autoencoder"):
        run_base(tmp_path, output, BaseRun(data=Data([pictures])))
    with pytest.raises(ValueError, match="nothing to renew"):
        run_base(tmp_path, output, BaseRun(renew=["attn2"], data=Data([pictures])))
    for train, part in (("all", "output_blocks.99"), ("sft", "middle_block"), ("unet", "lq_encoder")):
        run = BaseRun(restorer, train=train, renew=[part], data=Data([pictures]))
        with pytest.raises(ValueError, match=f"no '{re.escape(part)}' to renew that --train {train} trains"):
            run_base(tmp_path, output, run)
    with pytest.raises(ValueError, match=r"has to end in \.safetensors"):
        run_base(tmp_path, tmp_path / "out.ckpt", BaseRun(restorer))
    with pytest.raises(ValueError, match="choose a multiple of 16"):
        run_base(tmp_path, output, BaseRun(restorer, data=Data([pictures], size=24)))
    with pytest.raises(ValueError, match="No degradation named 'rain'"):
        run_base(tmp_path, output, BaseRun(restorer, data=Data([pictures], size=SIDE, degradation="rain")))
    with pytest.raises(ValueError, match="in a row cannot be used"):
        run_base(tmp_path, output, BaseRun(restorer, data=Data([pictures], size=1024)))
    nothing = "No pictures to train on: .* `python -m lab draw-people FOLDER`"
    with pytest.raises(ValueError, match=nothing):
        run_base(tmp_path, output, BaseRun(tmp_path / "is not even opened.safetensors"))
    with pytest.raises(ValueError, match=nothing):
        run_autoencoder(tmp_path, Data(), Changes())
    with pytest.raises(ValueError, match=nothing):
        run_cfw(tmp_path, output, tmp_path / "is not even opened.safetensors", Data(), Changes())
