"""Alignment, embedders, verification, traits and marks."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from lab.evaluation.align import CROP, TEMPLATE, align, without_colour
from lab.evaluation.cases import CaseSettings, draw_case
from lab.evaluation.identity import ArcFace, equal_error_rate, load_embedder
from lab.evaluation.landmarks import means
from lab.evaluation.traits import GROUPS, recovery, spotless, spots_recovery, trait_names, trait_vector
from lab.people import draw_person


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_alignment_brings_landmarks_onto_the_template(scale: float) -> None:
    """A smooth spot at each landmark comes to lie on the template, from pictures of any size."""
    five = scale * (
        torch.tensor(TEMPLATE) @ torch.tensor([[0.9, 0.3], [-0.3, 0.9]]) + torch.tensor([25.0, 10.0])
    )
    side = int(scale * 160)
    y, x = torch.meshgrid(torch.arange(side) + 0.5, torch.arange(side) + 0.5, indexing="ij")
    for k, (px, py) in enumerate(five.tolist()):
        spot = torch.exp(-((x - px) ** 2 + (y - py) ** 2) / (2 * (2 * scale) ** 2))
        crop = align(spot.expand(1, 3, -1, -1), five[None])[0, 0]
        row, column = divmod(int(crop.argmax()), CROP)
        assert abs(column - TEMPLATE[k][0]) < 1.2 / min(1, scale)
        assert abs(row - TEMPLATE[k][1]) < 1.2 / min(1, scale)


def test_copies_without_colour_ignore_colour_and_exposure() -> None:
    luma = torch.rand(2, 1, 32, 32)
    gray = luma.expand(-1, 3, -1, -1)
    red = gray.clone()
    red[:, 0] = 0.8 * luma[:, 0] + 0.2  # brighter, flatter and of a hue
    assert (red - gray).abs().max() > 0.1
    torch.testing.assert_close(without_colour(red), without_colour(gray), atol=1e-4, rtol=0)
    assert (without_colour(gray)[0] - without_colour(gray)[1]).abs().mean() > 0.1


def test_equal_error_rate_of_known_scores() -> None:
    apart = torch.eye(3).repeat_interleave(2, 0)
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    assert equal_error_rate(apart, labels) == 0
    # To accept the farthest same pair, 0.8 apart, two of the twelve different pairs have to pass.
    angles = torch.tensor([0.0, 0.1, 1.0, 1.1, 2.0, 1.2])
    close = torch.stack([angles.cos(), angles.sin()], 1)
    assert equal_error_rate(close, labels) == pytest.approx(2 / 12)
    shuffled = torch.randn(60, 16, generator=torch.Generator().manual_seed(0))
    chance = equal_error_rate(torch.nn.functional.normalize(shuffled, dim=1), torch.arange(60) // 2)
    assert 0.3 < chance < 0.7
    with pytest.raises(ValueError, match="two people"):
        equal_error_rate(apart, torch.zeros(6))


def test_arcface_wants_the_own_centre_nearer_than_the_others_by_its_margin() -> None:
    loss = ArcFace(4, 8)
    labels = torch.arange(4)
    with torch.no_grad():
        loss.centres.copy_(torch.eye(8)[:4])
    between = torch.eye(8)[:4] + 0.9 * torch.eye(8)[:4].roll(1, 0)  # a little nearer to their own
    right, wrong = loss(between, labels), loss(between, labels.roll(1))
    without = ArcFace(4, 8, margin=0.0)
    without.load_state_dict(loss.state_dict())
    assert right < wrong
    assert without(between, labels) < right


def test_heat_maps_give_the_places_of_their_peaks() -> None:
    heat = torch.full((1, 2, 8, 16), -50.0)
    heat[0, 0, 2, 5] = heat[0, 1, 7, 0] = 50.0
    torch.testing.assert_close(means(heat), torch.tensor([[[5.5 / 16, 2.5 / 8], [0.5 / 16, 7.5 / 8]]]))


def _onnx_embedder(path: Path, weight: np.ndarray, batch: int | str = "B") -> None:
    """Flatten and project, as an ArcFace file takes and gives: the smallest network of that interface."""
    x = helper.make_tensor_value_info("data", TensorProto.FLOAT, [batch, 3, CROP, CROP])
    y = helper.make_tensor_value_info("fc1", TensorProto.FLOAT, [batch, weight.shape[1]])
    nodes = [
        helper.make_node("Flatten", ["data"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["fc1"]),
    ]
    graph = helper.make_graph(nodes, "embedder", [x], [y], [numpy_helper.from_array(weight, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, str(path))


def test_users_onnx_embedder_gets_its_range_and_gives_unit_vectors(tmp_path: Path) -> None:
    weight = np.random.default_rng(0).standard_normal((3 * CROP * CROP, 4)).astype(np.float32)
    _onnx_embedder(tmp_path / "arcface.onnx", weight)
    embedder = load_embedder(tmp_path / "arcface.onnx")
    crops = torch.rand(3, 3, CROP, CROP)
    expected = torch.nn.functional.normalize((2 * crops - 1).flatten(1) @ torch.from_numpy(weight), dim=1)
    torch.testing.assert_close(embedder(crops), expected, atol=1e-4, rtol=0)
    assert embedder.zoom == 1


def test_users_torchscript_embedder(tmp_path: Path) -> None:
    class Means(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean((2, 3))

    torch.jit.script(Means()).save(str(tmp_path / "arcface.pt"))
    crops = torch.rand(2, 3, CROP, CROP)
    expected = torch.nn.functional.normalize((2 * crops - 1).mean((2, 3)), dim=1)
    torch.testing.assert_close(load_embedder(tmp_path / "arcface.pt")(crops), expected)


def test_what_is_no_embedder_is_said(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.onnx"):
        load_embedder(tmp_path / "none.onnx")
    for name in ("text.onnx", "text.pt"):
        (tmp_path / name).write_text("no network")
        with pytest.raises(ValueError, match=name):
            load_embedder(tmp_path / name)
    _onnx_embedder(tmp_path / "one.onnx", np.zeros((3 * CROP * CROP, 4), np.float32), batch=1)
    with pytest.raises(ValueError, match="free batch size"):
        load_embedder(tmp_path / "one.onnx")


def test_traits_are_the_persons() -> None:
    person = draw_person(np.random.default_rng(0))
    vector = trait_vector(person)
    names = trait_names()
    assert vector.shape == (len(names),)
    assert vector.isfinite().all()
    wider = trait_vector(replace(person, nose_width=person.nose_width + 0.5))
    changed = [name for name, a, b in zip(names, vector, wider, strict=True) if a != b]
    assert changed == [("geometry", "nose_width")]
    assert {("colour", "skin.r"), ("marks", "glasses")} < set(names)
    assert {group for group, _ in names} == set(GROUPS)


def test_recovery_is_100_for_all_and_0_for_an_average_person() -> None:
    true, counts = torch.tensor([1.0, -1.0, 7.0]), torch.tensor([True, True, False])
    found = torch.stack([true, torch.zeros(3), -true])
    assert recovery(found, true, counts).tolist() == pytest.approx([100, 0, -300])
    assert recovery(found, true, torch.zeros(3, dtype=torch.bool)).isnan().all()


def test_spots_count_where_they_are_and_not_by_colour() -> None:
    plain = 0.5 + 0.05 * torch.rand(1, 3, 64, 64)
    spotted = plain.clone()
    spotted[..., 20:23, 30:33] -= 0.3
    half, elsewhere = (plain + spotted) / 2, plain.clone()
    elsewhere[..., 40:43, 50:53] -= 0.3
    pictures = {"all": spotted, "none": plain, "half": half, "tinted": spotted + 0.1, "elsewhere": elsewhere}
    found = {name: spots_recovery(image, spotted, plain).item() for name, image in pictures.items()}
    assert found == pytest.approx({"all": 100, "none": 0, "half": 50, "tinted": 100, "elsewhere": 0}, abs=3)
    assert spots_recovery(plain, plain, plain).isnan().all()


def test_spots_of_a_drawn_person_change_nothing_else() -> None:
    settings = CaseSettings(photos=1, size=64, damage_at=128)
    case = next(c for c in (draw_case(settings, k, "clean") for k in range(9)) if (c.hq != c.plain).any())
    changed = ((case.hq - case.plain).abs().amax((0, 1)) > 0.02).float().mean()
    assert 0 < changed < 0.03
    person = draw_person(np.random.default_rng(0))
    assert spotless(person) == replace(person, moles=(), scar=())


def test_arcface_stays_finite_in_bf16() -> None:
    """An embedding that is a centre: a cosine of 1, whose angle has no gradient."""
    loss = ArcFace(3, 8)
    embeddings = loss.centres.detach().clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        loss(embeddings, torch.arange(3)).backward()
    assert embeddings.grad is not None
    assert torch.isfinite(embeddings.grad).all()
