"""What a base restorer is trained by, and where it starts: against hand computations on small networks."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pfstorer_core import load_restorer, save_restorer
from pfstorer_core.models import Autoencoder, UNet
from pfstorer_core.restorers.base import Restorer
from pfstorer_core.restorers.stablesr.cfw import CFWTraining, FusionLoss, Restored, restored, with_fusion
from pfstorer_core.restorers.stablesr.start import TrainableRestorer, is_trained, new_start, open_start
from pfstorer_core.restorers.stablesr.train import BaseTraining, DenoisingLoss, train_base
from pfstorer_core.training.data import Batch, collate
from pfstorer_core.training.degradation import random_degradation
from pfstorer_core.training.loop import LoopSettings
from pfstorer_core.training.pairs import EncodedPairs, LatentPairs, latent_pairs

from .small import AUTOENCODER, HEADER, SIZES, TEXT, small_restorer

ALPHAS = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2, 0)
"""Stable Diffusion's schedule."""
SCALE, CHANNELS, CELLS = HEADER.scale_factor, AUTOENCODER.embed_dim, 8
ONCE = LoopSettings(steps=1, lr=1e-3, batch=2, warmup=0, bf16=False)


def certain(autoencoder: Autoencoder) -> Autoencoder:
    """One whose latents have hardly a deviation, so that a draw is the mode."""
    with torch.no_grad():
        autoencoder.quant_conv.weight[CHANNELS:] = 0  # type: ignore[index, operator]
        autoencoder.quant_conv.bias[CHANNELS:] = -30  # type: ignore[index, operator]
    return autoencoder


@pytest.fixture
def start() -> TrainableRestorer:
    base = small_restorer()
    restorer = Restorer(base.unet, certain(base.autoencoder), base.null_context, HEADER, base.text)
    return TrainableRestorer(restorer, {}, {}, {})


@dataclass
class Call:
    x: Tensor
    t: Tensor
    context: Tensor
    output: Tensor


@contextmanager
def calls(unet: UNet) -> Iterator[list[Call]]:
    """The evaluations of a U-Net."""
    seen: list[Call] = []
    handle = unet.register_forward_hook(
        lambda _, given, output: seen.append(Call(*(each.detach() for each in (*given[:3], output))))
    )
    yield seen
    handle.remove()


@contextmanager
def inputs(module: Any) -> Iterator[list[Tensor]]:
    """What a module is given first."""
    seen: list[Tensor] = []
    handle = module.register_forward_pre_hook(lambda _, given: seen.append(given[0].detach()))
    yield seen
    handle.remove()


def latents(count: int, logvar: float = -30.0, **given: Any) -> list[dict[str, Any]]:
    """Samples of moments whose means are theirs alone."""
    rng = torch.Generator().manual_seed(5)

    def moments() -> Tensor:
        mean = torch.randn(CHANNELS, CELLS, CELLS, generator=rng)
        return torch.cat([mean, torch.full_like(mean, logvar)])

    return [
        {
            "hq": moments(), "lq": moments(), "seed": torch.tensor(100 + k), "broken": [],
            "caption": "a photo of a person", **given,
        }
        for k in range(count)
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["v", "eps"])
def test_the_loss_is_the_error_against_the_target(start: TrainableRestorer, kind: str) -> None:
    """Sample by sample: the network's answer for HQ, noised to a time step of the sample's own, with the LQ
    latent and the caption or without them, against the velocity or the noise."""
    header = replace(HEADER, prediction_type=kind)  # type: ignore[arg-type]
    start.restorer = replace(start.restorer, header=header)
    settings = BaseTraining("all", null_lq=0.5, empty_prompt=0.5)
    objective, seen = DenoisingLoss(start, settings), list[tuple[bool, bool]]()
    assert start.restorer.text is not None
    with torch.no_grad():
        named, empty = (replace_context(start, caption) for caption in ("a photo of a person", ""))
        for sample in latents(10):
            with calls(start.restorer.unet) as called:
                loss = objective(collate([sample]))
            (call,) = called
            hq, lq = (SCALE * sample[key][None, :CHANNELS] for key in ("hq", "lq"))
            signal = ALPHAS[call.t].reshape(-1, 1, 1, 1).float()
            noise = (call.x - signal.sqrt() * hq) / (1 - signal).sqrt()
            assert noise.std() == pytest.approx(1, abs=0.25)
            target = noise if kind == "eps" else signal.sqrt() * noise - (1 - signal).sqrt() * hq
            torch.testing.assert_close(loss, F.mse_loss(call.output, target), rtol=2e-3, atol=0)
            guided, plain = (
                start.restorer.unet(call.x, call.t, call.context, condition=one) for one in (lq, None)
            )
            assert (guided - plain).abs().max() > 1e-3
            is_guided = torch.allclose(call.output, guided, atol=1e-5)
            assert is_guided or torch.allclose(call.output, plain, atol=1e-5)
            is_named = torch.allclose(call.context, named, atol=1e-5)
            assert is_named or torch.allclose(call.context, empty, atol=1e-5)
            seen.append((is_guided, is_named))
    assert set(seen) == {(True, True), (True, False), (False, True), (False, False)}


def replace_context(start: TrainableRestorer, caption: str) -> Tensor:
    from pfstorer_core.models.tokenizer import tokenize

    assert start.restorer.text is not None
    return start.restorer.text(tokenize([caption], start.restorer.text.config.context_length))


def test_a_batch_counts_every_sample_alike(start: TrainableRestorer) -> None:
    objective = DenoisingLoss(start, BaseTraining("all", null_lq=0.3))
    samples = latents(7)
    with torch.no_grad():
        apart = torch.stack([objective(collate([sample])) for sample in samples])
        torch.testing.assert_close(objective(collate(samples)), apart.mean(), rtol=1e-4, atol=0)


@pytest.mark.parametrize(
    ("train", "without_lq", "without_caption"),
    [("sft", (0, 0), (96, 96)), ("unet", (96, 96), (2, 24)), ("all", (5, 30), (30, 66))],
)
def test_shares_are_those_of_what_is_trained(
    start: TrainableRestorer, train: str, without_lq: tuple[int, int], without_caption: tuple[int, int]
) -> None:
    """Of 96 samples: by default SFT alone learns from every LQ picture and no caption."""
    empty = replace_context(start, "").detach()
    objective = DenoisingLoss(start, BaseTraining(train))
    small = [{**s, "hq": s["hq"][:, :4, :4], "lq": s["lq"][:, :4, :4]} for s in latents(96)]
    assert start.restorer.unet.lq_encoder is not None
    with torch.no_grad(), calls(start.restorer.unet) as seen, inputs(start.restorer.unet.lq_encoder) as told:
        objective(collate(small))
    with_lq = sum(len(latent) for latent in told)
    assert without_lq[0] <= 96 - with_lq <= without_lq[1]
    captions = torch.cat([call.context for call in seen])
    silent = sum(torch.allclose(one, empty[0], atol=1e-5) for one in captions)
    assert without_caption[0] <= silent <= without_caption[1]
    steps = torch.cat([call.t for call in seen]).float()
    assert steps.min() < 150
    assert steps.max() > 850
    assert steps.mean() == pytest.approx(500, abs=120)


def test_latents_are_drawn_from_their_distribution(start: TrainableRestorer) -> None:
    """With the deviation that the log-variance says, anew for each sample, and other ones for HQ and LQ."""
    objective = DenoisingLoss(start, BaseTraining("sft"))
    assert start.restorer.unet.lq_encoder is not None
    wide = latents(6, logvar=2 * np.log(3.0))
    for sample in wide:
        sample["lq"][:CHANNELS] = 5.0
    with torch.no_grad(), inputs(start.restorer.unet.lq_encoder) as told:
        objective(collate(wide))
    drawn = told[0] / SCALE - 5.0
    assert drawn.std() == pytest.approx(3.0, rel=0.1)
    assert drawn.mean() == pytest.approx(0, abs=0.4)
    assert not torch.allclose(drawn[0], drawn[1])


@pytest.mark.parametrize("p_hq", [0.0, 1.0])
def test_pictures_are_degraded_and_encoded(start: TrainableRestorer, p_hq: float) -> None:
    settings = BaseTraining("sft", p_hq=p_hq, degradation=random_degradation("light", 32))
    objective = DenoisingLoss(start, settings)
    image = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    sample = {"image": image, "seed": torch.tensor(3), "caption": "", "broken": []}
    assert start.restorer.unet.lq_encoder is not None
    with torch.no_grad(), inputs(start.restorer.unet.lq_encoder) as told:
        objective(collate([sample]))
        good = SCALE * start.restorer.autoencoder.encode(image[None].float() / 127.5 - 1)
    assert torch.allclose(told[0], good, rtol=0, atol=1e-3) == bool(p_hq)


def test_a_sheet_starts_at_the_noised_bad_picture(start: TrainableRestorer) -> None:
    """A plain U-Net, which knows no LQ pictures, starts at noise."""
    one, two = latents(2)
    two = {**two, "seed": one["seed"]}
    for train in ("sft", "unet"):
        objective = DenoisingLoss(start, BaseTraining(train))
        found, sheets = list[Tensor](), list[Tensor]()
        for sample in (one, two):
            with calls(start.restorer.unet) as seen:
                sheets.append(objective.sheet(collate([sample])))
            found.append(seen[0].x)
        apart = SCALE * (one["lq"] - two["lq"])[None, :CHANNELS]
        expected = 0.06826 * apart if train == "sft" else torch.zeros_like(apart)
        torch.testing.assert_close(found[0] - found[1], expected, rtol=0, atol=1e-4)
        side = CELLS * AUTOENCODER.downscale
        with torch.no_grad():
            hq, lq = (
                (start.restorer.autoencoder.decode(one[k][None, :CHANNELS]) + 1) / 2 for k in ("hq", "lq")
            )
        torch.testing.assert_close(sheets[0][..., -side:], hq, rtol=0, atol=1e-4)
        if train == "sft":
            torch.testing.assert_close(sheets[0][..., :side], lq, rtol=0, atol=1e-4)


def test_checkpointing_is_for_the_training_alone(tmp_path: Path, start: TrainableRestorer) -> None:
    blocks: list[Any] = [
        *start.restorer.unet.input_blocks,
        start.restorer.unet.middle_block,
        *start.restorer.unet.output_blocks,
    ]
    counts = [0] * len(blocks)

    def count(_: Any, __: Any, number: int) -> None:
        counts[number] += 1

    for number, block in enumerate(blocks):
        block[0].register_forward_pre_hook(lambda m, given, number=number: count(m, given, number))
    settings = BaseTraining("sft", checkpointing=True, loop=ONCE)
    objective = DenoisingLoss(start, settings)
    objective(collate(latents(2))).backward()
    assert set(counts) == {2}
    train_base(start, Pieces(latents(2)), settings, tmp_path)
    counts[:] = [0] * len(blocks)
    x, t = torch.randn(1, CHANNELS, CELLS, CELLS), torch.tensor([3])
    start.restorer.unet(x, t, start.restorer.null_context, condition=x).sum().backward()
    assert set(counts) == {1}


class Pieces:
    """Samples one after the other, again and again."""

    mix = None
    others = None
    mirrored = True

    def __init__(self, pieces: Sequence[dict[str, Any]], size: int = 32, seed: int = 0) -> None:
        self.pieces, self.size, self.seed = pieces, size, seed

    def __len__(self) -> int:
        return len(self.pieces)

    def __getitem__(self, k: int) -> dict[str, Any]:
        return self.pieces[k % len(self.pieces)]


def test_a_header_tells_every_stage(tmp_path: Path, start: TrainableRestorer) -> None:
    start.restorer = replace(start.restorer, header=replace(HEADER, training={"steps": 3}))
    first = train_base(start, Pieces(latents(2)), BaseTraining("sft", loop=ONCE), tmp_path / "a")
    assert [stage["steps"] for stage in first.training["stages"]] == [3, 1]
    start.restorer = replace(start.restorer, header=first)
    second = train_base(start, Pieces(latents(2)), BaseTraining("all", 0.2, 0.3, loop=ONCE), tmp_path / "b")
    stages = second.training["stages"]
    assert [stage.get("train") for stage in stages] == [None, "sft", "all"]
    assert (stages[1]["null_lq"], stages[1]["empty_prompt"]) == (0.0, 1.0)
    assert (stages[2]["null_lq"], stages[2]["empty_prompt"], stages[2]["lr"]) == (0.2, 0.3, 1e-3)
    assert replace(second, training={}) == replace(HEADER, training={})


def images(count: int, size: int = 32) -> list[dict[str, Any]]:
    rng = torch.Generator().manual_seed(1)
    return [
        {
            "image": torch.randint(0, 256, (3, size, size), dtype=torch.uint8, generator=rng),
            "seed": torch.tensor(7), "caption": f"number {k}", "broken": [],
        }
        for k in range(count)
    ]  # fmt: skip


def new(train: str = "unet", seed: int = 0, **changes: Any) -> TrainableRestorer:
    torch.manual_seed(seed + 100)  # which is not to matter
    autoencoder = small_restorer().autoencoder
    given: dict[str, Any] = {"config": SIZES, "text": TEXT, "prediction_type": "v", **changes}
    return new_start(autoencoder, Pieces(images(3)), train=train, seed=seed, **given)  # type: ignore[arg-type]


def test_a_new_start_begins_idle() -> None:
    """Latent diffusion's start: it answers 0; behind that, residual branches do nothing yet, and SFT leaves
    everything as it is."""
    x, other = torch.randn(2, 1, CHANNELS, CELLS, CELLS, generator=torch.Generator().manual_seed(0))
    t, late = torch.tensor([10]), torch.tensor([900])
    for train in ("unet", "all"):
        start = new(train)
        context = torch.randn(2, 1, 3, SIZES.context_dim)
        with torch.no_grad():
            assert not start.restorer.unet(x, t, context[0], condition=other).any()
            last: Any = start.restorer.unet.out[-1]
            nn.init.normal_(last.weight)
            found = start.restorer.unet(x, t, context[0])
            assert found.std() > 0.01
            if train == "unet":
                assert torch.equal(start.restorer.unet(x, late, context[0]), found), "no residual block acts"
            assert torch.equal(start.restorer.unet(x, t, context[1]), found), "no transformer acts"
            guided = start.restorer.unet(x, t, context[0], condition=other)
            again = start.restorer.unet(x, t, context[0], condition=x)
            assert torch.equal(guided, again), "LQ pictures change nothing yet"


def test_a_new_start_is_its_seed_s() -> None:
    one, same, other = (new(seed=seed).restorer.unet.state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(value, same[key]) for key, value in one.items())
    assert not all(torch.equal(value, other[key]) for key, value in one.items())


def test_a_new_header_says_what_the_networks_are() -> None:
    config = replace(SIZES, num_head_channels=16, norm_groups=8)
    assert config.lq_encoder is not None
    config = replace(config, lq_encoder=replace(config.lq_encoder, num_heads=2, norm_groups=8))
    start = new("all", config=config)
    header = start.restorer.header
    assert (header.prediction_type, header.image_size) == ("v", 32)
    assert (header.num_head_channels, header.lq_num_heads, header.norm_groups) == (16, 2, 8)
    pictures = torch.stack([sample["image"] for sample in images(3)]).float() / 255
    with torch.no_grad():
        latent = header.scale_factor * start.restorer.autoencoder.encode(2 * pictures - 1)
    assert latent.std() == pytest.approx(1, rel=1e-3), "the U-Net sees latents of deviation 1"
    small = F.avg_pool2d(2 * pictures - 1, AUTOENCODER.downscale)
    points = torch.cat([latent, torch.ones_like(latent[:, :1])], 1).movedim(1, -1).reshape(-1, CHANNELS + 1)
    expected = torch.linalg.lstsq(points, small.movedim(1, -1).reshape(-1, 3)).solution
    torch.testing.assert_close(torch.tensor(header.preview), expected, rtol=1e-2, atol=1e-3)


def test_a_new_start_trains_what_is_named() -> None:
    for train in ("unet", "all"):
        start = new(train)
        for key, parameter in start.restorer.unet.named_parameters():
            own = ".spade." in key or key.startswith("lq_encoder.")
            assert parameter.requires_grad == (train == "all" or not own), key
            assert is_trained("sft", key) == own
        assert start.restorer.text is not None
        idle = [key for key, p in start.restorer.text.named_parameters() if not p.requires_grad]
        assert idle
        assert all(f"resblocks.{TEXT.layers - 1}." in key for key in idle), "its last block is never read"
        words, places = (
            start.restorer.text.model.token_embedding.weight,
            start.restorer.text.model.positional_embedding,
        )
        assert words.std().item() == pytest.approx(0.02, rel=0.05)
        assert places.std().item() == pytest.approx(0.01, rel=0.2)


@pytest.mark.parametrize("train", ["sft", "unet", "all"])
def test_what_is_trained_of_a_file_and_what_is_kept(tmp_path: Path, train: str) -> None:
    """Nothing else has gradients, and everything else is written as it was."""
    path, written = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    save_restorer(small_restorer(), path, torch.float32)
    start = open_start(path, train=train, captions=True)
    assert start.restorer.text is not None
    objective = DenoisingLoss(start, BaseTraining(train))
    learning = {name for name, p in objective.named_parameters() if p.requires_grad}
    expected = {f"unet.{key}" for key, _ in start.restorer.unet.named_parameters() if is_trained(train, key)}
    assert learning == expected, "no text tower, and no autoencoder"
    networks: list[nn.Module] = [start.restorer.unet, start.restorer.autoencoder, start.restorer.text]
    for network in networks:
        for parameter in network.parameters():
            parameter.data += 1
    start.write(written, start.restorer.header, torch.float32)
    before, after = load_restorer(path, text=True), load_restorer(written, text=True)
    for key, value in before.unet.state_dict().items():
        found = after.unet.state_dict()[key]
        assert torch.equal(found, value + 1 if is_trained(train, key) else value), key
    for name in ("autoencoder", "text"):
        one, two = (getattr(each, name).state_dict() for each in (before, after))
        assert all(torch.equal(value, two[key]) for key, value in one.items())
    assert torch.equal(after.null_context, before.null_context)


def test_crops_of_latents_are_of_one_place() -> None:
    """Of HQ and LQ, and of the caption's picture; every third step sees whole ones."""
    hq = torch.arange(5 * 8 * 12 * 12, dtype=torch.float32).reshape(5, 8, 12, 12) / 64
    pairs = LatentPairs(hq, hq + 1000, [f"number {k}" for k in range(5)], 2, crop=4, whole_every=3)
    found = [pairs[k] for k in range(12)]
    assert [sample["hq"].shape[-1] for sample in found] == [12, 12, 4, 4, 4, 4] * 2
    for sample in found:
        assert sample["hq"].shape == sample["lq"].shape
        torch.testing.assert_close(sample["lq"] - sample["hq"], torch.full_like(sample["hq"], 1000.0))
        number = int(sample["hq"][0, 0, 0] * 64) // (8 * 12 * 12)
        assert sample["caption"] == f"number {number}"
    places = {float(sample["hq"][0, 0, 0]) for sample in found if sample["hq"].shape[-1] == 4}
    assert len(places) > 4
    assert len({int(sample["seed"]) for sample in found}) == 12
    other = replace(pairs, seed=1)
    assert [float(other[k]["hq"][0, 0, 0]) for k in range(12)] != [float(s["hq"][0, 0, 0]) for s in found]
    assert {replace(pairs, crop=0)[k]["hq"].shape[-1] for k in range(12)} == {12}


def test_pairs_are_moments_of_good_and_bad_pictures(tmp_path: Path) -> None:
    autoencoder, crops = small_restorer().autoencoder, Pieces(images(2))
    path = tmp_path / "pairs.safetensors"

    def made(name: str) -> EncodedPairs:
        return latent_pairs(autoencoder, crops, 2, random_degradation(name, 32), 0.0, path)  # type: ignore[arg-type]

    hq, lq, captions, *_ = made("light")
    assert captions == ["number 0", "number 1"]
    pictures = torch.stack([sample["image"] for sample in images(2)]).float() / 255
    with torch.no_grad():
        expected = torch.cat(autoencoder.moments(2 * pictures - 1), 1)
    torch.testing.assert_close(hq.float(), expected, rtol=0, atol=0.01)
    assert (lq.float() - expected).abs().mean() > 0.01
    worse = made("heavy")[1]
    assert not torch.equal(worse, lq), "other degradations are other pairs"


def fusing() -> Autoencoder:
    torch.manual_seed(0)
    return Autoencoder(AUTOENCODER).eval()


def batch_of_pictures() -> Batch:
    rng = torch.Generator().manual_seed(3)
    hq, lq = torch.randint(0, 256, (2, 2, 3, 32, 32), dtype=torch.uint8, generator=rng)
    return {"hq": hq, "lq": lq, "latent": torch.randn(2, CHANNELS, CELLS, CELLS, generator=rng).half()}


def test_fusion_is_learned_on_restored_latents_at_full_fidelity() -> None:
    autoencoder, batch = fusing(), batch_of_pictures()
    seen: list[tuple[Tensor, Tensor]] = []

    def perceptual(output: Tensor, hq: Tensor) -> Tensor:
        seen.append((output, hq))
        return torch.tensor([1.0, 2.0])

    plain, more = FusionLoss(autoencoder), FusionLoss(autoencoder, perceptual)
    loss = plain(batch)
    torch.testing.assert_close(more(batch), loss + 1.5)
    output, hq = seen[0]
    torch.testing.assert_close(hq, batch["hq"].float() / 127.5 - 1)
    with torch.no_grad():
        lq = batch["lq"].float() / 127.5 - 1
        decoded, other, unguided = (
            autoencoder.decode(batch["latent"].float(), *given) for given in ((lq, 1.0), (hq, 1.0), (lq, 0.5))
        )
    torch.testing.assert_close(output.detach(), decoded)
    assert not torch.allclose(decoded, other, atol=1e-3)
    assert not torch.allclose(decoded, unguided, atol=1e-3)
    trained = {name for name, p in plain.named_parameters() if p.requires_grad}
    assert trained
    assert all(".fusion_layer_" in name for name in trained)


def test_fusion_layers_are_added_to_what_is_there() -> None:
    """Whatever else the autoencoder has, fusion layers of its own among it, stays."""
    torch.manual_seed(2)
    own = Autoencoder(AUTOENCODER)
    again = with_fusion(own)
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in own.state_dict().items())
    plain = Autoencoder(replace(AUTOENCODER, cfw=False))
    one, same, other = (with_fusion(plain, seed).state_dict() for seed in (0, 0, 1))
    for key, value in plain.state_dict().items():
        assert torch.equal(one[key], value)
    fresh = [key for key in one if ".fusion_layer_" in key and key.endswith("weight") and one[key].ndim > 1]
    assert all(torch.equal(one[key], same[key]) for key in fresh)
    assert not any(torch.equal(one[key], other[key]) for key in fresh)


def test_what_fusion_learns_on_is_restored(tmp_path: Path) -> None:
    """From the noised latent of the bad picture, which the network is told; kept unscaled."""
    restorer = small_restorer()
    settings = CFWTraining(
        sampling_steps=1, pictures=2, p_hq=1.0, degradation=random_degradation("heavy", 32)
    )
    assert restorer.unet.lq_encoder is not None
    crops: Any = Pieces(images(2))
    with calls(restorer.unet) as seen, inputs(restorer.unet.lq_encoder) as told:
        made = restored(restorer, crops, settings, tmp_path / "r.safetensors")
    assert [int(call.t) for call in seen] == [999, 999]
    lq = made.tensors["lq"].float() / 255
    with torch.no_grad():
        latent = SCALE * restorer.autoencoder.encode(2 * lq - 1)
    torch.testing.assert_close(torch.cat(told), latent, rtol=0, atol=0.05)
    torch.testing.assert_close(seen[0].x - seen[1].x, 0.06826 * (told[0] - told[1]), rtol=0, atol=1e-4)
    signal = float(ALPHAS[-1])
    for call, found in zip(seen, made.tensors["latent"], strict=True):
        x0 = signal**0.5 * call.x - (1 - signal) ** 0.5 * call.output
        torch.testing.assert_close(found.float(), x0[0] / SCALE, rtol=2e-3, atol=2e-3)
    more = replace(settings, sampling_steps=3)
    with calls(restorer.unet) as seen:
        restored(restorer, crops, more, tmp_path / "r.safetensors")
    assert [int(call.t) for call in seen] == [999, 500, 0] * 2


def test_restored_pictures_come_in_any_order() -> None:
    made = Restored({"hq": torch.arange(50), "lq": torch.arange(50), "latent": torch.arange(50)})
    seen = [int(made[k]["hq"]) for k in range(40)]
    assert len(set(seen)) > 15
    assert all(made[k]["hq"] == made[k]["lq"] == made[k]["latent"] for k in range(40))
    assert [int(replace(made, seed=1)[k]["hq"]) for k in range(40)] != seen
    assert set(made.only([3, 4]).tensors["hq"].tolist()) == {3, 4}
