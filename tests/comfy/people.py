"""Adapters of the people in Example Pictures, for tests of graphs that tell them apart."""

from collections.abc import Sequence
from functools import cache

import torch

from harness import ROOT
from harness.host import ComfyServer
from harness.stand_in_adapter import stand_in_adapter
from pfstorer_core.imaging.pictures import read_picture
from pfstorer_core.personalization.face import PersonFace, face_of
from pfstorer_core.recognition import load_recognizer

from ..unit.small import small_restorer
from .prompts import add_small_restorer

RESTORER = "small_people.safetensors"
THRESHOLD = 0.3
"""At which all faces of the bad group go to their people: they are far from sharp."""


def add_people(server: ComfyServer, people: Sequence[str]) -> None:
    """Put the small restorer, and an adapter of each of the people, where the server looks for them."""
    add_small_restorer(server, RESTORER)
    folder = server.base / "models" / "identity_adapters"
    folder.mkdir(parents=True, exist_ok=True)
    for number, person in enumerate(people):
        torch.manual_seed(number)
        adapter = stand_in_adapter(small_restorer(), torch.randn(1, 4, 8, 8), gamma=1.0)
        adapter.with_face(face(person)).save(folder / f"small_{person}.safetensors")


@cache
def face(person: str) -> PersonFace | None:
    dlib = load_recognizer(ROOT / "assets" / "face_recognizers" / "dlib_resnet29.safetensors")
    photos = [read_picture(ROOT / "assets" / "examples" / f"{person}_photo_{n}.jpg")[0] for n in (1, 2)]
    return face_of(dlib, photos)
