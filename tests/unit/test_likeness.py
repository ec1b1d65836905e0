"""How like a person pictures are, beside own photos and strangers."""

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from harness import ROOT
from pfstorer_core.imaging.resizing import resize
from pfstorer_core.recognition import likeness
from pfstorer_core.recognition.likeness import (
    STRANGERS,
    Likeness,
    likeness_sheet,
    measured,
    shown_alike,
    strangers,
)
from pfstorer_core.recognition.shown import Shown, shown_in


def embed(pictures: Tensor, places: Tensor | None = None) -> Tensor:
    """Tells people apart by their mean colour."""
    return pictures.mean((2, 3))


def coloured(*colour: float) -> Shown:
    return Shown(torch.tensor(colour)[None, :, None, None].expand(1, 3, 40, 40) / 2 + 0.5, None)


@pytest.fixture
def few_strangers(monkeypatch: pytest.MonkeyPatch) -> None:
    faces = torch.cat([coloured(*colour).picture for colour in ((0, 1, 0), (0, 0, 1), (1, 0, 0))])
    monkeypatch.setattr(likeness, "strangers", lambda: faces)


def cosine(first: tuple[float, ...], second: tuple[float, ...]) -> float:
    return float(F.cosine_similarity(torch.tensor(first), torch.tensor(second), dim=0))


@pytest.mark.usefixtures("few_strangers")
def test_numbers() -> None:
    """Photos count alike however long their embeddings are; each is held against the others alone."""
    photos = [coloured(0.8, 0, 0), coloured(0.5, 0.5, 0)]
    half = 0.5**0.5
    person = (1 + half, half, 0.0)
    found = measured(embed, {"bad": [coloured(0, 0, 0.5)], "result": [coloured(0.3, 0, 0)] * 2}, photos)
    assert found.pictures["bad"] == pytest.approx(0, abs=1e-6)
    assert found.pictures["result"] == pytest.approx(cosine((1.0, 0.0, 0.0), person))
    assert found.own == pytest.approx([half, half])
    # The third is as like as the own photos, and left out.
    assert found.strangers == pytest.approx([cosine((0.0, 1.0, 0.0), person), 0], abs=1e-6)


@pytest.mark.usefixtures("few_strangers")
def test_one_photo_has_nobody_to_be_held_against() -> None:
    found = measured(embed, {"result": [coloured(0.3, 0, 0)]}, [coloured(0.8, 0, 0)])
    assert found.own == []
    assert len(found.strangers) == 3
    assert "one alone" in found.lines("x")[2]
    with pytest.raises(ValueError, match="Without photos"):
        measured(embed, {}, [])


def test_words() -> None:
    found = Likeness({"bad": 0.5, "result": 0.8}, [0.9, 1.0, 0.8], [0.4, 0.2])
    assert found.lines("arcface") == [
        "Likeness by arcface, a cosine to the mean of 3 photos:",
        "  bad: 0.500 (33 % of the way from strangers to own photos)",
        "  result: 0.800 (83 % of the way from strangers to own photos)",
        "  own photos among themselves: 0.900 (0.800 … 1.000)",
        "  strangers: 0.300 (0.200 … 0.400)",
    ]


def test_the_face_is_looked_for_in_the_best_picture_alone() -> None:
    face = strangers()[4:5]
    best = F.pad(resize(face, (200, 200)), (150, 20, 30, 60), value=0.5)
    bad = resize(best, (best.shape[-2] // 8, best.shape[-1] // 8))
    found = shown_in(best)
    assert found.landmarks is not None
    assert shown_in(face).landmarks is not None
    first, last = shown_alike([bad, best])
    assert first.picture is bad
    assert last.landmarks is not None
    assert first.landmarks is not None
    torch.testing.assert_close(first.landmarks * 8, last.landmarks, rtol=0, atol=3)
    # Another crop shows it elsewhere.
    other, _ = shown_alike([face, best])
    alone = shown_in(face).landmarks
    assert other.landmarks is not None
    assert alone is not None
    assert torch.equal(other.landmarks, alone)


def test_strangers_are_faces_and_small() -> None:
    assert STRANGERS.stat().st_size < 80_000
    assert strangers().shape == (9, 3, 128, 128)
    assert STRANGERS.with_name("strangers.LICENSE.txt").is_file()
    assert all(shown_in(face[None]).landmarks is not None for face in strangers())
    assert Image.open(STRANGERS).size == (384, 384)
    assert "recognition/data/*.LICENSE.txt" in (ROOT / "pyproject.toml").read_text("utf-8")


def test_a_sheet_shows_all_of_them() -> None:
    photos = [coloured(1, 0, 0), coloured(0.9, 0, 0)]
    pictures = {"bad": [coloured(0, 1, 0)], "result": [coloured(0, 0, 1)]}
    found = measured(embed, pictures, photos)
    sheet = likeness_sheet(pictures, photos, [found, found])
    assert sheet.shape[0:2] == (1, 3)
    for colour in ((1.0, 0.5, 0.5), (0.5, 1.0, 0.5), (0.5, 0.5, 1.0)):
        near = (sheet[0] - torch.tensor(colour)[:, None, None]).abs().amax(0) < 0.01
        assert near.sum() == 128**2
