"""Learning a person and restoring them."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import pfstorer_core as pf
from harness import ROOT
from harness.drawn import case as bad_case
from pfstorer_core import AdapterTraining, Identity, IdentityAdapter, Restorer
from pfstorer_core.models import Backend, UNet, UNetConfig
from pfstorer_core.personalization.identity import each_in_its_area
from pfstorer_core.personalization.learn import learn
from pfstorer_core.personalization.objective import PREVIEW_TILE
from pfstorer_core.personalization.pfstorer.apply import read_references
from pfstorer_core.personalization.pfstorer.sites import default_sites, site_factor
from pfstorer_core.personalization.pfstorer.train import IdentityLoss
from pfstorer_core.personalization.photos import Pairs, Photos, crop
from pfstorer_core.personalization.prompts import person_prompts, word_id
from pfstorer_core.personalization.registry import load_identity_adapter
from pfstorer_core.personalization.training import run_key, train_identity_adapter
from pfstorer_core.restorers.fingerprint import fingerprint, same_base
from pfstorer_core.training.degradation import random_degradation
from pfstorer_core.training.progress import Progress

from .small import small_restorer

QUICK = AdapterTraining(steps=4, batch=2, lr=1e-2, gamma_lr=0.1, pool=4, bf16=False, preview_every=0)

NOISE = torch.rand(3, 40, 40, generator=torch.Generator().manual_seed(0))

LEAK = 0.05
"""Of a person's change that may be seen beside the person's area."""


class Stopped(BaseException):
    """As ComfyUI's own interruption, which is no Exception."""


@pytest.fixture(scope="module")
def person() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(3, side, side + 8, generator=generator) for side in (40, 56, 33)]


@pytest.fixture(scope="module")
def trained(restorer: Restorer, person: list[Tensor]) -> IdentityAdapter:
    return train_identity_adapter(restorer, person, QUICK)


@pytest.fixture
def lq() -> Tensor:
    return torch.rand(1, 3, 12, 12, generator=torch.Generator().manual_seed(2))


def restored(restorer: Restorer, lq: Tensor, *identities: Identity) -> Tensor:
    return pf.restore(restorer, lq, upscale=4, steps=2, identities=identities, color_fix="none")


def test_gamma_0_is_the_base(restorer: Restorer, trained: IdentityAdapter, lq: Tensor) -> None:
    base = restored(restorer, lq)
    assert torch.equal(restored(restorer, lq, Identity(trained, gamma=0.0)), base)
    one, two = (restored(restorer, lq, Identity(trained, gamma=gamma)) for gamma in (1.0, 2.0))
    assert 0 < (one - base).abs().mean() < (two - base).abs().mean()


def test_a_block_starts_as_nothing_and_gamma_moves_first(restorer: Restorer, person: list[Tensor]) -> None:
    photos = Photos.of(restorer, person)
    objective = IdentityLoss(restorer, photos, QUICK)
    batch = collated(Pairs(restorer, photos, random_degradation("", 32), 0.0, 4, 2, 0))
    objective(batch).backward()
    for block in objective.blocks.values():
        gradients = {name: p.grad for name, p in block.named_parameters()}
        gamma = gradients.pop("gamma")
        assert gamma is not None
        assert gamma.any()
        assert all(g is None or not g.any() for g in gradients.values())
    assert objective.token.grad is not None
    assert objective.token.grad.any()
    assert all(p.grad is None for p in restorer.unet.parameters())


def test_truncated_gradients_change_no_loss(restorer: Restorer, person: list[Tensor]) -> None:
    photos = Photos.of(restorer, person)
    batch = collated(Pairs(restorer, photos, random_degradation("", 32), 0.0, 4, 2, 0))
    losses, gradients = [], []
    for kind in ("truncated", "full"):
        objective = IdentityLoss(restorer, photos, replace(QUICK, gradients=kind))
        for name, parameter in objective.blocks.named_parameters():
            if name.endswith(".gamma"):
                torch.nn.init.constant_(parameter, 0.5)
        loss = objective(batch)
        loss.backward()
        losses.append(loss.item())
        gradients.append(objective.token.grad)
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert not torch.equal(*gradients)


def collated(pairs: Pairs) -> dict[str, object]:
    from pfstorer_core.training.data import collate

    return collate([pairs[k] for k in range(2)])


def test_nothing_is_loaded_for_what_is_wrong_or_known(
    tmp_path: Path, restorer: Restorer, person: list[Tensor]
) -> None:
    loaded: list[Restorer] = []

    def load() -> Restorer:
        loaded.append(restorer)
        return restorer

    file, black = tmp_path / "ada.safetensors", torch.zeros(1, 3, 40, 40)
    with pytest.raises(ValueError, match="shows nobody"):
        learn(load, restorer.fingerprint, [black], QUICK, None, file)
    assert not loaded
    made = learn(load, restorer.fingerprint, person, QUICK, None, file).adapter
    found = learn(load, restorer.fingerprint, person, QUICK, None, file).adapter
    assert len(loaded) == 1
    assert found.header.run_key == made.header.run_key
    learn(load, restorer.fingerprint, person, QUICK, None, file, restart=True)
    assert len(loaded) == 2


def test_the_time_it_takes_is_foretold(restorer: Restorer, person: list[Tensor]) -> None:
    told: list[Progress] = []
    train_identity_adapter(restorer, person, QUICK, on_progress=told.append)
    assert [progress.step for progress in told] == list(range(QUICK.steps + 1))
    left = [progress.seconds_left or 0.0 for progress in told]
    assert left[0] > 0
    assert left[-1] == 0
    assert all(seconds > 0 for seconds in left[:-1])


def test_a_stopped_training_goes_on_as_if_nothing_had_been(
    tmp_path: Path, restorer: Restorer, person: list[Tensor], trained: IdentityAdapter
) -> None:
    def stop(progress: Progress) -> None:
        if progress.step == 2:
            raise Stopped

    with pytest.raises(Stopped):
        train_identity_adapter(restorer, person, QUICK, folder=tmp_path, on_progress=stop)
    steps = []
    adapter = train_identity_adapter(
        restorer, person, QUICK, folder=tmp_path, on_progress=lambda p: steps.append(p.step)
    )
    assert steps == [2, 3, 4]  # first of all the guess, at what is done already
    assert adapter.header.losses == trained.header.losses
    assert torch.equal(adapter.token, trained.token)
    for site, block in adapter.blocks.items():
        for key, value in block.state_dict().items():
            assert torch.equal(value, trained.blocks[site].state_dict()[key]), (site, key)


def test_a_file_is_all_it_takes(
    tmp_path: Path, restorer: Restorer, trained: IdentityAdapter, lq: Tensor
) -> None:
    path = tmp_path / "ada.safetensors"
    trained.save(path)
    loaded = pf.load_identity_adapter(path)
    assert loaded.header == trained.header
    assert "iometric" in loaded.header.notice
    expected, found = (restored(restorer, lq, Identity(a)) for a in (trained, loaded))
    torch.testing.assert_close(found, expected, rtol=0, atol=5e-3)


def test_an_adapter_of_another_base_is_refused(trained: IdentityAdapter, lq: Tensor) -> None:
    other = small_restorer()
    for parameter in other.unet.parameters():
        torch.nn.init.normal_(parameter)
    with pytest.raises(ValueError, match=trained.header.base):
        restored(other, lq, Identity(trained))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_fingerprint_outlives_rounding(restorer: Restorer, dtype: torch.dtype) -> None:
    rounded = {key: value.to(dtype) for key, value in restorer.unet.state_dict().items()}
    assert same_base(fingerprint(rounded), restorer.fingerprint)


def test_a_base_that_was_trained_on_is_another_one(restorer: Restorer) -> None:
    generator = torch.Generator().manual_seed(0)
    further = {
        key: value + 0.2 * value.std() * torch.randn(value.shape, generator=generator)
        for key, value in restorer.unet.state_dict().items()
        if value.ndim > 1
    }
    assert not same_base(fingerprint(further), restorer.fingerprint)


def test_damaged_and_foreign_files_are_named(tmp_path: Path, trained: IdentityAdapter) -> None:
    path = tmp_path / "ada.safetensors"
    trained.save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    with pytest.raises(pf.CheckpointError, match="ada"):
        pf.load_identity_adapter(path)
    from safetensors.torch import save_file

    save_file({"weight": torch.zeros(1)}, path)
    with pytest.raises(pf.CheckpointError, match="no identity adapter"):
        pf.load_identity_adapter(path)
    with pytest.raises(FileNotFoundError):
        pf.load_identity_adapter(tmp_path / "nobody.safetensors")


@pytest.mark.parametrize(
    ("photos", "message"),
    [
        ([], "1 to 10 photos"),
        ([NOISE] * 11, "got 11"),
        ([torch.zeros(3, 40, 40)], "one colour"),
        ([NOISE, torch.full((3, 40, 40), torch.nan)], "Photo 2 holds"),
        ([torch.full((3, 40, 40), torch.nan), NOISE], "Photo 1 holds"),
        ([torch.rand(1, 40, 40)], "Photo 1"),
        ([torch.rand(3, 8, 40)], "too small"),
    ],
)
def test_photos_that_teach_nothing_are_refused(
    restorer: Restorer, photos: list[Tensor], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        train_identity_adapter(restorer, photos, QUICK)


@pytest.mark.parametrize("change", [{"null_lq": "none"}, {"reference_timestep": "never"}])
def test_choices_are_checked_before_the_training(change: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=next(iter(change.values()))):
        replace(QUICK, **change)


@pytest.mark.parametrize("gamma", [float("nan"), -0.1, 2.1])
def test_gamma_has_a_range(trained: IdentityAdapter, gamma: float) -> None:
    with pytest.raises(ValueError, match="gamma"):
        Identity(trained, gamma=gamma)


@pytest.mark.parametrize("count", [1, 3])
def test_the_reference_is_another_photo(restorer: Restorer, person: list[Tensor], count: int) -> None:
    photos = Photos.of(restorer, person[:count])
    pairs = Pairs(restorer, photos, random_degradation("", 32), 0.0, 8, 2, 0)
    samples = [pairs[k] for k in range(12)]
    assert {int(s["reference"]) for s in samples} == set(range(count))
    again = Pairs(restorer, photos, random_degradation("", 32), 0.0, 8, 2, 0)
    for k in (11, 4):  # in any order
        assert torch.equal(again[k]["lq"], samples[k]["lq"])


def test_crops_show_the_whole_face_as_it_is() -> None:
    """Not mirrored, since a mole has its side; hardly cut; not enlarged where the photo is large enough."""
    ramp = torch.linspace(0, 1, 200).expand(3, 200, 200)
    rng = np.random.default_rng(0)
    for size in (64, 190):
        for _ in range(30):
            found = crop(ramp, size, rng)
            assert found.shape == (3, size, size)
            across = found[0, 0, -1] - found[0, 0, 0]
            assert across > 0.75, "mirrored, or too small a part"
            assert across / (size - 1) >= 0.98 / 199, "enlarged"


def test_a_box_finds_the_face(restorer: Restorer) -> None:
    photo = torch.zeros(3, 100, 200)
    photo[:, 40:60, 150:170] = torch.rand(3, 20, 20)
    whole = Photos.of(restorer, [photo]).images[0]
    face = Photos.of(restorer, [photo], [(150, 40, 170, 60)]).images[0]
    assert whole.shape[-1] == 100
    assert face.shape[-1] == 32
    assert face.any()
    with pytest.raises(ValueError, match="not inside"):
        Photos.of(restorer, [photo], [(150, 40, 270, 60)])


@pytest.mark.parametrize("kind", ["zero", "same", "noised"])
def test_references_are_read_when_they_have_to_be(
    restorer: Restorer, trained: IdentityAdapter, kind: str
) -> None:
    adapter = replace(trained, header=replace(trained.header, reference_timestep=kind))
    first, later = (
        read_references(restorer.unet, adapter, t, references=1, schedule=restorer.schedule)
        for t in (10, 900)
    )
    for site in adapter.blocks:
        same = first[site].key.shape == later[site].key.shape and torch.equal(
            first[site].key, later[site].key
        )
        assert same == (kind == "zero")


def test_many_photos_cost_no_more_than_two(restorer: Restorer, trained: IdentityAdapter) -> None:
    many = replace(trained, references=trained.references.repeat(3, 1, 1, 1))
    one = read_references(restorer.unet, trained, references=1)
    all_of_them = read_references(restorer.unet, many)
    for site in trained.blocks:
        tokens = trained.references[0, 0].numel() // site_factor(restorer.unet, site) ** 2
        assert one[site].key.shape[1] <= tokens
        assert one[site].key.shape[1] <= all_of_them[site].key.shape[1] <= 2 * tokens


def test_two_people_in_their_places() -> None:
    """Of the embedded restorer: what one person changes in the other's half is a few per cent of what it
    changes in its own."""
    restorer = pf.load_restorer(ROOT / "assets" / "pfstorer_tiny.safetensors")
    adapter = load_identity_adapter(ROOT / "assets" / "identity_adapters" / "drawn_person.safetensors")
    bad = bad_case().lq
    lq, cells = torch.nn.functional.avg_pool2d(bad, 4), bad.shape[-1] // restorer.downscale
    left, everywhere = torch.zeros(1, 1, cells, cells), torch.ones(1, 1, cells, cells)
    left[..., : cells // 2] = 1
    one, other = Identity(adapter, area=left), Identity(adapter, area=1 - left)
    base, whole, first, second, both = (
        restored(restorer, lq, *people)
        for people in ([], [Identity(adapter, area=everywhere)], [one], [other], [one, other])
    )

    def change(picture: Tensor, before: Tensor) -> Tensor:
        """By columns of pixels."""
        return (picture - before).abs().mean((0, 1, 2))

    half = base.shape[-1] // 2
    for found in (change(first, base), change(both, second)):
        assert found[:half].mean() > 0.9 * change(whole, base)[:half].mean()
        assert found[half:].mean() < LEAK * found[:half].mean()
    assert change(both, whole).mean() < LEAK * change(whole, base).mean()


def test_who_acts_in_an_area_is_evaluated_where_it_counts() -> None:
    asked = []

    def predict(who: Sequence[int]) -> Tensor:
        asked.append(list(who))
        return torch.full((1, 1, 2, 2), 10.0 ** len(who)) + sum(who)

    left, nowhere = torch.tensor([[[[1.0, 0.0]]]]).expand(1, 1, 2, 2), torch.zeros(1, 1, 2, 2)
    for areas, expected, found in (
        ([], [[]], [1.0, 1.0]),
        ([None, None], [[0, 1]], [101.0, 101.0]),
        ([left], [[], [0]], [10.0, 1.0]),
        ([left, 1 - left], [[0], [1]], [10.0, 11.0]),
        ([None, left], [[0], [0, 1]], [101.0, 10.0]),
        ([nowhere, nowhere + 1], [[1]], [11.0, 11.0]),
        ([nowhere], [[]], [1.0, 1.0]),
        ([left, left], [[], [0], [1]], [10.0 + 11.0 - 1.0, 1.0]),
    ):
        asked.clear()
        assert each_in_its_area(predict, areas)[0, 0, 0].tolist() == found
        assert asked == expected


@pytest.mark.parametrize(
    "change",
    [
        {"null_lq": "zero_latent"},
        {"null_lq": "gray"},
        {"reference_timestep": "same"},
        {"reference_timestep": "noised"},
        {"gradients": "full"},
        {"gamma": False},
        {"sites": ("output_blocks.0.1",)},
        {"sites": ("output_blocks.5.0",)},
    ],
)
def test_ways_to_train(
    restorer: Restorer, person: list[Tensor], trained: IdentityAdapter, change: dict[str, object]
) -> None:
    settings = replace(QUICK, steps=2, **change)
    adapter = train_identity_adapter(restorer, person, settings)
    assert np.isfinite(adapter.header.losses).all()
    assert run_key(restorer.fingerprint, person, settings) != trained.header.run_key
    if change == {"gamma": False}:
        assert all(torch.equal(b.gamma, torch.ones_like(b.gamma)) for b in adapter.blocks.values())
    if "sites" in change:
        assert tuple(adapter.blocks) == change["sites"]
        assert list(adapter.blocks) != default_sites(restorer.unet)


def test_an_identity_acts_where_the_face_is_drawn(restorer: Restorer) -> None:
    stable_diffusion = UNet(UNetConfig(), Backend(device="meta"))
    assert default_sites(stable_diffusion) == [f"output_blocks.{number}.1" for number in (4, 6, 8, 10)]
    assert restorer.unet.config.attention_resolutions == (4, 2)  # none at the finest level
    assert default_sites(restorer.unet) == ["output_blocks.3.1", "output_blocks.4.0", "output_blocks.5.0"]


def test_an_identity_at_a_residual_block_alone(restorer: Restorer, person: list[Tensor], lq: Tensor) -> None:
    adapter = train_identity_adapter(restorer, person, replace(QUICK, sites=("output_blocks.4.0",)))
    base, one, two = (restored(restorer, lq, Identity(adapter, gamma=gamma)) for gamma in (0.0, 1.0, 2.0))
    assert torch.equal(base, restored(restorer, lq))
    assert 0 < (one - base).abs().mean() < (two - base).abs().mean()
    other = replace(adapter, references=adapter.references.flip(-1))
    assert not torch.equal(restored(restorer, lq, Identity(other)), one)


def test_the_word_alone(restorer: Restorer, person: list[Tensor], lq: Tensor) -> None:
    adapter = train_identity_adapter(restorer, person, replace(QUICK, blocks=False))
    assert not any(block.gamma.any() for block in adapter.blocks.values())
    assert not torch.equal(restored(restorer, lq, Identity(adapter)), restored(restorer, lq))


def test_prompts_name_the_person_once() -> None:
    prompts = person_prompts(["a photo of *", "* in the rain"])
    assert prompts.person.tolist() == [4, 1]
    assert (prompts.ids[0, 4], prompts.end[0]) == (word_id("*"), 5)
    for bad in ("a photo", "* and *", "word " * 90 + "*"):
        with pytest.raises(ValueError, match="once"):
            person_prompts([bad])
    with pytest.raises(ValueError, match="tokens"):
        word_id("pfstorer")


def test_a_preview_is_decoded_piece_by_piece(
    restorer: Restorer, person: list[Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside a training at full size there is no room for the decoder of a whole picture."""
    objective = IdentityLoss(restorer, Photos.of(restorer, person), QUICK)
    decode, seen = restorer.autoencoder.decode, list[tuple[int, ...]]()

    def watched(z: Tensor, *others: Any) -> Tensor:
        seen.append(tuple(z.shape[-2:]))
        return decode(z, *others)

    monkeypatch.setattr(restorer.autoencoder, "decode", watched)
    cells, factor = PREVIEW_TILE + 8, restorer.autoencoder.config.downscale
    latent = torch.randn(1, restorer.autoencoder.config.embed_dim, cells, cells)
    sheet = objective.sheet({"hq": latent, "lq": latent})
    assert sheet.shape == (1, 3, factor * cells, 4 * factor * cells)
    assert set(seen) == {(PREVIEW_TILE, PREVIEW_TILE)}
    first, last = sheet[..., : factor * cells], sheet[..., -factor * cells :]
    assert torch.equal(first, last)
    assert first.std() > 0


def test_a_preview_shows_what_it_learns(restorer: Restorer, person: list[Tensor]) -> None:
    pictures: list[Tensor] = []

    def look(progress: Progress) -> None:
        if progress.picture is not None:
            pictures.append(progress.picture)

    train_identity_adapter(restorer, person, replace(QUICK, preview_every=2), on_progress=look)
    assert [p.shape for p in pictures] == [(1, 3, 32, 128)] * 2
    base, personal = pictures[1][..., 32:64], pictures[1][..., 64:96]
    assert not torch.equal(base, personal)
