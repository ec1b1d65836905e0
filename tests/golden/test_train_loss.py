"""One training step against the reference: the loss, and the gradient of every trainable tensor."""

import copy
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pfstorer_core.models import Conditioning
from pfstorer_core.restorers.stablesr.train import denoising_loss

from . import golden
from .networks import load_lq_encoder, load_unet, restorer_of

NAME = "stablesr_train_loss"
KINDS = golden.cases(NAME, "loss")


@cache
def step(kind: str) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss, and the gradients by full key name."""
    given = golden.tensors(NAME)
    networks = {
        "model.diffusion_model.": load_unet(golden.folder()),
        "structcond_stage_model.": load_lq_encoder(golden.folder()),
    }
    trainable = set(golden.metadata(NAME)["grad_norm_keys"])
    parameters = {
        prefix + name: parameter
        for prefix, network in networks.items()
        for name, parameter in network.named_parameters()
        if prefix + name in trainable
    }
    assert set(parameters) == trainable
    unet, encoder = networks.values()
    schedule = golden.base_schedule()
    x0, noise, t = given["z_gt"], given["noise"], given["t"]
    try:
        for parameter in parameters.values():
            parameter.requires_grad_(True)
        features = Conditioning(encoder(given["z_lq"], t))
        output = unet(schedule.q_sample(x0, t, noise), t, given["context"], features)
        loss = F.mse_loss(output, schedule.target(x0, t, noise, kind))  # type: ignore[arg-type]
        gradients = torch.autograd.grad(loss, list(parameters.values()))
    finally:
        for parameter in parameters.values():
            parameter.requires_grad_(False)
    return loss.detach(), dict(zip(parameters, gradients, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_loss(kind: str):
    golden.assert_near(step(kind)[0], golden.tensors(NAME)[f"{kind}.loss"].squeeze())


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_norms(kind: str):
    keys = golden.metadata(NAME)["grad_norm_keys"]
    norms = torch.stack([step(kind)[1][key].norm() for key in keys])
    expected = golden.tensors(NAME)[f"{kind}.grad_norms"]
    # Relative to each norm; a few are zero but for rounding (biases that a GroupNorm removes).
    torch.testing.assert_close(norms, expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients(kind: str):
    stored = golden.group(NAME, f"{kind}.grad")
    assert stored
    for key, expected in stored.items():
        ours = step(kind)[1][key]
        assert (ours - expected).norm() <= 1e-3 * expected.norm() + 1e-6, key


@pytest.mark.parametrize("kind", KINDS)
def test_loss_of_the_training(kind: str):
    """That of `train-base`, with the LQ encoder inside of the U-Net."""
    given = golden.tensors(NAME)
    unet = copy.deepcopy(load_unet(golden.folder()))
    unet.lq_encoder = load_lq_encoder(golden.folder())
    restorer = restorer_of(unet, kind)  # type: ignore[arg-type]
    loss = denoising_loss(
        restorer,
        x0=given["z_gt"],
        lq_latent=given["z_lq"],
        noise=given["noise"],
        t=given["t"],
        context=given["context"],
        null_lq=torch.zeros(len(given["t"]), dtype=torch.bool),
    )
    golden.assert_near(loss, given[f"{kind}.loss"].squeeze())
