"""A prior that learns to look at other photos of the same person."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from pfstorer_core import load_restorer, save_restorer
from pfstorer_core.cli.priors import PriorRun, run_prior
from pfstorer_core.cli.settings import Changes, Data
from pfstorer_core.models import Autoencoder
from pfstorer_core.personalization.reference_attention.references import References, ReferenceSettings
from pfstorer_core.restorers.changes import evaluated
from pfstorer_core.restorers.clr_face.train import prior_training
from pfstorer_core.restorers.registry import note_of
from pfstorer_core.restorers.stablesr.train import BaseTraining, DenoisingLoss
from pfstorer_core.restorers.trainable import TrainableRestorer
from pfstorer_core.training.data import Crops, find_pictures
from pfstorer_core.training.pairs import CERTAIN, LatentPairs
from pfstorer_core.training.people import People

from .small import PLAIN, VQ, small_prior, write

SHORT = Changes(steps=2, lr=1e-2, batch=2, save_every=2, validate_every=2, bf16=False)


@pytest.fixture
def people(tmp_path: Path) -> Path:
    """Two persons, three photos each, of one grey each; all are of other greys."""
    for number in range(6):
        folder = tmp_path / "people" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 40), (40 * number + 5,) * 3).save(folder / f"{number}.png")
    return tmp_path / "people"


def latents(seed: int, *shape: int) -> Tensor:
    drawn = torch.randn(*shape, 8, 8, generator=torch.Generator().manual_seed(seed))
    return torch.cat([drawn, torch.full_like(drawn, CERTAIN)], dim=-3)


def batch(photos: int = 2) -> dict[str, Any]:
    return {
        "hq": latents(0, 3, 4),
        "lq": latents(1, 3, 4),
        "reference": latents(2, 3, photos, 4),
        "seed": torch.tensor([4, 5, 6]),
        "caption": [""] * 3,
    }


def loss_of(no_reference: float, given: dict[str, Any], seen: list[Tensor] | None = None) -> DenoisingLoss:
    restorer = small_prior(prediction_type="v")
    settings = replace(prior_training(PLAIN, 0.0), references=2, no_reference=no_reference)
    objective = DenoisingLoss(TrainableRestorer(restorer, {}, {}, {}), settings)
    objective.unet.requires_grad_()
    loss = objective(given)
    loss.backward()
    if seen is not None:
        seen.append(loss.detach())
    return objective


def test_each_row_looks_at_its_own_photos_as_reference_attention_does() -> None:
    found, given, inputs = list[Tensor](), batch(), list[tuple[Tensor, ...]]()
    restorer = small_prior(prediction_type="v")
    noted = DenoisingLoss(
        TrainableRestorer(restorer, {}, {}, {}),
        replace(prior_training(PLAIN, 0.0), references=2, no_reference=1.0),
    )
    noted.unet.register_forward_pre_hook(lambda _, args: inputs.append(args))
    alone = noted(given).detach()
    loss_of(0.0, given, found)
    reading, (x, t, *_) = inputs
    assert len(reading[0]) == 6, "all photos are read at once"
    hq, lq, photos = (noted._mode(given[name].flatten(0, -4)) for name in ("hq", "lq", "reference"))
    photos = photos.unflatten(0, (3, 2))
    rows = []
    for row in range(3):
        settings = ReferenceSettings().suited(0, "")
        references = References(photos[row], None, "", settings)
        changes = references.bind(restorer.unet, restorer.schedule).prepare(0)
        with torch.no_grad():
            one = slice(row, row + 1)
            rows.append(restorer.denoise(x[one], t[one], restorer.condition(lq[one]), changes=changes))
    noise = (x - restorer.schedule.q_sample(hq, t, torch.zeros_like(hq))) / (
        restorer.schedule.sqrt_one_minus_alphas_cumprod[t].float()[:, None, None, None]
    )
    expected = F.mse_loss(torch.cat(rows), restorer.target(hq, t, noise))
    torch.testing.assert_close(found[0], expected, rtol=1e-3, atol=1e-4)
    assert abs(float(found[0] - alone)) > 1e-3, "the test is blind"
    with torch.no_grad():
        plain = restorer.denoise(x, t, restorer.condition(lq))
    torch.testing.assert_close(alone, F.mse_loss(plain, restorer.target(hq, t, noise)), rtol=1e-3, atol=1e-4)


def test_it_learns_by_what_it_reads_too() -> None:
    """Gradients of photos that some rows see reach the layers that read them: they are other ones."""
    given = batch()
    zeros = {**given, "reference": 0 * given["reference"]}
    name = "middle_block.1.qkv.weight"
    shown, nothing = (loss_of(0.0, each).unet.get_parameter(name).grad for each in (given, zeros))
    assert shown is not None
    assert nothing is not None
    assert not torch.allclose(shown, nothing, rtol=1e-2)
    for each in (0.0, 1.0):
        recomputed = replace(prior_training(PLAIN, 0.0), references=2, no_reference=each, checkpointing=True)
        restorer = small_prior(prediction_type="v")
        objective = DenoisingLoss(TrainableRestorer(restorer, {}, {}, {}), recomputed)
        objective.unet.requires_grad_()
        objective(given).backward()
        expected = loss_of(each, given).unet
        for key, parameter in objective.unet.named_parameters():
            torch.testing.assert_close(parameter.grad, expected.get_parameter(key).grad, rtol=1e-3, atol=1e-5)


def test_photos_are_other_pictures_of_the_same_folder(people: Path) -> None:
    pictures = find_pictures([people])
    who = People(pictures, range(6))
    crops = Crops(pictures, range(6), 32, others=lambda index, *, rng: who.others(index, 3, rng))
    for k in range(12):
        sample = crops[k]
        own, shown = (int(tone) // 40 for tone in (sample["image"][0, 0, 0], 0)), sample["reference"]
        number = next(own)
        assert shown.shape == (3, 3, 32, 32)
        numbers = [int(tone) // 40 for tone in shown[:, 0, 0, 0]]
        assert {each % 2 for each in numbers} == {number % 2}
        assert number not in numbers
        assert len(set(numbers[:2])) == 2, "each once before any comes again"
        assert Path(sample["person"]).name == "ab"[number % 2]
    with pytest.raises(ValueError, match=r"1 of 2 folders hold one picture to train on, such as .*a:"):
        People(pictures, [0, 3, 4, 5])


def test_pairs_know_whom_they_show() -> None:
    hq = torch.arange(5.0)[:, None, None, None].expand(5, 8, 4, 4)
    pairs = LatentPairs(hq, hq, [""] * 5, 1, people=["a", "b", "a", "c", "b"], references=1)
    for k in range(20):
        sample = pairs[k]
        known = {0: 2, 2: 0, 1: 4, 4: 1}
        assert float(sample["reference"][0, 0, 0, 0]) == known[int(sample["hq"][0, 0, 0])]
    with pytest.raises(ValueError, match="no two of the same person"):
        LatentPairs(hq, hq, [""] * 5, 1, people=[*"abcde"], references=1)
    assert "reference" not in LatentPairs(hq, hq, [""] * 5, 1)[0]


@pytest.mark.parametrize("pairs", [0, 6])
def test_from_folders_of_people_to_a_restorer_that_looks(tmp_path: Path, people: Path, pairs: int) -> None:
    torch.manual_seed(0)
    stage = write(tmp_path / "vqgan.ckpt", {**Autoencoder(VQ).state_dict(), "loss.a": torch.ones(1)})
    run = PriorRun(first_stage=stage, data=Data([people], 32), loop=SHORT, references=2, pairs=pairs)
    run_prior(tmp_path / "run", tmp_path / "out.safetensors", run)
    restorer = load_restorer(tmp_path / "out.safetensors")
    record = restorer.header.training["stages"][-1]
    assert (record["references"], record["no_reference"]) == (2, 0.2)
    seen = References.of(restorer, [torch.rand(3, 40, 40)] * 2, settings=ReferenceSettings(cfg=1.5))
    assert (seen.settings.side_by_side, seen.settings.zeros) == (False, False)
    restorer.unet.eval()
    x, t, condition = (
        torch.randn(1, 4, 8, 8),
        torch.tensor([300]),
        restorer.condition(torch.randn(1, 4, 8, 8)),
    )
    changes = seen.bind(restorer.unet, restorer.schedule).prepare(300)
    with torch.no_grad():
        led = evaluated(
            lambda each: restorer.denoise(x, t, condition, changes=each), [changes], lambda *c: c[0]
        )
        shown, plain = restorer.denoise(x, t, condition, changes=changes), restorer.denoise(x, t, condition)
    torch.testing.assert_close(led, plain + 1.5 * (shown - plain), rtol=0, atol=1e-5)


def test_what_does_not_go_together_is_said(tmp_path: Path, people: Path) -> None:
    pictures = find_pictures([people])
    with pytest.raises(ValueError, match="either --mix or --references"):
        Data([people], 32, mix=0.5).crops(pictures, 0, 32, references=1)
    with pytest.raises(ValueError, match="2 references: 0 or more for a prior"):
        BaseTraining("sft", references=2)
    with pytest.raises(ValueError, match="no_reference must be from 0 to 1"):
        replace(prior_training(PLAIN), no_reference=1.5)
    assert np.isfinite(Crops(pictures, range(6), 32)[0]["image"].numpy()).all()


def test_what_began_as_ref_ldm_s_weights_is_read_as_it_was_trained(tmp_path: Path, people: Path) -> None:
    """One by one here; without photos to look at it stays what it was."""
    save_restorer(small_prior(variant="refldm", start="noise", start_at=1.0), tmp_path / "refldm.safetensors")
    for photos, variant in ((1, "from_refldm"), (0, "refldm")):
        run = PriorRun(
            tmp_path / "refldm.safetensors", data=Data([people], 32), loop=SHORT, references=photos
        )
        run_prior(tmp_path / variant, tmp_path / "out.safetensors", run)
        header = load_restorer(tmp_path / "out.safetensors").header
        assert header.variant == variant
        assert "non-commercial research" in note_of(header)
        assert ReferenceSettings().suited(0, header.variant).side_by_side == (not photos)
