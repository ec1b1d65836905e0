"""The text tower and its tokenizer against the reference."""

from dataclasses import replace
from functools import cache, partial

import pytest

from harness import stand_ins
from pfstorer_core.checkpoints.parts import TEXT, text
from pfstorer_core.checkpoints.tensors import load_exactly
from pfstorer_core.models import TextTower, TextTowerConfig
from pfstorer_core.models.tokenizer import tokenize

from . import golden

NAME = "text_encoder"


def config() -> TextTowerConfig:
    return TextTowerConfig(**golden.metadata(NAME)["config"])


@cache
def tower() -> TextTower:
    model = TextTower(config())
    load_exactly(model, TEXT.weights(golden.state_dict(NAME)), "text tower")
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
    part = replace(TEXT, sizes=partial(text.sizes, head_channels=sizes.width // sizes.heads))
    assert part.config_from(golden.state_dict(NAME)) == sizes


def test_keys_and_shapes_are_the_published_ones():
    published = TEXT.of(stand_ins.listed("stablesr_full"))
    assert TEXT.config_from(published) == TextTowerConfig()
    TEXT.check_fit(published, TextTowerConfig())


@pytest.mark.parametrize("text", golden.metadata(NAME)["tokenizer_examples"])
def test_token_ids(text: str):
    expected = golden.metadata(NAME)["tokenizer_examples"][text]
    assert tokenize([text], len(expected)).tolist() == [expected]
