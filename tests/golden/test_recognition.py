"""Recognisers against the reference: what they see of a picture, likeness, and its gradient."""

import pytest
import torch
from torch import Tensor

from pfstorer_core.recognition import cosines, mean_of_units

from . import golden
from .networks import recogniser

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
