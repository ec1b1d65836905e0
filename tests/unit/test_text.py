"""Prompts: their tokens, and what the text tower makes of them."""

import sys
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor

from pfstorer_core.checkpoints.errors import CheckpointError
from pfstorer_core.checkpoints.parts import TEXT, text
from pfstorer_core.checkpoints.tensors import load_exactly
from pfstorer_core.models import TextTower, TextTowerConfig
from pfstorer_core.models.ops import Backend
from pfstorer_core.models.tokenizer import tokenize

START, END = 49406, 49407
SIZES = TextTowerConfig(width=32, heads=2, layers=3, vocab=50, context_length=8)


@pytest.fixture(scope="module")
def tower() -> TextTower:
    torch.manual_seed(0)
    model = TextTower(SIZES).eval().requires_grad_(False)
    model.model.positional_embedding.normal_()
    return model


@pytest.fixture
def tokens() -> Tensor:
    return torch.randint(SIZES.vocab, (2, SIZES.context_length), generator=torch.Generator().manual_seed(1))


def words(text: str) -> list[int]:
    """The ids of a short text between start and end."""
    ids = tokenize([text])[0].tolist()
    assert ids[0] == START
    return ids[1 : ids.index(END)]


def test_short_texts_are_padded_with_zeros() -> None:
    tokens = tokenize(["", "face"])
    assert (tokens.dtype, tokens.shape) == (torch.int64, (2, 77))
    assert tokens[0].tolist() == [START, END] + [0] * 75
    assert tokens[1].tolist() == [START, *words("face"), END] + [0] * 74


def test_long_texts_are_cut_and_keep_the_end() -> None:
    tokens = tokenize(["face " * 100])[0]
    assert tokens.tolist() == [START] + words("face") * 75 + [END]
    fitting = tokenize(["face " * 75])[0]
    assert torch.equal(tokens, fitting)


def test_case_and_white_space_do_not_matter() -> None:
    assert words("  A\tPhoto \n of\u00a0a  FACE ") == words("a photo of a face")
    assert words("cafe\u0301") == words("caf\u00e9")


def test_words_digits_and_signs_are_apart() -> None:
    assert words("it's 12:30!?") == [
        id for part in ("it", "'s", "1", "2", ":", "3", "0", "!?") for id in words(part)
    ]


def test_every_character_has_tokens() -> None:
    """Byte pairs know no unknown text; an emoji is at most its four bytes."""
    assert 1 <= len(words("😀")) <= 4
    assert words("\U000e0001"), "rare ones too"


@pytest.mark.parametrize("context_length", [2, 3, 5])
def test_other_context_lengths(context_length: int) -> None:
    tokens = tokenize(["a face in the crowd", "face"], context_length)
    assert tokens.shape == (2, context_length)
    assert tokens[0, -1] == END
    assert tokenize([], context_length).shape == (0, context_length)


def test_wrong_texts_are_named() -> None:
    with pytest.raises(TypeError, match="put it in a list"):
        tokenize("a face")
    with pytest.raises(ValueError, match="context_length must be at least 2"):
        tokenize(["a face"], 1)


def test_without_the_library_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ImportError, match="pip install tokenizers"):
        tokenize(["a face"], 23)  # a length that no other test has, so that no tokenizer is there yet


def test_later_tokens_do_not_change_earlier_outputs(tower: TextTower, tokens: Tensor) -> None:
    changed = tokens.clone()
    changed[:, 5] = (changed[:, 5] + 1) % SIZES.vocab
    before, after = tower(tokens), tower(changed)
    torch.testing.assert_close(before[:, :5], after[:, :5], rtol=0, atol=1e-6)
    assert ((before - after)[:, 5:].abs().amax(-1) > 1e-4).all()


def test_embedding_and_encoding_make_a_call(tower: TextTower, tokens: Tensor) -> None:
    for skip_last in range(SIZES.layers + 1):
        assert torch.equal(tower.encode(tower.embed(tokens), skip_last), tower(tokens, skip_last))
    assert not torch.allclose(tower(tokens, 0), tower(tokens, 1))


def test_an_embedding_can_be_learned(tower: TextTower, tokens: Tensor) -> None:
    learned = torch.zeros(SIZES.width, requires_grad=True)
    embeddings = tower.embed(tokens)
    embeddings[:, 3] = learned
    tower.encode(embeddings).square().sum().backward()
    assert learned.grad is not None
    assert learned.grad.abs().max() > 0


def test_wrong_calls_of_the_tower_are_named(tower: TextTower, tokens: Tensor) -> None:
    with pytest.raises(ValueError, match=r"\[B, 8, 32\], got \[2, 7, 32\]"):
        tower(tokens[:, :-1])
    for skip_last in (-1, SIZES.layers + 1):
        with pytest.raises(ValueError, match="skip_last must be from 0 to 3"):
            tower(tokens, skip_last)


def test_a_tower_can_be_built_without_memory() -> None:
    tower = TextTower(TextTowerConfig(), Backend(device="meta", dtype=torch.float16))
    assert {(value.device.type, value.dtype) for value in tower.state_dict().values()} == {
        ("meta", torch.float16)
    }
    assert tower(torch.zeros(1, 77, dtype=torch.int64, device="meta")).shape == (1, 77, 1024)


def test_sizes_are_told_from_the_tensors(tower: TextTower) -> None:
    weights = tower.state_dict()
    assert replace(TEXT, sizes=partial(text.sizes, head_channels=16)).config_from(weights) == SIZES
    wide = TextTower(replace(SIZES, width=128), Backend(device="meta"))
    assert TEXT.config_from(wide.state_dict()).heads == 2


def test_a_checkpoint_without_tower_is_named() -> None:
    with pytest.raises(
        CheckpointError, match=r"no complete OpenCLIP text tower.*cond_stage_model\.model\.token_embedding"
    ):
        TEXT.config_from({"transformer.text_model.embeddings.token_embedding.weight": torch.zeros(3, 2)})


def test_weights_beside_the_tower_are_dropped(tower: TextTower) -> None:
    weights = tower.state_dict()
    surplus = ["model.text_projection", "model.logit_scale", "model.attn_mask", "model.position_ids"]
    stored = weights | dict.fromkeys(surplus, torch.zeros(1))
    assert TEXT.weights(stored).keys() == weights.keys()
    with pytest.raises(CheckpointError, match=r"1 unexpected: model\.other"):
        load_exactly(TextTower(SIZES), TEXT.weights(stored | {"model.other": torch.zeros(1)}), "text tower")
