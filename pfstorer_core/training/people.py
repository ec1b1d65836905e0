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
        return [known[k] for k in drawn(len(known), count, rng)]


def drawn(of: int, count: int, rng: np.random.Generator) -> list[int]:
    """Numbers below `of`, each once before any comes again."""
    rounds = -(-count // of) if of else 0
    return np.concatenate([rng.permutation(of) for _ in range(rounds)] or [np.empty(0, int)])[:count].tolist()
