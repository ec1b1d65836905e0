"""Prompts with S*, the word that training gives a person's name (textual inversion)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..models import TextTower
from ..models.tokenizer import tokenize

PLACEHOLDER = "*"
"""Stands in a prompt where S* is to be."""

MAIN = "a photo of *"
PROMPTS = (
    MAIN,
    "a close-up photo of *",
    "a cropped photo of *",
    "a good photo of *",
    "a bright photo of *",
    "a portrait of *",
)


@dataclass(frozen=True, eq=False)
class PersonPrompts:
    """Prompts that name the person once each.

    Attributes:
        ids: [P, L].
        person, end: positions of S* and of the end-of-text token [P].
    """

    ids: Tensor
    person: Tensor
    end: Tensor

    def context(self, tower: TextTower, token: Tensor, rows: Tensor) -> Tensor:
        """Text contexts [B, L, D] of the prompts `rows` [B], with the vector `token` [D] as S*."""
        embeddings = tower.embed(self.ids[rows])
        here = torch.arange(embeddings.shape[1], device=rows.device) == self.person[rows, None]
        return tower.encode(torch.where(here[..., None], token.to(embeddings.dtype), embeddings))

    def to(self, device: torch.device | str) -> PersonPrompts:
        return PersonPrompts(self.ids.to(device), self.person.to(device), self.end.to(device))


def person_prompts(prompts: Sequence[str], context_length: int = 77) -> PersonPrompts:
    """Tokenize prompts with a `PLACEHOLDER`.

    Raises:
        ValueError: a prompt without the placeholder, with two, or so long that it is cut off.
    """
    ids = tokenize(prompts, context_length)
    sign = word_id(PLACEHOLDER)
    for prompt, row in zip(prompts, ids, strict=True):
        if (row == sign).sum() != 1:
            raise ValueError(
                f"The prompt {prompt!r} has to name the person once: put one {PLACEHOLDER} into it."
            )
    return PersonPrompts(ids, (ids == sign).int().argmax(1), ids.argmax(1))


def word_id(word: str) -> int:
    """The token of a word; raises ValueError where it takes more than one."""
    ids = tokenize([word])[0]
    if (length := int(ids.argmax()) - 1) != 1:
        raise ValueError(f"{word!r} is {length} tokens: choose a word that is one, such as person or face.")
    return int(ids[1])
