"""What VQ autoencoders are trained by, term by term, with gradients, against taming-transformers."""

from copy import deepcopy

import pytest
import torch
from torch import Tensor

from pfstorer_core.models.discriminator import Discriminator, DiscriminatorConfig
from pfstorer_core.restorers.first_stage.adversarial import (
    Adversary,
    Critic,
    adaptive_weight,
    hinge_loss,
    vanilla_loss,
)
from pfstorer_core.restorers.first_stage.objective import AutoencoderTraining, ReconstructionLoss

from . import golden
from .networks import chosen
from .test_vq import FILES, autoencoder

PUBLISHED = 0.75
"""Weight of the adversarial term where the file does not say."""


def config(name: str) -> DiscriminatorConfig:
    return DiscriminatorConfig(**chosen(golden.metadata(name)["disc"], DiscriminatorConfig))


def objective(name: str, step: int, training: bool = False) -> ReconstructionLoss:
    """Of the file's networks, before that step; `training`: whether the discriminator takes the batch's
    statistics."""
    header = golden.metadata(name)
    start, weight = header.get("disc_start", 0), header.get("disc_weight", PUBLISHED)
    adversary = Adversary(start, weight, discriminator=config(name))
    model = deepcopy(autoencoder(name)).requires_grad_(True)
    codebook = header.get("codebook_weight", 1.0)
    settings = AutoencoderTraining(
        model.config, multiscale=False, codebook_weight=codebook, adversary=adversary
    )
    made = ReconstructionLoss(model, settings)
    critic(made).discriminator.load_state_dict(golden.under(name, "disc"))
    critic(made).train(training)
    made.begin(step)
    return made


def critic(made: ReconstructionLoss) -> Critic:
    rival = made.rival()
    assert isinstance(rival, Critic)
    return rival


@pytest.mark.parametrize("name", FILES)
def test_discriminator(name: str) -> None:
    given, out = golden.tensors(name)["in.x"], golden.group(name, "out")
    network = Discriminator(config(name)).requires_grad_(False)
    network.load_state_dict(golden.under(name, "disc"))
    if "disc_real_batchstats" in out:
        golden.assert_near(network(given), out["disc_real_batchstats"])
        network.load_state_dict(golden.under(name, "disc"))  # which has followed the batch
    network.eval()
    golden.assert_near(network(given), out["disc_real"])
    golden.assert_near(network(out["reconstruction"]), out["disc_fake"])


def test_losses_of_the_discriminator() -> None:
    out = golden.group("vqgan_f4", "out")
    real, fake = out["disc_real"], out["disc_fake"]
    golden.assert_near(hinge_loss(real, fake), out["hinge_d_loss"].squeeze(), 1e-6)
    golden.assert_near(vanilla_loss(real, fake), out["vanilla_d_loss"].squeeze(), 1e-6)
    golden.assert_near(-fake.mean(), out["g_loss"].squeeze(), 1e-6)


def assert_gradients(made: ReconstructionLoss, total: Tensor, expected: golden.Group) -> None:
    """Those that the file has, whole or as sum, sum of magnitudes and sum of squares."""
    total.backward()
    parameters = dict(made.model.named_parameters())
    for key in expected:
        kind, _, parameter = key.partition(".")
        if kind not in ("grad", "gradstat"):
            continue
        gradient = parameters[parameter].grad
        assert gradient is not None
        if kind == "grad":
            scale = expected[key].abs().max().item()
            torch.testing.assert_close(gradient, expected[key], rtol=0, atol=1e-4 * scale)
        else:
            g = gradient.double()
            found = torch.stack([g.sum(), g.abs().sum(), g.square().sum()])
            torch.testing.assert_close(found[1:], expected[key][1:], rtol=1e-4, atol=0)
            assert (found[0] - expected[key][0]).abs() < 1e-4 * found[1]


def test_generator_f4() -> None:
    train, out = golden.group("vqgan_f4", "train"), golden.group("vqgan_f4", "out")
    made = objective("vqgan_f4", 0, training=True)
    with torch.no_grad():  # these numbers were made after a look at the batch, which the statistics followed
        critic(made).discriminator(golden.tensors("vqgan_f4")["in.x"])
    critic(made).eval()
    terms = made.terms(golden.tensors("vqgan_f4")["in.x"])
    assert terms.weight is not None
    golden.assert_near(terms.nll, train["l1"].squeeze(), 1e-5)
    golden.assert_near(terms.regular, out["codebook_loss"].squeeze(), 1e-5)
    golden.assert_near(terms.weight, train["adaptive_weight_x0p75"].squeeze(), 1e-4)
    golden.assert_near(terms.total, train["total_without_lpips"].squeeze(), 1e-5)
    assert_gradients(made, terms.total, train)
    assert all(p.grad is None for p in critic(made).parameters())


@pytest.mark.parametrize("statistics", ["eval", "batchstats"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_both_steps_of_f8(statistics: str, when: str) -> None:
    """The step before the adversarial term starts, and the first one with it."""
    name = "vqgan_f8"
    expected = golden.group(name, f"train.{statistics}.{when}")
    start, image = golden.metadata(name)["disc_start"], golden.tensors(name)["in.x"]
    made = objective(name, start - (when == "before"), statistics == "batchstats")
    terms = made.terms(image)
    golden.assert_near(terms.nll, expected["nll_loss"].squeeze(), 1e-5)
    golden.assert_near(terms.nll, expected["rec_loss"].squeeze(), 1e-5)
    golden.assert_near(terms.regular, expected["quant_loss"].squeeze(), 1e-5)
    golden.assert_near(terms.total, expected["total"].squeeze(), 1e-5)
    batch = {"image": (image + 1) * 127.5}
    real = critic(made).discriminator(image).mean()
    golden.assert_near(real, expected["logits_real"].squeeze(), 1e-5)
    if when == "before":
        assert terms.g is None
        assert made.step < critic(made).starts
        assert not expected["d_loss"].any()
        output = golden.tensors(name)["out.reconstruction"]
    else:
        assert terms.g is not None
        assert terms.weight is not None
        assert made.step >= critic(made).starts
        golden.assert_near(terms.g, expected["g_loss"].squeeze(), 1e-5)
        golden.assert_near(terms.weight, expected["d_weight"].squeeze(), 1e-4)
        golden.assert_near(critic(made)(batch), expected["d_loss"].squeeze(), 1e-5)
        output = critic(made).reconstruction
        golden.assert_near(output, golden.tensors(name)["out.reconstruction"])
    golden.assert_near(critic(made).discriminator(output).mean(), expected["logits_fake"].squeeze(), 1e-5)
    assert_gradients(made, terms.total, expected)


@pytest.mark.parametrize("statistics", ["eval", "batchstats"])
def test_the_weight_is_known_before_it_is_used(statistics: str) -> None:
    """From its first step on, it is what it would have been: it has no state."""
    expected = golden.group("vqgan_f8", f"train.{statistics}.before")
    start = golden.metadata("vqgan_f8")["disc_start"]
    made = objective("vqgan_f8", start - 1, statistics == "batchstats")
    image = golden.tensors("vqgan_f8")["in.x"]
    output = made.model.decode(made.model.encode(image))
    nll, g = made.distance(output, image), critic(made).judge(output)
    weight = made.settings.adversary.weight * adaptive_weight(nll, g, made.model.decoder.conv_out.weight)  # type: ignore
    golden.assert_near(g, expected["g_loss"].squeeze(), 1e-5)
    golden.assert_near(weight, expected["d_weight"].squeeze(), 1e-4)
