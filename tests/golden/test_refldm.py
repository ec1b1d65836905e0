"""ReF-LDM's two files at small width, with the published keys, against the reference's pictures."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from pfstorer_core import Restorer, load_restorer
from pfstorer_core.diffusion.ddim import ddim_timesteps
from pfstorer_core.restorers.clr_face.variants import VARIANTS
from pfstorer_core.restorers.files import open_restorer

from . import golden

NAME = "refldm_pipeline"
HEADER, IN, OUT = golden.metadata(NAME), golden.group(NAME, "in"), golden.group(NAME, "out")
STAGE = "first_stage_model."


def checkpoint() -> dict[str, Tensor]:
    """With all that the published file may hold."""
    return golden.pooled(NAME) | dict(golden.group(NAME, "checkpoint"))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """refldm.ckpt without ``state_dict`` and first stage, and vqgan.ckpt with it."""
    folder, tensors = tmp_path_factory.mktemp("refldm"), checkpoint()
    unet = {key: value for key, value in tensors.items() if not key.startswith(STAGE)}
    stage = {key[len(STAGE) :]: value for key, value in tensors.items() if key.startswith(STAGE)}
    torch.save(unet, folder / "refldm.ckpt")
    torch.save({"state_dict": stage}, folder / "vqgan.ckpt")
    return [folder / "refldm.ckpt", folder / "vqgan.ckpt"]


@pytest.fixture(scope="module")
def restorer(files: list[Path]) -> Restorer:
    return load_restorer(*files)


def test_what_the_tensors_do_not_tell(restorer: Restorer) -> None:
    assert restorer.header == VARIANTS["refldm"]
    betas = HEADER["schedule"]
    assert (restorer.header.beta_start, restorer.header.beta_end) == (betas["start"], betas["end"])
    stored = golden.group(NAME, "checkpoint")
    golden.assert_near(restorer.schedule.alphas_cumprod, stored["alphas_cumprod"].double(), 1e-6)


def test_the_averages_are_the_network(restorer: Restorer) -> None:
    tensors, own = checkpoint(), restorer.unet.state_dict()
    for key, value in own.items():
        assert torch.equal(value, tensors[f"model_ema.diffusion_model{key.replace('.', '')}"])
    assert not all(torch.equal(value, tensors[f"model.diffusion_model.{key}"]) for key, value in own.items())


def test_one_file_holds_the_same(files: list[Path], restorer: Restorer, tmp_path: Path) -> None:
    torch.save({"state_dict": checkpoint()}, tmp_path / "refldm.ckpt")
    one = open_restorer(tmp_path / "refldm.ckpt")
    torch.testing.assert_close(one.unet, dict(restorer.unet.state_dict()), rtol=0, atol=0)
    torch.testing.assert_close(one.autoencoder, dict(restorer.autoencoder.state_dict()), rtol=0, atol=0)


@torch.no_grad()
def test_the_picture_s_latent(restorer: Restorer) -> None:
    golden.assert_near(restorer.encode(IN["lq"].float() / 255), OUT["lq_latent"])


def test_the_steps(restorer: Restorer) -> None:
    steps = HEADER["steps"]
    assert ddim_timesteps(steps, HEADER["ddim_schedule"]) == OUT["timesteps"].tolist()
    assert restorer.visited(steps, "ddim") == OUT["timesteps"].tolist()


@torch.no_grad()
def test_the_decoded_picture(restorer: Restorer) -> None:
    latent = OUT["latents"][-1]
    assert restorer.autoencoder.quantize is not None
    assert torch.equal(restorer.autoencoder.quantize(latent)[1], OUT["indices"])
    golden.assert_near(2 * restorer.decode(latent) - 1, OUT["decoded"])
    golden.assert_near(2 * restorer.decode(latent, quantize=False) - 1, OUT["decoded_unquantized"])
    golden.assert_near(restorer.decode(latent).clamp(0, 1), OUT["picture"])
