"""A conditional prior learned among VQ latents: where it starts, what it learns from, and its file."""

from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from typer.testing import CliRunner

from pfstorer_core import load_restorer, restore, save_restorer
from pfstorer_core.cli import app
from pfstorer_core.cli.priors import PriorRun, run_prior
from pfstorer_core.cli.runs import Changes, Data
from pfstorer_core.models import Autoencoder, SwinIRConfig, UNet
from pfstorer_core.restorers.clr_face.start import new_prior, open_prior_start
from pfstorer_core.restorers.clr_face.train import PRIORS, PUBLISHED, prior_training
from pfstorer_core.restorers.clr_face.variants import VARIANTS
from pfstorer_core.restorers.diffbir.cleaner import Cleaner
from pfstorer_core.restorers.diffbir.train_cleaner import new_swinir, save_cleaner
from pfstorer_core.restorers.files import open_restorer
from pfstorer_core.restorers.registry import note_of
from pfstorer_core.restorers.stablesr.train import DenoisingLoss
from pfstorer_core.training.data import collate, generators
from pfstorer_core.training.degradation import random_degradation
from pfstorer_core.training.loop import fit

from .small import PLAIN, VQ, small_prior, small_restorer, write
from .test_base_loss import images
from .test_cleaner_training import pictures  # noqa: F401 - a fixture

SHORT = Changes(steps=2, lr=1e-2, batch=2, save_every=2, validate_every=2, bf16=False)
FIRST = "input_blocks.0.0.weight"


@pytest.fixture
def prior(tmp_path: Path) -> Path:
    save_restorer(small_prior(), tmp_path / "prior.safetensors", torch.float32)
    return tmp_path / "prior.safetensors"


@pytest.fixture
def drawing(tmp_path: Path) -> Path:
    """As FFHQ's: of the published sizes of channels, without a condition."""
    unet = UNet(replace(PLAIN, in_channels=3, out_channels=3))
    stage = Autoencoder(replace(VQ, z_channels=3, embed_dim=3))
    header = replace(VARIANTS["ffhq256"], image_size=32)
    made = replace(small_prior(), unet=unet, autoencoder=stage, header=header)
    save_restorer(made, tmp_path / "model.safetensors", torch.float32)
    return tmp_path / "model.safetensors"


def test_a_network_that_only_draws_gets_channels_that_it_takes_no_notice_of(drawing: Path) -> None:
    before = load_restorer(drawing)
    start, cleaner = open_prior_start(drawing)
    assert cleaner is None
    header, unet = start.restorer.header, start.restorer.unet
    assert (header.condition, header.start, header.start_at) == ("concat", "cleaned", 0.5)
    assert "FFHQ" in note_of(header)
    assert "cannot restore" not in note_of(header)
    x, lq, t = torch.randn(2, 3, 8, 8), torch.randn(2, 3, 8, 8), torch.tensor([500, 20])
    with torch.no_grad():
        assert torch.equal(unet(x, t, condition=lq), before.unet(x, t))
    assert all(parameter.requires_grad for parameter in unet.parameters())


def test_what_cannot_become_a_prior_is_said(tmp_path: Path) -> None:
    save_restorer(small_restorer(), tmp_path / "stablesr.safetensors")
    with pytest.raises(ValueError, match=r"stablesr\.safetensors is a stablesr restorer, and a prior begins"):
        open_prior_start(tmp_path / "stablesr.safetensors")


def test_the_loss_is_that_of_noise_beside_the_bad_picture_s_latent(prior: Path) -> None:
    """Of what no cleaner touched; dropped conditions are zeros, by the row."""
    start, _ = open_prior_start(prior)
    restorer, seen = start.restorer, list[tuple[Tensor, ...]]()
    batch = collate(images(4))

    def note(_: object, args: tuple[Tensor, ...]) -> None:
        seen.append((args[0], args[1], args[3]))

    for null_lq in (0.0, 1.0):
        settings = replace(prior_training(PLAIN, null_lq), degradation=random_degradation("light", 32))
        seen.clear()
        handle = restorer.unet.register_forward_pre_hook(note)
        objective = DenoisingLoss(start, settings)
        loss = objective(batch)
        handle.remove()
        loss.backward()
        gradient = restorer.unet.get_parameter(FIRST).grad
        assert gradient is not None
        assert bool(gradient[:, 4:].any()) == (null_lq == 0)
        restorer.unet.zero_grad()
        ((x, t, lq),) = seen
        if null_lq:
            assert lq is None
            continue
        hq, bad = objective._moments(batch, _generators(batch))
        z, condition = (objective._mode(each) for each in (hq, bad))
        torch.testing.assert_close(lq, condition)
        eps = (x - restorer.schedule.q_sample(z, t, torch.zeros_like(z))) / (
            restorer.schedule.sqrt_one_minus_alphas_cumprod[t].float()[:, None, None, None]
        )
        with torch.no_grad():
            expected = F.mse_loss(restorer.unet(x, t, condition=condition), eps)
        torch.testing.assert_close(loss, expected, rtol=1e-3, atol=1e-3)


def _generators(batch: dict) -> list:
    """Past what is drawn before the degradations."""
    rngs = generators(batch)
    for rng in rngs:
        rng.integers(1000)
        rng.random()
        rng.random()
    return rngs


def test_a_tenth_of_the_conditions_is_dropped() -> None:
    settings = prior_training(PRIORS["ref_ldm"])
    assert settings.no_lq == 0.1
    assert asdict(settings.loop) == asdict(PUBLISHED)
    assert prior_training(PRIORS["ref_ldm"], 0.3).no_lq == 0.3


def test_from_nothing_to_a_restorer(
    tmp_path: Path,
    pictures: Path,  # noqa: F811 - the fixture
) -> None:
    torch.manual_seed(0)
    stage = write(tmp_path / "vqgan.ckpt", {**Autoencoder(VQ).state_dict(), "loss.a": torch.ones(1)})
    save_cleaner(new_swinir(SwinIRConfig(12, (2,), (2,), 4, 2, 8)), tmp_path / "irn.safetensors", {})
    made = PriorRun(
        first_stage=stage, cleaner=tmp_path / "irn.safetensors", data=Data([pictures], 32), loop=SHORT
    )
    run_prior(tmp_path / "run", tmp_path / "out.safetensors", made)
    restorer = load_restorer(tmp_path / "out.safetensors")
    header = restorer.header
    assert (header.architecture, header.condition, header.start, header.start_at) == (
        "clr_face", "concat", "cleaned", 0.5,
    )  # fmt: skip
    assert (header.image_size, header.norm_groups, len(header.preview)) == (32, 8, 5)
    assert header.training["stages"][-1]["null_lq"] == 0.1
    assert isinstance(restorer.cleaner, Cleaner)
    assert torch.isfinite(restore(restorer, torch.rand(1, 3, 16, 16), steps=2, cfg=1.5)).all()
    started = replace(made, first_stage=None, source=tmp_path / "out.safetensors", cleaner=None)
    noise = replace(started, sampling_start="noise", aligned="")
    run_prior(tmp_path / "more", tmp_path / "more.safetensors", noise)
    more = open_restorer(tmp_path / "more.safetensors")
    assert (more.header.start, more.header.start_at, more.header.aligned) == ("noise", 1.0, "")
    assert more.cleaner, "the cleaner that it came with stays"


def test_the_command_names_what_is_wrong(tmp_path: Path, pictures: Path) -> None:  # noqa: F811
    given = ["train-prior", str(tmp_path), str(tmp_path / "o.safetensors"), "--data", str(pictures)]
    result = CliRunner().invoke(app, [*given, "--network", "huge"])
    assert isinstance(result.exception, ValueError)
    assert "choose one of tiny, ref_ldm, ffhq256" in str(result.exception)
    with pytest.raises(FileNotFoundError, match="run train-autoencoder on this folder first"):
        CliRunner().invoke(app, given, catch_exceptions=False)


class Crops:
    """Two pictures that the latents' scale is told by."""

    size = 512

    def __len__(self) -> int:
        return 2

    def __getitem__(self, k: int) -> dict:
        return images(2, 64)[k]


class Encoded:
    """`Samples` of latents of 512 pixels."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, k: int) -> dict:
        generator = torch.Generator().manual_seed(k)
        hq, lq = torch.randn(2, 16, 64, 64, generator=generator)
        return {"hq": hq, "lq": lq, "seed": torch.tensor(k), "caption": "", "broken": []}


@pytest.mark.full
def test_a_step_at_the_published_size(tmp_path: Path) -> None:
    """ReF-LDM's U-Net, 117.8 M parameters, on latents of 512 pixels, in fp32: the process peaks at 3.2 GB."""
    stage = Autoencoder(replace(VQ, ch_mult=(1, 1, 2, 2), z_channels=8, embed_dim=8))
    start = new_prior(stage, Crops(), PRIORS["ref_ldm"])  # type: ignore[arg-type]
    unet = start.restorer.unet
    assert sum(parameter.numel() for parameter in unet.parameters()) == 117_759_368
    before = {name: parameter.detach().clone() for name, parameter in unet.named_parameters()}
    settings = prior_training(unet.config)
    loop = replace(settings.loop, steps=1, batch=1, bf16=False, validate_every=0)
    fit("base-prior", DenoisingLoss(start, settings), Encoded(), loop, tmp_path, record={})
    assert not torch.equal(unet.get_parameter("out.2.weight"), before["out.2.weight"])
    assert all(torch.isfinite(parameter).all() for parameter in unet.parameters())
