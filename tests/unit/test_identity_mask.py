"""Learned masks of identity guidance: their shapes, what they are trained by, and their files."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from pfstorer_core import CheckpointError, Restorer
from pfstorer_core.checkpoints.reading import read_checkpoint
from pfstorer_core.cli.masking import run_mask
from pfstorer_core.cli.settings import Changes, Data
from pfstorer_core.diffusion.identity_guidance import IdentitySettings
from pfstorer_core.models.iresnet import IResNet, IResNetConfig
from pfstorer_core.recognition import Recognizer, cosines
from pfstorer_core.restorers.clr_face.mask import as_picture, check_mask, load_mask, save_mask
from pfstorer_core.restorers.clr_face.train_mask import MaskLoss, MaskTraining, new_mask
from pfstorer_core.restorers.diffbir.cleaner import Cleaner
from pfstorer_core.restorers.files import save_restorer
from pfstorer_core.training.data import Batch, collate, generators, normal

from .small import small_diffbir, small_prior, small_restorer
from .test_base_loss import images
from .test_cleaner_training import pictures  # noqa: F401 - a fixture

KINDS = ["predicted", "global"]


@pytest.fixture(scope="module")
def recognizer() -> Recognizer:
    torch.manual_seed(0)
    return Recognizer(IResNet(IResNetConfig(4, (4, 4, 8, 8), (1, 1, 1, 1), 10)).eval(), name="small")


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_mask_admits_a_tenth(kind: str) -> None:
    mask = new_mask(small_restorer(), kind, 32)
    lq, cleaned = torch.randn(2, 2, 4, 8, 8).unbind()
    admitted = mask(lq, cleaned)
    assert admitted.shape[1:] == lq.shape[1:]
    assert 0.05 < admitted.mean() < 0.25
    assert mask(lq[..., :6], cleaned[..., :6]).shape[-2:] == (8, 6)
    if kind == "predicted":
        assert not torch.allclose(admitted, mask(lq, lq)), "it sees the cleaned picture, too"
    assert as_picture(admitted, (32, 24)).shape[1:] == (3, 32, 24)


def by_hand(loss: MaskLoss, batch: Batch, recognizer: Recognizer) -> tuple[Tensor, Tensor, Tensor]:
    """The guided picture of a batch, the true one and the mask, step by step from the paper's words."""
    restorer, settings = loss.restorer, loss.settings
    rngs = generators(batch)
    t = torch.tensor([int(rng.integers(0, 600)) for rng in rngs])
    hq, lq = settings.degradation(batch["image"].float() / 255, rngs, 0.0)
    scale = restorer.header.scale_factor
    with torch.no_grad():
        z, z_lq = (scale * restorer.autoencoder.encode(2 * image - 1) for image in (hq, lq))
        begun = z if restorer.header.start == "noise" else z_lq
        x = restorer.noised(begun, t, normal(z, rngs))
        eps = restorer.denoise(x, t, restorer.condition(z_lq))
        x0 = restorer.schedule.predict_x0(x, t, eps, restorer.header.prediction_type)
        wanted = recognizer.embed(2 * lq - 1)
        if settings.references:
            each = [F.normalize(recognizer.embed(2 * p / 255 - 1), dim=1) for p in batch["reference"].float()]
            wanted = torch.stack([F.normalize(units.sum(0), dim=0) for units in each])
    row = x0.clone().requires_grad_()
    likeness = cosines(recognizer.embed(restorer.autoencoder.decode(row / scale)), wanted)
    (gradient,) = torch.autograd.grad((1 - likeness).sum(), row)
    unit = gradient / gradient.square().mean((1, 2, 3), keepdim=True).sqrt()
    length = restorer.schedule.sqrt_alphas_cumprod[t] * z_lq.std((1, 2, 3)) * settings.guidance.strength
    mask = loss.mask(z_lq, z_lq)
    moved = x0 - length.float()[:, None, None, None] * mask * unit
    return restorer.autoencoder.decode(moved / scale), 2 * hq - 1, mask


@pytest.mark.parametrize("photos", [0, 2])
@pytest.mark.parametrize("start", ["lq", "noise"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_is_of_one_guided_step(kind: str, start: str, photos: int, recognizer: Recognizer) -> None:
    """From the picture that sampling starts from, towards it or photos of the person."""
    restorer = small_restorer()
    restorer = replace(restorer, header=replace(restorer.header, start=start, start_at=1.0))
    settings = MaskTraining(kind, 0.7, 0.3, 0.2, photos, IdentitySettings(0.1, clip=1e9))
    loss = MaskLoss(new_mask(restorer, kind, 32), restorer, recognizer, settings)
    batch = collate(images(2))
    generator = torch.Generator().manual_seed(0)
    batch["reference"] = torch.randint(0, 256, (2, 2, 3, 32, 32), dtype=torch.uint8, generator=generator)
    found = loss(batch)
    picture, truth, mask = by_hand(loss, batch, recognizer)
    identity = (1 - cosines(recognizer.embed(picture), recognizer.embed(truth))).mean()
    variation = mask.diff(dim=-2).abs().mean() + mask.diff(dim=-1).abs().mean()
    expected = identity + 0.7 * (picture - truth).abs().mean() + 0.3 * mask.mean() + 0.2 * variation
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    found.backward()
    trained = {name for name, p in loss.named_parameters() if p.requires_grad}
    assert trained == {f"mask.{name}" for name, _ in loss.mask.named_parameters()}
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in loss.mask.parameters())
    figures = loss.figures(batch)
    assert figures["mask"] == pytest.approx(mask.mean().item(), abs=0.02)
    assert figures["open"] == 0
    assert loss.sheet(batch).shape == (1, 3, 2 * 32, 4 * 32)


@pytest.mark.parametrize(
    ("restorer", "halved"),
    [
        (small_restorer(), (True, True)),
        (small_diffbir(), (True, True)),
        (small_prior(), (False, True)),
        (small_prior(start="noise", start_at=1.0), (False, False)),
    ],
    ids=["StableSR", "DiffBIR", "CLR-Face", "ReF-LDM"],
)
def test_it_sees_what_it_will_see_while_sampling(
    restorer: Restorer, halved: tuple[bool, bool], recognizer: Recognizer
) -> None:
    """The latents of the picture that the restorer sees, and of the one that sampling starts from; a cleaner
    halves pictures here."""
    cleaner = Cleaner(lambda picture: picture / 2, 1, torch.device("cpu"), torch.float32)
    cleaning = replace(restorer, cleaner=cleaner)
    channels = restorer.autoencoder.config.embed_dim
    loss = MaskLoss(new_mask(restorer, "predicted", 32), cleaning, recognizer, MaskTraining())
    seen, batch = list[tuple[Tensor, ...]](), collate(images(2))
    loss.mask.register_forward_pre_hook(lambda _, latents: seen.append(latents))
    loss.figures(batch)
    _, lq = loss.settings.degradation(batch["image"].float() / 255, generators(batch), 0.0)
    for latents, half in zip(seen[0], halved, strict=True):
        assert latents.shape[1] == channels
        torch.testing.assert_close(latents, restorer.encode(lq / 2 if half else lq))


@pytest.mark.parametrize("kind", KINDS)
def test_from_pictures_to_a_file(
    kind: str,
    recognizer: Recognizer,
    pictures: Path,  # noqa: F811 - the fixture
    tmp_path: Path,
) -> None:
    save_restorer(small_restorer(), tmp_path / "restorer.safetensors", torch.float32)
    save_file(recognizer.network.state_dict(), tmp_path / "recognizer.safetensors")
    short = Changes(
        steps=3,
        lr={"global": 2.0, "predicted": 0.2}[kind],
        batch=2,
        save_every=2,
        validate_every=3,
        bf16=False,
    )
    given = (tmp_path / "restorer.safetensors", tmp_path / "recognizer.safetensors", Data((pictures,), 32))
    run_mask(tmp_path / "run", tmp_path / "mask.safetensors", *given, short, kind=kind)
    mask = load_mask(tmp_path / "mask.safetensors")
    new = new_mask(small_restorer(), kind, 32)
    assert mask.config == new.config
    moved = [(a - b).abs().max() for a, b in zip(mask.parameters(), new.parameters(), strict=True)]
    assert max(moved) > 0
    assert "3,mask,0." in (tmp_path / "run" / "mask.held.csv").read_text()
    check_mask(mask, 4)
    with pytest.raises(ValueError, match="latents of 4 channels, this restorer's have 3"):
        check_mask(mask, 3)


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="No mask of the kind 'oval'; choose one of predicted, global"):
        MaskTraining("oval")
    with pytest.raises(ValueError, match="choose a multiple of 4"):
        new_mask(small_restorer(), "global", 30)
    path, mask = tmp_path / "mask.safetensors", new_mask(small_restorer(), "predicted", 32)
    save_file(mask.state_dict(), path)
    with pytest.raises(CheckpointError, match="holds no mask of identity guidance"):
        load_mask(path)
    save_mask(mask, path, {})
    tensors, metadata = read_checkpoint(path)
    save_file({key: tensors[key] for key in tensors if "layers.4" not in key}, path, dict(metadata))
    with pytest.raises(CheckpointError, match=r"no complete mask of identity guidance: layers\.4\.weight"):
        load_mask(path)
