"""Strands: the brightness of combed hair, shared by the hair on the head and behind it."""

from __future__ import annotations

import numpy as np

from .fields import Field, noise
from .person import Person


def strand_sheet(person: Person, rows: int = 96, columns: int = 2048) -> Field:
    """Brightness of combed strands [rows along, columns across], periodic across, about 0."""
    rng = np.random.default_rng((person.seed, 40))
    sheet = np.zeros((rows, columns), np.float32)
    for cell, weight in ((3.0, 0.50), (8.0, 0.65), (24.0, 0.55), (70.0, 0.35)):
        sheet += weight * noise(rng, rows, columns, (rows / 5, cell))
    blend = np.linspace(0, 1, 64, dtype=np.float32)
    sheet[:, :64] = sheet[:, :64] * blend + sheet[:, -64:][:, ::-1] * (1 - blend)
    return sheet
