"""Dual-Pivot Tuning on small networks: settings, class pictures, what is learned, and its file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from pfstorer_core import Restorer
from pfstorer_core.checkpoints.errors import CheckpointError
from pfstorer_core.checkpoints.parts import CONTROL
from pfstorer_core.models.tokenizer import tokenize
from pfstorer_core.personalization.dual_pivot.adapter import CONTEXT, DualPivotAdapter, load
from pfstorer_core.personalization.dual_pivot.class_pictures import draw_class, folder_of
from pfstorer_core.personalization.dual_pivot.learning import FullWeights, LowRankWeights
from pfstorer_core.personalization.dual_pivot.model_pivot import ModelPivot
from pfstorer_core.personalization.dual_pivot.parameters import generator_names, guide_names
from pfstorer_core.personalization.dual_pivot.pivot import Pivot
from pfstorer_core.personalization.dual_pivot.settings import DualPivotTraining
from pfstorer_core.personalization.dual_pivot.text_pivot import TextPivot
from pfstorer_core.personalization.photos import Photos
from pfstorer_core.personalization.training import train_identity_adapter
from pfstorer_core.personalization.weights import Full, LowRank, feature_scale
from pfstorer_core.restorers.changes import Changes
from pfstorer_core.training.data import collate
from pfstorer_core.training.progress import Progress, never, silent

from .small import small_diffbir, small_restorer

QUICK = DualPivotTraining(
    steps=3,
    steps_text=2,
    lr=1e-2,
    lr_model=1e-2,
    rank=4,
    class_pictures=2,
    pool=2,
    degradation="light",
    bf16=False,
    preview_every=0,
)


class Stopped(BaseException):
    """As ComfyUI's own interruption, which is no Exception."""


@pytest.fixture(scope="module")
def diffbir() -> Restorer:
    return small_diffbir()


@pytest.fixture(scope="module")
def photos() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(3, 40, 48, generator=generator) for _ in range(2)]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, diffbir: Restorer) -> Path:
    """With the class pictures that `QUICK` asks for, which take the longest here."""
    folder = tmp_path_factory.mktemp("shared")
    draw_class(diffbir, QUICK.class_prompt, QUICK.class_pictures, QUICK.seed, folder)
    return folder


@pytest.fixture(scope="module")
def adapter(diffbir: Restorer, photos: list[Tensor], shared: Path) -> DualPivotAdapter:
    return train_identity_adapter(diffbir, photos, QUICK, shared=shared)


def pivot_of(kind: type[Any], restorer: Restorer, photos: list[Tensor], **changed: Any) -> Pivot:
    settings = replace(QUICK, **changed)
    seen = Photos.of(restorer, photos)
    return kind(restorer, seen, settings, *([{}] if kind is ModelPivot else []))


# --- settings


def test_prompts_are_the_published_ones() -> None:
    settings = DualPivotTraining(class_word="man")
    assert (settings.prompt, settings.class_prompt) == ("a photo of a sks man", "a photo of a man")
    ids = tokenize([settings.prompt])[0]
    assert ids.tolist()[:9] == [49406, 320, 1125, 539, 320, 48136, 786, 49407, 0]


def test_steps_of_both_pivots() -> None:
    both = DualPivotTraining()
    assert (both.steps, both.steps_text) == (3300, 2500)
    assert [both.text_steps(pivots) for pivots in ("both", "text", "model")] == [2500, 3300, 0]
    assert replace(both, steps=4000).steps_text == 2500, "more steps go on from fewer"
    assert DualPivotTraining(steps=100).text_steps("both") == 76
    alone = DualPivotTraining(pivots="text", steps=5)
    assert replace(alone, steps=9) == DualPivotTraining(pivots="text", steps=9), "so does one pivot alone"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"pivots": "one"}, "No pivots 'one'; choose one of both, text, model"),
        ({"text_weights": "some"}, "No text_weights"),
        ({"model_weights": "first149"}, "No model_weights 'first149'; choose one of first150, full, lora"),
        ({"data": "mine"}, "No data"),
        ({"token": " "}, "token must be a word"),
        ({"class_word": "x" * 41}, "class_word must be a word"),
        ({"rank": 0}, "rank must be from 1 to 1024, got 0"),
        ({"prior_weight": -1.0}, "prior_weight must be 0 or more"),
        ({"class_pictures": 0}, "class_pictures must be 1 or more"),
        ({"steps_text": 0}, "steps_text must be 1 or more"),
    ],
)
def test_settings_that_cannot_be_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DualPivotTraining(**given)


def test_a_path_is_not_told() -> None:
    settings = DualPivotTraining(pictures="/home/somebody/faces")
    assert "somebody" not in str(settings.record())
    assert settings.record()["token"] == "sks"


# --- class pictures


def test_class_pictures_are_drawn_once(diffbir: Restorer, shared: Path) -> None:
    files = draw_class(diffbir, QUICK.class_prompt, 2, 0, shared, on_progress=refused)
    assert len({file.read_bytes() for file in files}) == 2, "they are all the same"
    folder = folder_of(diffbir, QUICK.class_prompt, 0, shared)
    assert [file.parent for file in files] == [folder] * 2
    assert folder.name.startswith(f"a_photo_of_a_person-32-{diffbir.fingerprint}-")
    others = [
        folder_of(diffbir, "a photo of a man", 0, shared),
        folder_of(diffbir, QUICK.class_prompt, 1, shared),
        folder_of(small_restorer(), QUICK.class_prompt, 0, shared),
        folder_of(replace(diffbir, header=replace(diffbir.header, image_size=64)), "a", 0, shared),
    ]
    assert len({folder, *others}) == 5


def refused(progress: Progress) -> None:
    raise AssertionError("it draws what is there")


def test_what_was_stopped_goes_on_and_what_is_there_stays(
    diffbir: Restorer, shared: Path, tmp_path: Path
) -> None:
    def stop(progress: Progress) -> None:
        assert (progress.step, progress.steps) == (1, 2)
        raise Stopped

    with pytest.raises(Stopped):
        draw_class(diffbir, QUICK.class_prompt, 2, 0, tmp_path, stop)
    (first,) = folder_of(diffbir, QUICK.class_prompt, 0, tmp_path).iterdir()
    Image.new("RGB", (32, 32), "red").save(first)
    before = first.read_bytes()
    steps: list[int] = []
    files = draw_class(diffbir, QUICK.class_prompt, 2, 0, tmp_path, lambda p: steps.append(p.step))
    assert steps == [2]
    assert files[0].read_bytes() == before, "a picture was drawn over"
    whole = folder_of(diffbir, QUICK.class_prompt, 0, shared) / files[1].name
    assert files[1].read_bytes() == whole.read_bytes()


def test_without_a_prior_nothing_is_drawn(diffbir: Restorer, photos: list[Tensor], tmp_path: Path) -> None:
    pivot = pivot_of(TextPivot, diffbir, photos, prior_weight=0.0)
    pivot.prepare(tmp_path, refused, never)
    assert not list(tmp_path.iterdir())
    batch = collate([pivot.samples(pivot.photos, never)[k] for k in range(2)])
    assert torch.isfinite(pivot(batch))


# --- what is learned


def test_both_pivots_leave_their_losses_and_changes(adapter: DualPivotAdapter, diffbir: Restorer) -> None:
    header = adapter.header
    assert (header.pivots, header.steps, header.steps_text, len(header.losses)) == ("both", 3, 2, 3)
    assert (header.token, header.prompt) == ("sks", "a photo of a sks person")
    assert header.details()[0] == "text pivot (lora, 2 steps) and model pivot (first150, 1 steps)"
    assert set(adapter.model) == set(guide_names(diffbir.unet, "first150"))
    assert set(adapter.text) <= set(generator_names(diffbir.unet))
    assert all(isinstance(change, LowRank) and change.rank == 4 for change in adapter.text.values())
    assert all(isinstance(change, Full) for change in adapter.model.values())
    weights = dict(diffbir.unet.named_parameters())
    moved = [float(c.delta(weights[name]).abs().max()) for name, c in adapter.model.items()]
    assert max(moved) > 1e-3
    assert max(moved) < 0.011, "a step of 0.01 moves no weight further: these are no changes"
    torch.testing.assert_close(adapter.context, diffbir.context("a photo of a sks person"))


def test_generator_and_guide_have_their_own_parameters(diffbir: Restorer) -> None:
    unet = diffbir.unet
    generator, guide = generator_names(unet), guide_names(unet, "full")
    assert sorted(generator + guide) == sorted(name for name, _ in unet.named_parameters())
    assert all(name.startswith(CONTROL.prefix) for name in guide)
    plain = generator_names(small_restorer().unet)
    assert not [name for name in plain if "spade" in name or name.startswith("lq_encoder")]
    assert sorted(plain) == sorted(generator), "both are Stable Diffusion's own"


def test_the_model_pivot_learns_around_the_text_pivot(diffbir: Restorer, photos: list[Tensor]) -> None:
    """Its loss is that of the changed generator, under the person's prompt."""
    pivot = pivot_of(ModelPivot, diffbir, photos)
    batch = collate([pivot.samples(pivot.photos, never)[0]])
    plain = pivot(batch)
    name = "output_blocks.0.0.out_layers.3.weight"
    weight = diffbir.unet.get_parameter(name)
    pivot.text = {name: Full(torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)))}
    assert (pivot(batch) - plain).abs() > 1e-4
    pivot.text = {}
    pivot.contexts = pivot.contexts.flip(0)
    assert (pivot(batch) - plain).abs() > 1e-7


@pytest.mark.parametrize(("data", "kinds"), [("personal", {0, 1}), ("generic", {-1}), ("mixed", {-1, 0, 1})])
def test_data_of_the_model_pivot(
    data: str, kinds: set[int], diffbir: Restorer, photos: list[Tensor], tmp_path: Path
) -> None:
    faces = np.random.default_rng(0).integers(0, 255, (48, 40, 3), dtype=np.uint8)
    Image.fromarray(faces).save(tmp_path / "face.png")
    pivot = pivot_of(ModelPivot, diffbir, photos, data=data, pictures=str(tmp_path), pool=40)
    pivot.prepare(tmp_path, silent, never)
    samples = pivot.samples(pivot.photos, never)
    drawn = [samples[k] for k in range(24)]
    assert {int(sample["photo"]) for sample in drawn} == kinds
    held = pivot.pairs(pivot.photos, 1, 1, 0, 0.0, never)
    assert int(held[0]["photo"]) in (0, 1), "previews are of the person"


def test_named_pictures_are_looked_for_before_the_first_pivot(
    diffbir: Restorer, photos: list[Tensor], tmp_path: Path
) -> None:
    named = {"pictures": str(tmp_path / "none")}
    with pytest.raises(FileNotFoundError, match=r"No pictures at .*none"):
        pivot_of(TextPivot, diffbir, photos, data="mixed", **named)
    for unused in ({"data": "personal"}, {"data": "mixed", "pivots": "text"}):
        assert pivot_of(TextPivot, diffbir, photos, **named, **unused).generic is None


def test_generic_pictures_have_the_prompt_of_the_class(
    diffbir: Restorer, photos: list[Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    pivot, seen = pivot_of(ModelPivot, diffbir, photos), list[Tensor]()
    batch = collate([pivot.samples(pivot.photos, never)[0]])
    denoise = Restorer.denoise

    def spied(self: Restorer, x: Tensor, t: Tensor, condition: Any, context: Tensor, *rest: Any) -> Tensor:
        seen.append(context)
        return denoise(self, x, t, condition, context, *rest)

    monkeypatch.setattr(Restorer, "denoise", spied)
    for photo in (0, -1):
        pivot({**batch, "photo": torch.tensor([photo])})
    for context, prompt in zip(seen, (QUICK.prompt, QUICK.class_prompt), strict=True):
        torch.testing.assert_close(context, diffbir.context(prompt))


def test_photos_are_seen_whole(diffbir: Restorer) -> None:
    """Faces that were aligned stay so: no crop, no mirror."""
    photo = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(5))
    pivot = pivot_of(ModelPivot, diffbir, [photo])
    picture, _ = pivot.pairs(pivot.photos, 1, 1, 0, 0.0, never).picture(np.random.default_rng(0))
    torch.testing.assert_close(picture, photo)


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_checkpointed_blocks_have_the_same_gradients(
    kind: str, diffbir: Restorer, photos: list[Tensor]
) -> None:
    """Weights that an evaluation is lent are gone when its blocks are computed once more."""
    found: list[list[Tensor]] = []
    pivot = pivot_of(ModelPivot, diffbir, photos, model_weights=kind)
    batch = collate([pivot.samples(pivot.photos, never)[0]])
    with torch.no_grad():
        for parameter in pivot.learning.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    for on in (False, True):
        diffbir.unet.checkpoint_gradients(on)
        pivot.zero_grad()
        pivot(batch).backward()
        found.append([p.grad.clone() for p in pivot.learning.parameters() if p.grad is not None])
    diffbir.unet.checkpoint_gradients(False)
    assert found[0]
    assert max(float(gradient.abs().max()) for gradient in found[0]) > 1e-6
    for plain, checkpointed in zip(*found, strict=True):
        torch.testing.assert_close(checkpointed, plain)


def test_a_learned_weight_is_what_its_change_gives(diffbir: Restorer) -> None:
    names = guide_names(diffbir.unet, "first150")[:4]
    learning = FullWeights(diffbir.unet, names)
    with torch.no_grad():
        for weight in learning.weights.values():
            weight += 0.1
    before = {name: diffbir.unet.get_parameter(name).detach() for name in names}
    seen = Changes(weights=learning.changes()).changed_weights(diffbir.unet)
    stored = Changes(weights={name: [change] for name, change in learning.learned().items()})
    for name, value in stored.changed_weights(diffbir.unet).items():
        torch.testing.assert_close(value, before[name] + 0.1)
        torch.testing.assert_close(seen[name], value)
    again = FullWeights(diffbir.unet, names)
    again.take(learning.learned())
    for key, weight in again.weights.items():
        torch.testing.assert_close(weight, learning.weights[key])


def test_low_rank_changes_begin_as_nothing(diffbir: Restorer) -> None:
    learning = LowRankWeights(diffbir.unet, generator_names(diffbir.unet), 4, 0)
    assert all(
        not change.delta(diffbir.unet.get_parameter(name)).any()
        for name, (change,) in learning.changes().items()
    )
    assert not [name for name in learning.learned() if diffbir.unet.get_parameter(name).ndim == 1]


def test_control_blocks_are_as_large_as_the_u_nets(diffbir: Restorer) -> None:
    scale: Callable[[str], int | None] = lambda name: feature_scale(diffbir.unet.config, name)  # noqa: E731
    for name, expected in {
        "control_model.input_blocks.0.0.weight": 1,
        "control_model.zero_convs.0.0.weight": 1,
        "control_model.input_blocks.5.0.out_layers.3.weight": 4,
        "control_model.zero_convs.3.0.bias": 2,
        "control_model.middle_block.0.in_layers.2.weight": 4,
        "control_model.middle_block_out.0.weight": 4,
        "control_model.time_embed.0.weight": None,
    }.items():
        assert scale(name) == expected, name


def test_previews_of_both_pivots(diffbir: Restorer, photos: list[Tensor], shared: Path) -> None:
    seen: list[Progress] = []
    train_identity_adapter(
        diffbir, photos, replace(QUICK, preview_every=1), shared=shared, on_progress=seen.append
    )
    shown = {(p.stage, p.step) for p in seen if p.picture is not None}
    assert shown == {("text_pivot", 1), ("text_pivot", 2), ("model_pivot", 3)}
    assert {p.steps for p in seen} == {3}


# --- restorers without a control network


def test_the_text_pivot_alone_fits_any_restorer(
    photos: list[Tensor], adapter: DualPivotAdapter, tmp_path: Path
) -> None:
    plain = small_restorer()
    asked = replace(QUICK, pivots="model")
    with pytest.raises(ValueError, match="control network, and this restorer has none: load a DiffBIR"):
        train_identity_adapter(plain, photos, asked)
    with pytest.raises(ValueError, match=r"changes a control network, which X does not have: load the Diff"):
        adapter.check_fit(plain.unet, 32, "X")
    replace(adapter, model={}).check_fit(plain.unet, 32)


def test_what_does_not_fit_is_refused(adapter: DualPivotAdapter, diffbir: Restorer) -> None:
    name = next(iter(adapter.model))
    for changed, message in (
        ({"model": {"control_model.nothing": Full(torch.ones(1))}}, "has no control_model.nothing"),
        ({"model": {name: Full(torch.ones(3))}}, f"{name} is of another size"),
        ({"context": torch.ones(1, 2, 7)}, "its context is 7 wide, but 64"),
    ):
        with pytest.raises(ValueError, match=message):
            replace(adapter, **changed).check_fit(diffbir.unet, 32)


# --- its file


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda t: t.pop(CONTEXT), "context.main is missing"),
        (lambda t: t.__setitem__(CONTEXT, torch.ones(2, 3)), r"context.main is \[2, 3\]"),
        (lambda t: t.pop(next(k for k in t if k.endswith(".lora_down"))), "has no lora_down"),
        (lambda t: t.pop(next(k for k in t if k.endswith(".lora_up"))), "parts of changes without the rest"),
        (lambda t: t.__setitem__("other.weight", torch.ones(1)), "other.weight, which is no part of it"),
        (lambda t: t.__setitem__("text.control_model.x", torch.ones(1)), "control_model.x is not the text"),
        (lambda t: t.__setitem__("model.out.2.bias", torch.ones(1)), "out.2.bias is not the model"),
        (lambda t: t.__setitem__(CONTEXT, torch.full((1, 2, 3), torch.nan)), "NaN"),
        (
            lambda t: [t.pop(k) for k in list(t) if k.startswith("model.")],
            "that it has both, and has 0",
        ),
    ],
)
def test_damaged_files_are_refused(
    damage: Callable[[dict[str, Tensor]], Any], message: str, adapter: DualPivotAdapter
) -> None:
    tensors = adapter.tensors()
    damage(tensors)
    with pytest.raises(CheckpointError, match=message):
        load(tensors, adapter.header.to_metadata(), "file")
