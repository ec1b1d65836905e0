"""Recognisers against the reference: what they see of a picture, likeness, and its gradient."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pfstorer_core.recognition import cosines, mean_of_units

from . import golden
from .networks import decoder, recogniser, schedule_of

LOSS, GUIDANCE = "refldm_identity_loss", "clr_guidance"


def as_picture(crop: Tensor) -> Tensor:
    """A grey uint8 picture as RGB in [-1, 1]."""
    return (crop.float() / 127.5 - 1).expand(-1, 3, -1, -1)


@pytest.mark.parametrize("case", sorted(golden.group(LOSS, "in.crop")))
def test_what_a_recogniser_sees(case: str) -> None:
    seen = recogniser(LOSS).view.of(as_picture(golden.group(LOSS, "in.crop")[case]))
    expected = golden.group(LOSS, "out.crop")[case]
    golden.assert_near(seen, expected.expand_as(seen), 1e-6)


def test_likeness_of_pairs() -> None:
    given, out = golden.group(LOSS, "in"), golden.group(LOSS, "out.pair")
    pictures = given["pred"].clone().requires_grad_()
    golden.assert_near(recogniser(LOSS).view.of(pictures[:1]), out["crop_resized"])
    embeddings = recogniser(LOSS).embed(pictures)
    targets = recogniser(LOSS).embed(given["image"][: len(pictures)])
    golden.assert_near(embeddings, out["embedding_pred"])
    golden.assert_near(targets, out["embedding_target"])
    loss = 1 - cosines(embeddings, targets)
    golden.assert_near(loss, out["loss"], 1e-6)
    (gradient,) = torch.autograd.grad(loss.sum(), pictures)
    near(gradient, out["grad_pred"])


def pred_x0(eps: Tensor) -> Tensor:
    """Of the training sample, each row at its own time step."""
    given, full = golden.group(LOSS, "in"), schedule_of(LOSS)
    x = full.q_sample(given["x_start"], given["timesteps"], given["noise"])
    golden.assert_near(x, golden.tensors(LOSS)["out.x_noisy"])
    return full.predict_x0(x, given["timesteps"], eps, "eps")


def identity_loss(x0: Tensor, quantize: bool = True) -> Tensor:
    """1 - likeness of each row to its true picture."""
    with torch.no_grad():
        wanted = recogniser(LOSS).embed(golden.tensors(LOSS)["in.image"])
    return 1 - cosines(recogniser(LOSS).embed(decoder(LOSS).decode(x0, quantize=quantize)), wanted)


@pytest.mark.parametrize("quantize", [True, False])
def test_identity_through_a_decoder(quantize: bool) -> None:
    """Gradients pass straight through a codebook."""
    out, kind = golden.group(LOSS, "out"), "" if quantize else "_unquantized"
    x0 = pred_x0(golden.tensors(LOSS)["in.eps"]).requires_grad_()
    golden.assert_near(x0, out["pred_x0"])
    loss = identity_loss(x0, quantize)
    golden.assert_near(loss, out[f"identity_loss{kind}"])
    near(torch.autograd.grad(loss.sum(), x0)[0], out[f"grad_pred_x0{kind}"])
    if quantize:
        codebook = decoder(LOSS).quantize
        assert codebook is not None
        assert torch.equal(codebook(x0)[1], out["indices"])
        golden.assert_near(decoder(LOSS).decode(x0), out["decoded"])


@pytest.mark.parametrize("below", ["", "_t500", "_t100", "_flat"])
def test_identity_in_the_training_of_a_network(below: str) -> None:
    """ReF-LDM's: beside the error of the noise, by a weight of each row."""
    given, out = golden.group(LOSS, "in"), golden.group(LOSS, "out")
    times, eps = given["timesteps"], given["eps"].clone().requires_grad_()
    weight = schedule_of(LOSS).sqrt_alphas_cumprod[times].float()
    golden.assert_near(weight, out["sqrt_alpha_bar"], 1e-6)
    if below:
        last = int(below[2:]) if below[2:].isdigit() else len(schedule_of(LOSS))
        weight = (times < last).float()
    simple = F.mse_loss(eps, given["noise"])
    identity = (weight * identity_loss(pred_x0(eps))).mean()
    total = simple + golden.metadata(LOSS)["identity_scale"] * identity
    expected = golden.group(LOSS, f"out.train{below}")
    if "simple" in expected:
        golden.assert_near(simple, expected["simple"].squeeze(), 1e-6)
    golden.assert_near(identity, expected["identity"].squeeze(), 1e-5)
    golden.assert_near(total, expected["total"].squeeze(), 1e-5)
    near(torch.autograd.grad(total, eps)[0], expected["grad_eps"])


def test_likeness_to_photos() -> None:
    target, out = golden.group(GUIDANCE, "target"), golden.group(GUIDANCE, "out")
    embeddings = recogniser(GUIDANCE).embed(golden.tensors(GUIDANCE)["in.photos"])
    golden.assert_near(embeddings, target["embeddings"])
    person = target["mean_of_units"][0]
    golden.assert_near(mean_of_units(embeddings), person / person.norm(), 1e-6)
    found = recogniser(GUIDANCE).embed(out["decoded"])
    golden.assert_near(found, out["embedding"])
    golden.assert_near(1 - cosines(found, embeddings), out["loss"], 1e-5)


def near(actual: Tensor, expected: Tensor) -> None:
    """Up to 1e-4 of the largest value, however small that is."""
    scale = expected.abs().max()
    golden.assert_near(actual / scale, expected / scale)
