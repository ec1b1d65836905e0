"""The text tower of DiffBIR's checkpoints, and the tokens of its prompts, against the reference."""

from functools import cache

import pytest
import torch

from pfstorer_core.checkpoints.parts import TEXT
from pfstorer_core.models import TextTower, TextTowerConfig
from pfstorer_core.models.tokenizer import tokenize
from pfstorer_core.restorers.context import null_context

from . import golden

NAME = "diffbir_text"
PROMPTS: list[str] = golden.metadata(NAME)["prompts"]
START, END, PADDING = 49406, 49407, 0


@cache
def tower() -> TextTower:
    sizes = golden.metadata(NAME)["config"]["text_cfg"]
    config = TextTowerConfig(
        sizes["width"], sizes["heads"], sizes["layers"], sizes["vocab_size"], sizes["context_length"]
    )
    model = TextTower(config)
    model.load_state_dict(TEXT.weights(golden.under(NAME, "weights")))
    return model.eval().requires_grad_(False)


@pytest.mark.parametrize(("output", "skip_last"), [("penultimate", 1), ("last", 0)])
def test_text_tower(output: str, skip_last: int) -> None:
    found = tower()(golden.tensors(NAME)["in.tokens"].long(), skip_last)
    golden.assert_near(found, golden.tensors(NAME)[f"out.{output}"])


@pytest.mark.parametrize("number", range(len(PROMPTS)))
def test_tokens(number: int) -> None:
    expected = golden.tensors(NAME)[f"tokens.{number}"].long()
    assert torch.equal(tokenize([PROMPTS[number]], len(expected))[0], expected)
    ids = expected.tolist()
    end = ids.index(END)
    assert ids[0] == START
    assert set(ids[end + 1 :]) == {PADDING}, "filled up with 0, not with the end"


def test_the_empty_prompt_s_context() -> None:
    """By layers that hold their weights one at a time: what the tower itself makes of start, end and padding.
    The golden tower is too small for real tokens, so that here its table is repeated."""
    weights = TEXT.weights(golden.under(NAME, "weights"))
    key = "model.token_embedding.weight"
    table = weights[key]
    weights = {**weights, key: table.repeat(-(-(START + 2) // len(table)), 1)}
    tokens = torch.full((1, tower().config.context_length), PADDING)
    tokens[0, :2] = torch.tensor([START, END])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(TEXT), "config_from", lambda *_: _wider(len(weights[key])))
        context = null_context(weights)
    golden.assert_near(context, tower()(tokens % len(table)), 1e-5)


def _wider(vocab: int) -> TextTowerConfig:
    """`config_from` takes heads for as wide as CLIP's, which those of the golden tower are not."""
    own = tower().config
    return TextTowerConfig(own.width, own.heads, own.layers, vocab, own.context_length)
