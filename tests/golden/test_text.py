"""The text tower and its tokenizer against the reference."""

from functools import cache

import pytest
import torch

from harness import stand_ins
from pfstorer_core.checkpoints.layouts import PREFIXES
from pfstorer_core.checkpoints.sizes import text_config, text_weights
from pfstorer_core.checkpoints.tensors import check_fit, load_exactly
from pfstorer_core.models import TextTower, TextTowerConfig
from pfstorer_core.models.ops import Backend
from pfstorer_core.models.tokenizer import tokenize

from . import golden

NAME = "text_encoder"


def config() -> TextTowerConfig:
    return TextTowerConfig(**golden.metadata(NAME)["config"])


@cache
def tower() -> TextTower:
    model = TextTower(config())
    load_exactly(model, text_weights(golden.state_dict(NAME)), "text tower")
    return model.eval().requires_grad_(False)


@pytest.mark.parametrize(("output", "skip_last"), [("penultimate", 1), ("last", 0)])
def test_text_tower(output: str, skip_last: int):
    given = golden.tensors(NAME)
    golden.assert_near(tower()(given["tokens"], skip_last), given[output])


def test_penultimate_is_the_default():
    given = golden.tensors(NAME)
    golden.assert_near(tower()(given["tokens"]), given["penultimate"])


def test_outputs_are_the_same_while_learning():
    """With gradients torch takes another way through attention."""
    given = golden.tensors(NAME)
    embeddings = tower().embed(given["tokens"]).requires_grad_()
    golden.assert_near(tower().encode(embeddings), given["penultimate"])


def test_sizes_are_told_from_the_tensors():
    sizes = config()
    assert text_config(golden.state_dict(NAME), sizes.width // sizes.heads) == sizes


def test_keys_and_shapes_are_the_published_ones():
    prefix = PREFIXES["text"]
    published = {
        key[len(prefix) :]: torch.empty(shape, device="meta")
        for key, shape in stand_ins.manifest("stablesr_full").items()
        if key.startswith(prefix)
    }
    assert text_config(published) == TextTowerConfig()
    model = TextTower(TextTowerConfig(), Backend(device="meta"))
    check_fit(model.state_dict(), text_weights(published), "text tower")


@pytest.mark.parametrize("text", golden.metadata(NAME)["tokenizer_examples"])
def test_token_ids(text: str):
    expected = golden.metadata(NAME)["tokenizer_examples"][text]
    assert tokenize([text], len(expected)).tolist() == [expected]
