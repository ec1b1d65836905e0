"""DiffBIR's cleaner against the reference."""

import pytest
import torch
from torch import Tensor

from pfstorer_core.checkpoints.parts import SWINIR
from pfstorer_core.models import Backend, SwinIR, SwinIRConfig
from pfstorer_core.restorers.diffbir.train_cleaner import OBJECTIVES

from . import golden
from .formula import filled
from .networks import chosen

NAME = "diffbir_swinir"
BUFFERS = ("attn_mask", "relative_position_index")


def stored() -> tuple[SwinIR, dict[str, Tensor]]:
    """The network of the file with its weights, and what the file has of buffers."""
    weights = golden.group(NAME, "weights")
    model = SwinIR(SwinIRConfig(**chosen(golden.metadata(NAME)["config"], SwinIRConfig)))
    buffers = {key: value for key, value in weights.items() if key.endswith(BUFFERS)}
    model.load_state_dict({**{key: value.float() for key, value in weights.items()}, **buffers})
    return model.requires_grad_(False), buffers


def cases() -> list[str]:
    return sorted(golden.group(NAME, "in"))


def test_sizes_are_told_from_the_tensors() -> None:
    model, _ = stored()
    assert SWINIR.config_from(golden.group(NAME, "weights")) == model.config


@pytest.mark.parametrize("case", cases())
def test_swinir(case: str) -> None:
    """Also where the picture is not of the size that masks are stored for."""
    model, _ = stored()
    given = golden.tensors(NAME)
    golden.assert_near(model(given[f"in.{case}"]), given[f"out.{case}"], 1e-5)


def test_training_loss() -> None:
    """The published one of pictures of all kinds: a sum."""
    model, _ = stored()
    given = golden.tensors(NAME)
    loss = OBJECTIVES["sse"](model(given["in.0"]), given["train.target"])
    golden.assert_ratio(loss[None], given["train.loss_sum"], 1e-5)


def test_buffers_are_those_of_the_file() -> None:
    _, buffers = stored()
    own = SwinIR(SwinIRConfig(**chosen(golden.metadata(NAME)["config"], SwinIRConfig))).state_dict()
    assert {key.rpartition(".")[2] for key in buffers} == set(BUFFERS)
    for key, value in buffers.items():
        assert torch.equal(own[key].to(value.dtype), value), key


def test_published_size() -> None:
    """A picture of two windows by two, half as large as those that the masks are stored for."""
    model = filled(SwinIR(SwinIRConfig(), Backend(device="meta")), SWINIR.prefix, 1)
    picture = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    out = model(picture)
    assert out.shape == picture.shape
    assert out.isfinite().all()
