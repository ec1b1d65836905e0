"""Words for drawn people: a base that has met people by name is one in which a person is found by a word.

Stable Diffusion has read the names of thousands of people, which is why one learned word can stand for
another (textual inversion, Gal et al. 2022). A tiny base gets the same from its drawn people: in training
their word is a linear image of their traits: words that are near each other mean people who look alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from ..models import TextTower
from ..prompts import PROMPTS, person_prompts, word_id

if TYPE_CHECKING:
    from ..drawing import Person

POPULATION = 1000
"""People that the spread of each trait is taken from."""

SPOTS = 3
"""So many of a person's moles have a part in the word, the largest ones."""

WORD_SPREAD = 0.3
"""Deviation of the words at first; those of the vocabulary have 0.02."""


class Names(nn.Module):
    """The words of drawn people: `person` plus a linear image of what tells each from the average one."""

    def __init__(self, tower: TextTower, seed: int = 0) -> None:
        super().__init__()
        from ..drawing import draw_person

        rngs = (np.random.default_rng([seed, k]) for k in range(POPULATION))
        people = torch.stack([description(draw_person(rng)) for rng in rngs])
        self.mean: Tensor
        self.deviation: Tensor
        self.register_buffer("mean", people.mean(0), persistent=False)
        self.register_buffer("deviation", people.std(0).clamp_min(1e-3), persistent=False)
        vocabulary = tower.model.token_embedding.weight
        self.average = nn.Parameter(vocabulary[word_id("person")].detach().float().clone(), False)
        self.word = nn.Linear(people.shape[1], vocabulary.shape[1])
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            nn.init.normal_(self.word.weight, std=WORD_SPREAD / people.shape[1] ** 0.5)
        nn.init.zeros_(self.word.bias)
        self.prompts = person_prompts(PROMPTS, tower.config.context_length)

    def contexts(self, tower: TextTower, people: Tensor, rows: Tensor) -> Tensor:
        """Text contexts [B, L, D] of the prompts `rows` [B] of people with `description` [B, T]."""
        words = self.average + self.word((people.float() - self.mean) / self.deviation)
        return self.prompts.to(rows.device).context(tower, words, rows)


def description(person: Person, mirrored: bool = False) -> Tensor:
    """[T]: all traits of a person in numbers, the largest moles and the scar in their places among them.

    Args:
        mirrored: of the person in a mirrored picture.
    """
    from ..evaluation.traits import trait_vector

    if mirrored:
        person = replace(
            person,
            moles=tuple((-x, y, radius) for x, y, radius in person.moles),
            scar=tuple((-x, y) for x, y in person.scar),
            skew=-person.skew,
        )
    kinds = [person.glasses == kind for kind in ("round", "square", "oval")]
    kinds += [person.beard_style == kind for kind in ("full", "goatee", "moustache")]
    moles = sorted(person.moles, key=lambda mole: -mole[2])[:SPOTS]
    places = torch.tensor([(1.0, *mole) for mole in moles] + [(0.0,) * 4] * (SPOTS - len(moles))).flatten()
    scar = torch.tensor([1.0, *person.scar[0], *person.scar[-1]] if person.scar else [0.0] * 5)
    return torch.cat([trait_vector(person), torch.tensor(kinds).float(), places, scar])


def nobody() -> Tensor:
    """The `description` of a picture that shows no drawn person: zeros, which nobody's is."""
    from ..drawing import draw_person

    return torch.zeros_like(description(draw_person(np.random.default_rng(0))))


def named(people: Tensor, wanted: Sequence[bool]) -> Tensor:
    """bool [B]: which rows of descriptions [B, T] are to be called by their word, and show somebody."""
    return torch.tensor(wanted, device=people.device) & people.any(1)
