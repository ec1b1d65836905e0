"""Pictures of people, a folder for each: which others show the same one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .data import Pictures


class People:
    """Who the pictures of these numbers show: whoever their folder is of.

    Raises:
        ValueError: a folder with one picture alone, for which there is nothing to look at.
    """

    def __init__(self, pictures: Pictures, indices: Sequence[int]) -> None:
        self.pictures = pictures
        self.of: dict[str, list[int]] = {}
        for index in indices:
            self.of.setdefault(pictures.folder(index), []).append(index)
        alone = [folder for folder, known in self.of.items() if len(known) == 1]
        if alone:
            raise ValueError(
                f"{len(alone)} of {len(self.of)} folders hold one picture to train on, such as {alone[0]}: "
                "photos to look at are others of the same person, so give a folder of two or more for each."
            )

    def others(self, index: int, count: int, rng: np.random.Generator) -> list[int]:
        """So many pictures of the person of picture `index`, never that one; some of them more than once
        where there are fewer."""
        known = [each for each in self.of.get(self.pictures.folder(index), []) if each != index]
        return drawn(known, count, rng)


def drawn(known: Sequence[int], count: int, rng: np.random.Generator) -> list[int]:
    """So many of these numbers, each once before any comes again; none of none."""
    rounds = -(-count // len(known)) if known else 0
    places = [int(place) for _ in range(rounds) for place in rng.permutation(len(known))]
    return [known[place] for place in places[:count]]
