"""Restorers as files, and restoration without a host, with small random networks."""

import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pfstorer_core import CheckpointError, Restorer, RestorerHeader, load_restorer, restore, save_restorer
from pfstorer_core.checkpoint import load_exactly, read_checkpoint
from pfstorer_core.models import Autoencoder, AutoencoderConfig, LQEncoderConfig, UNet, UNetConfig
from pfstorer_core.sampling import SamplerStep

SIZES = UNetConfig(
    model_channels=32,
    channel_mult=(1, 2, 2),
    num_res_blocks=1,
    attention_resolutions=(4, 2),
    num_head_channels=16,
    context_dim=24,
    sft_channels=32,
    sft_hidden=16,
    lq_encoder=LQEncoderConfig(
        model_channels=32,
        out_channels=32,
        channel_mult=(1, 1, 2),
        num_res_blocks=2,
        attention_resolutions=(4,),
        num_heads=2,
    ),
)
AUTOENCODER = AutoencoderConfig(ch=32, ch_mult=(1, 2, 2), num_res_blocks=1, z_channels=4, cfw=True)
HEADER = RestorerHeader("v", 0.7, 32, 16, 2, [[0.1, 0.2, 0.3]] * 5, {"steps": 3})


@pytest.fixture(scope="module")
def restorer() -> Restorer:
    torch.manual_seed(0)
    return Restorer(
        UNet(SIZES).eval(), Autoencoder(AUTOENCODER).eval(), torch.randn(1, 2, SIZES.context_dim), HEADER
    )


@pytest.fixture
def file(restorer: Restorer, tmp_path: Path) -> Path:
    save_restorer(restorer, tmp_path / "small.safetensors", torch.float32)
    return tmp_path / "small.safetensors"


def test_saved_and_loaded_it_is_the_same(restorer: Restorer, file: Path) -> None:
    loaded = load_restorer(file)
    assert (loaded.unet.config, loaded.autoencoder.config) == (SIZES, AUTOENCODER)
    assert loaded.header == HEADER
    for ours, theirs in ((restorer.unet, loaded.unet), (restorer.autoencoder, loaded.autoencoder)):
        torch.testing.assert_close(dict(ours.state_dict()), dict(theirs.state_dict()), rtol=0, atol=0)
    assert [path.name for path in file.parent.iterdir()] == [file.name], "a temporary file was left"


def test_prediction_type_can_be_overridden(file: Path) -> None:
    assert load_restorer(file, prediction_type="eps").header == replace(HEADER, prediction_type="eps")


def test_restore(restorer: Restorer) -> None:
    lq = torch.rand(2, 3, 13, 9)
    steps: list[SamplerStep] = []
    image = restore(restorer, lq, upscale=3, steps=2, seed=1, fidelity=0.5, on_step=steps.append)
    assert image.shape == (2, 3, 39, 27)
    assert torch.isfinite(image).all()
    assert [step.number for step in steps] == [0, 1]
    assert torch.equal(image, restore(restorer, lq, upscale=3, steps=2, seed=1, fidelity=0.5))
    assert not torch.equal(image, restore(restorer, lq, upscale=3, steps=2, seed=2, fidelity=0.5))
    batched = restore(restorer, lq, upscale=3, steps=2, seed=1, fidelity=0.5, tile_batch=1)
    torch.testing.assert_close(batched, image, rtol=0, atol=1e-3)


def test_fidelity_without_cfw_is_refused(restorer: Restorer) -> None:
    plain = replace(restorer, autoencoder=Autoencoder(replace(AUTOENCODER, cfw=False)))
    with pytest.raises(ValueError, match=r"fidelity 0\.5 needs .* CFW"):
        restore(plain, torch.rand(1, 3, 8, 8), steps=1, fidelity=0.5, on_step=unexpected)


@pytest.mark.parametrize(
    ("setting", "value"),
    [("color_fix", "sepia"), ("fidelity", 2.0), ("upscale", 0.1), ("tile", 8), ("overlap", 64)],
)
def test_a_wrong_setting_is_named_before_any_step(restorer: Restorer, setting: str, value: object) -> None:
    with pytest.raises(ValueError, match=setting.replace("color_fix", "sepia")):
        restore(restorer, torch.rand(1, 3, 8, 8), steps=1, on_step=unexpected, **{setting: value})  # type: ignore[arg-type]


def unexpected(step: SamplerStep) -> None:
    raise AssertionError("work began")


@pytest.mark.parametrize(
    ("drop", "expected"),
    [
        ("structcond_stage_model.", r"PFStorer restorer \(no structcond_stage_model\."),
        ("model.diffusion_model.", r"PFStorer restorer \(no model\.diffusion_model\."),
        ("first_stage_model.", r"PFStorer restorer \(no first_stage_model\."),
        ("null_context", "null_context"),
        ("model.diffusion_model.out.2.bias", r"1 missing: out\.2\.bias"),
    ],
)
def test_what_a_file_lacks_is_named(file: Path, drop: str, expected: str) -> None:
    kept = {key: value for key, value in load_file(file).items() if not key.startswith(drop)}
    save_file(kept, file, HEADER.to_metadata())
    with pytest.raises(CheckpointError, match=expected):
        load_restorer(file)


def test_misfits_are_listed() -> None:
    module = torch.nn.Linear(2, 3)
    with pytest.raises(CheckpointError, match=r"1 missing: bias; 1 unexpected: other; .*weight \[3, 3\]"):
        load_exactly(module, {"weight": torch.zeros(3, 3), "other": torch.zeros(1)}, "layer")


@pytest.mark.parametrize("wrapper", [None, "state_dict", "params_ema"])
def test_pickled_weights_are_unwrapped(tmp_path: Path, wrapper: str | None) -> None:
    weights = {"weight": torch.rand(2)}
    torch.save({wrapper: weights, "epoch": 3} if wrapper else weights, tmp_path / "a.ckpt")
    tensors, _ = read_checkpoint(tmp_path / "a.ckpt")
    assert torch.equal(tensors["weight"], weights["weight"])


class Evil:
    def __reduce__(self) -> tuple:
        return (Path.touch, (Path("evil.txt"),))


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("evil.ckpt").write_bytes(pickle.dumps(Evil()))
    torch.save({"state_dict": Evil()}, "evil.pt")
    for name in ("evil.ckpt", "evil.pt"):
        with pytest.raises(CheckpointError, match="never executed"):
            read_checkpoint(name)
    assert not Path("evil.txt").exists()


def test_damaged_and_missing_files(tmp_path: Path) -> None:
    (tmp_path / "bad.safetensors").write_bytes(b"no tensors at all")
    with pytest.raises(CheckpointError, match=r"bad\.safetensors"):
        read_checkpoint(tmp_path / "bad.safetensors")
    with pytest.raises(FileNotFoundError, match=r"none\.ckpt"):
        read_checkpoint(tmp_path / "none.ckpt")
