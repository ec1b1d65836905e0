"""A start for adapters: trained over many people, found beside a restorer, begun with."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from typer.testing import CliRunner

from pfstorer_core import AdapterTraining, CheckpointError, IdentityAdapter, Restorer, save_restorer
from pfstorer_core.checkpoints.tensors import write_safetensors
from pfstorer_core.cli.app import app
from pfstorer_core.cli.settings import Changes, Data
from pfstorer_core.cli.starting import StartRun, run_start, split
from pfstorer_core.personalization.learn import learn
from pfstorer_core.personalization.lora.train import LoRATraining
from pfstorer_core.personalization.pfstorer.header import PFStorerHeader
from pfstorer_core.personalization.pfstorer.start import AdapterStart, find_start, load_start, start_beside
from pfstorer_core.personalization.pfstorer.train import IdentityLoss
from pfstorer_core.personalization.pfstorer.train_start import StartLoss, StartTraining
from pfstorer_core.personalization.photos import Photos
from pfstorer_core.personalization.registry import load_identity_adapter
from pfstorer_core.personalization.training import run_key, train_identity_adapter
from pfstorer_core.training.data import Crops, find_pictures
from pfstorer_core.training.pairs import CERTAIN, LatentPairs
from pfstorer_core.training.people import People

from .small import small_restorer

QUICK = AdapterTraining(steps=2, batch=1, pool=2, bf16=False, preview_every=0)
LOOP = Changes(steps=3, batch=2, lr=1e-2, bf16=False, save_every=2, validate_every=0)


def moments(seed: int, *shape: int) -> Tensor:
    drawn = torch.randn(*shape, 8, 8, generator=torch.Generator().manual_seed(seed))
    return torch.cat([drawn, torch.full_like(drawn, CERTAIN)], dim=-3)


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three persons, two photos each."""
    folder, rng = tmp_path_factory.mktemp("people"), np.random.default_rng(0)
    for number in range(6):
        place = folder / "abc"[number // 2]
        place.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (48, 40, 3), np.uint8)).save(place / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def photos() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(3, side, side, generator=generator) for side in (40, 56)]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    save_restorer(small_restorer(), path := tmp_path / "base.safetensors", torch.float32)
    return path


def header_of(path: Path) -> PFStorerHeader:
    header = load_identity_adapter(path).header
    assert isinstance(header, PFStorerHeader)
    return header


def start_of(restorer: Restorer, gamma: float = 0.3) -> AdapterStart:
    start = StartLoss(restorer, StartTraining()).start(7, 3)
    for block in start.blocks.values():
        block.gamma.fill_(gamma)
    return start


def test_each_sample_is_learned_with_its_own_photo_by_pfstorer_s_losses(restorer: Restorer) -> None:
    batch: dict[str, Any] = {
        "hq": moments(0, 2, 4), "lq": moments(1, 2, 4), "reference": moments(2, 2, 1, 4),
        "seed": torch.tensor([3, 8]), "broken": [],
    }  # fmt: skip
    settings = StartTraining(lambda_gen=0.5)
    objective = StartLoss(restorer, settings)
    hq, lq, shown = (
        restorer.header.scale_factor * batch[name][..., :4, :, :] for name in ("hq", "lq", "reference")
    )
    person = IdentityLoss(restorer, Photos([], shown[:, 0]), settings.terms)
    for each in (objective, person):
        torch.manual_seed(0)
        for block in each.blocks.values():
            torch.nn.init.normal_(block.get_parameter("gamma"))
    given = {**batch, "hq": hq, "lq": lq}
    loss = objective(batch)
    torch.testing.assert_close(loss, person({**given, "reference": torch.tensor([0, 1])}))
    for other in ([1, 0], [0, 0]):
        assert (person({**given, "reference": torch.tensor(other)}) - loss).abs() > 1e-6, "the test is blind"
    loss.backward()
    assert objective.token.grad is None, "S* is nobody's yet"
    assert all(p.grad is not None for p in objective.blocks.parameters())
    late = StartLoss(restorer, replace(settings, shift=4.0))
    drawn = [each.time_step(np.random.default_rng(5)) for each in (objective, late)]
    assert drawn[1] == int(4 * drawn[0] / (1 + 3 * drawn[0] / 1000)) != drawn[0]


@pytest.mark.parametrize("pairs", [0, 9])
def test_from_folders_of_people_to_a_start(tmp_path: Path, file: Path, people: Path, pairs: int) -> None:
    """Stopped and gone on with or not: the same."""

    class Stop(Exception):
        pass

    def stop(progress: Any) -> None:
        if progress.stage == "start" and progress.step == 1:
            raise Stop

    run = StartRun(file, data=Data([people], 32), loop=LOOP, pairs=pairs)
    with pytest.raises(Stop):
        run_start(tmp_path / "run", start_beside(file), run, stop)
    for folder, output in (("run", start_beside(file)), ("other", tmp_path / "whole.safetensors")):
        run_start(tmp_path / folder, output, run)
    start, whole = load_start(start_beside(file)), load_start(tmp_path / "whole.safetensors")
    assert start.fingerprint == whole.fingerprint != start_of(small_restorer(), 0.0).fingerprint
    assert (start.header.steps, start.header.people) == (3, 3)
    assert start.header.base == small_restorer().fingerprint
    assert all(block.gamma.abs().max() > 0 for block in start.blocks.values())


def test_whether_photos_matter_is_written_down(restorer: Restorer) -> None:
    batch = {
        "hq": moments(0, 3, 4), "lq": moments(1, 3, 4), "reference": moments(2, 3, 1, 4),
        "seed": torch.tensor([3, 8, 1]), "broken": [],
    }  # fmt: skip
    objective = StartLoss(restorer, StartTraining())
    before = objective.figures(batch)
    assert before["own at 999"] == before["another's at 999"] == before["base at 999"]
    for block in objective.blocks.values():
        torch.nn.init.constant_(block.get_parameter("gamma"), 0.3)
    after = objective.figures(batch)
    assert len({after[f"{name} at 500"] for name in ("base", "own", "another's")}) == 3
    assert after["base at 999"] == before["base at 999"]
    twins = {**batch, "reference": batch["reference"][:1].expand(3, -1, -1, -1, -1)}
    same = objective.figures(twins)
    assert same["own at 999"] == same["another's at 999"]
    assert objective.sheet(batch).shape == (1, 3, 3 * 32, 6 * 32)


def test_photos_are_never_the_target_nor_mirrored(people: Path) -> None:
    hq = torch.arange(6.0)[:, None, None, None].expand(6, 8, 4, 4)
    pairs = LatentPairs(hq, hq, [""] * 6, 1, people=[*"aaabbc"], references=1, pictures=[*"xxyzzw"])
    seen = {
        (int(s["hq"][0, 0, 0]), int(s["reference"][0, 0, 0, 0])) for s in map(pairs.__getitem__, range(60))
    }
    assert seen == {(0, 2), (1, 2), (2, 0), (2, 1)}
    pictures = find_pictures([people])
    for mirrored in (False, True):
        crops = Crops(pictures, [0], 40, mirrored=mirrored)
        original = np.asarray(pictures.read(0)).astype(int)
        turned = 0
        for k in range(12):
            crop = crops[k]["image"].movedim(0, -1).numpy().astype(int)
            differences = [
                min(np.abs(crop - way[top : top + 40]).mean() for top in range(9))
                for way in (original, original[:, ::-1])
            ]
            turned += differences[1] < differences[0]
        assert bool(turned) == mirrored


def test_whole_people_are_held_back(tmp_path: Path) -> None:
    for number in range(40):
        (tmp_path / f"{number // 2:02}").mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / f"{number // 2:02}" / f"{number}.png")
    pictures = find_pictures([tmp_path])
    learned, held = split(People(pictures, range(40)))
    assert len(held) == 2
    assert not {pictures.folder(k) for k in learned} & {pictures.folder(k) for k in held}
    assert len(learned) == 36
    with pytest.raises(ValueError, match="one person alone"):
        split(People(pictures, range(2)))


def test_an_adapter_of_no_steps_is_the_start_with_the_person_s_photos(
    restorer: Restorer, photos: list[Tensor]
) -> None:
    start = start_of(restorer)
    adapter = train_identity_adapter(restorer, photos, replace(QUICK, steps=0), start=start)
    assert isinstance(adapter, IdentityAdapter)
    assert (adapter.header.start, adapter.header.steps) == (start.fingerprint, 0)
    for site, block in adapter.blocks.items():
        for name, value in block.state_dict().items():
            assert torch.equal(value, start.blocks[site].state_dict()[name])
    torch.testing.assert_close(
        adapter.references.sort(0).values, Photos.of(restorer, photos).latents.sort(0).values
    )
    base = small_restorer()
    keys = {
        run_key(base.fingerprint, photos, QUICK, None, each)
        for each in (None, start, start_of(restorer, 0.2))
    }
    assert len(keys) == 3
    with pytest.raises(ValueError, match="0 steps learn nothing"):
        train_identity_adapter(restorer, photos, replace(QUICK, steps=0))
    with pytest.raises(ValueError, match="steps must be from 1"):
        LoRATraining(steps=0)
    with pytest.raises(ValueError, match="method lora have no start"):
        train_identity_adapter(restorer, photos, LoRATraining(steps=1), start=start)
    with pytest.raises(ValueError, match="learn no γ"):
        train_identity_adapter(restorer, photos, replace(QUICK, gamma=False), start=start)


def test_learning_begins_with_the_start_and_goes_on_from_fewer_steps(
    restorer: Restorer, photos: list[Tensor], tmp_path: Path
) -> None:
    start = start_of(restorer)

    def learned(steps: int, given: AdapterStart | None) -> Any:
        settings = replace(QUICK, steps=steps, lr=1e-9, gamma_lr=1e-9)
        return learn(
            lambda: restorer, restorer.fingerprint, photos, settings, None, tmp_path / "a.safetensors",
            start=given,
        )  # fmt: skip

    none, fresh, found = learned(0, start), learned(2, start), learned(2, start)
    assert none.file != fresh.file == found.file
    assert fresh.adapter.header.start == start.fingerprint
    for site, block in fresh.adapter.blocks.items():
        torch.testing.assert_close(block.gamma, start.blocks[site].gamma, rtol=0, atol=1e-6)
        torch.testing.assert_close(block.attn2.to_v.weight, start.blocks[site].attn2.to_v.weight)
    longer = learned(3, start)
    assert any("went on from the 2 steps" in note for note in longer.notes)
    assert longer.adapter.header.start == start.fingerprint
    plain = learned(2, None)
    assert plain.adapter.header.start == ""
    assert max(block.gamma.abs().max() for block in plain.adapter.blocks.values()) < 1e-6


def test_a_start_is_found_where_it_fits(restorer: Restorer, file: Path) -> None:
    base, start, beside = restorer.fingerprint, start_of(restorer), start_beside(file)
    assert find_start([file], base, QUICK) == (None, [])
    start.save(beside)
    found = find_start(["elsewhere.safetensors", file], base, QUICK)
    assert found.start is not None
    assert found.start.fingerprint == start.fingerprint, "in fp16, too"
    assert "base.start.safetensors" in found.notes[0]
    assert find_start([file], base, LoRATraining()) == (None, [])
    for settings, why in (
        (replace(QUICK, sites=("output_blocks.1.1",)), "its sites are"),
        (replace(QUICK, reference_timestep="same"), "reference timestep is zero"),
        (replace(QUICK, blocks=False), "no γ, or no blocks"),
    ):
        none, [note] = find_start([file], base, settings)
        assert none is None
        assert "left out" in note
        assert why in note
    none, [note] = find_start([file], "0" * 16, QUICK)
    assert "another base" in note
    write_safetensors(beside, {"a": torch.zeros(1)}, {"format": "pfstorer.identity_adapter"})
    with pytest.raises(CheckpointError, match="no start for adapters"):
        find_start([file], base, QUICK)


def test_the_command_begins_with_it_unless_told_not_to(
    restorer: Restorer, file: Path, photos: list[Tensor]
) -> None:
    picture, adapter = file.with_name("photo.png"), file.with_name("ada.safetensors")
    Image.fromarray((photos[1].movedim(0, -1) * 255).byte().numpy()).save(picture)

    def call(*options: str) -> Any:
        return CliRunner().invoke(
            app, ["personalize", str(file), str(adapter), str(picture), "--no-bf16", "--batch", "1", *options]
        )

    assert "0 steps learn nothing" in str(call("--steps", "0").exception)
    start_of(restorer).save(start_beside(file))
    assert "It began from base.start.safetensors" in call("--steps", "0").output
    assert header_of(adapter).start == load_start(start_beside(file)).fingerprint
    assert "It began" not in call("--steps", "1", "--no-start").output
    other = header_of(adapter.with_name("ada_2.safetensors"))
    assert (other.start, other.steps) == ("", 1)
    shown = CliRunner().invoke(app, ["inspect", str(start_beside(file))]).output
    assert "7 steps over 3 people" in shown
