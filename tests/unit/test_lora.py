"""LoRAs: low-rank changes, the layouts of files, and how one is learned."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor
from typer.testing import CliRunner

import pfstorer_core as pf
from pfstorer_core import Restorer
from pfstorer_core.checkpoints.errors import CheckpointError
from pfstorer_core.cli import app
from pfstorer_core.imaging.pictures import write_picture
from pfstorer_core.models import Backend, UNet, UNetConfig
from pfstorer_core.personalization.folder import find_path
from pfstorer_core.personalization.identity import Identity, each_in_its_area
from pfstorer_core.personalization.lora.adapter import LoRAAdapter, LoRAHeader, load
from pfstorer_core.personalization.lora.files import is_lora, read_layers
from pfstorer_core.personalization.lora.layers import flat, known_names
from pfstorer_core.personalization.lora.train import LoRALoss, LoRATraining, trained_layers
from pfstorer_core.personalization.photos import Pairs, Photos
from pfstorer_core.personalization.registry import load_identity_adapter
from pfstorer_core.personalization.training import settings_of, train_identity_adapter
from pfstorer_core.personalization.weights import LowRank, changeable, factor_at, feature_scale
from pfstorer_core.restorers.changes import together
from pfstorer_core.restorers.files import save_restorer
from pfstorer_core.training.data import collate, generators, normal
from pfstorer_core.training.degradation import random_degradation

LINEAR = "output_blocks.3.1.transformer_blocks.0.attn2.to_k"
OUT = "input_blocks.3.1.transformer_blocks.0.attn1.to_out.0"
CONV = "input_blocks.1.0.in_layers.2"
DIFFUSERS = {
    LINEAR: "up_blocks.1.attentions.1.transformer_blocks.0.attn2.to_k",
    OUT: "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_out.0",
    CONV: "down_blocks.0.resnets.0.conv1",
}
"""Of the small restorer's U-Net."""

QUICK = LoRATraining(steps=3, batch=2, lr=1e-2, pool=4, bf16=False, preview_every=0)


@pytest.fixture(scope="module")
def low(restorer: Restorer) -> dict[str, LowRank]:
    """Of three layers, large enough to be seen."""
    generator = torch.Generator().manual_seed(1)
    found = {}
    for layer in (LINEAR, OUT, CONV):
        weight = changeable(restorer.unet)[layer]
        up = torch.randn(len(weight), 3, *[1] * (weight.ndim - 2), generator=generator)
        down = torch.randn(3, *weight.shape[1:], generator=generator)
        found[layer] = LowRank(up, down, 1.5)
    return found


@pytest.fixture(scope="module")
def adapter(restorer: Restorer, low: dict[str, LowRank]) -> LoRAAdapter:
    header = LoRAHeader(base=restorer.fingerprint, prediction_type="v")
    return LoRAAdapter(header, {flat(layer): change for layer, change in low.items()})


@pytest.fixture(scope="module")
def person() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(3, side, side + 8, generator=generator) for side in (40, 56)]


@pytest.fixture
def lq() -> Tensor:
    return torch.rand(1, 3, 12, 12, generator=torch.Generator().manual_seed(2))


def restored(restorer: Restorer, lq: Tensor, *identities: Identity) -> Tensor:
    return pf.restore(restorer, lq, upscale=4, steps=2, identities=identities, color_fix="none")


def test_a_change_is_what_two_layers_in_a_row_do(low: dict[str, LowRank]) -> None:
    x, change = torch.randn(2, low[LINEAR].down.shape[1]), low[LINEAR]
    expected = F.linear(F.linear(x, change.down), change.up) * 1.5 / 3
    torch.testing.assert_close(F.linear(x, change.delta(torch.empty(64, 64))), expected)
    conv, picture = low[CONV], torch.randn(1, 32, 5, 6)
    expected = F.conv2d(F.conv2d(picture, conv.down, padding=1), conv.up) * 1.5 / 3
    delta = conv.delta(torch.empty(32, 32, 3, 3))
    torch.testing.assert_close(F.conv2d(picture, delta, padding=1), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(conv.scaled(0.5).delta(delta), delta / 2)
    assert conv.delta(delta.bfloat16()).dtype == torch.bfloat16


@torch.no_grad()
def test_it_is_the_restorer_with_other_weights(
    restorer: Restorer, adapter: LoRAAdapter, low: dict[str, LowRank], lq: Tensor
) -> None:
    before = {key: value.clone() for key, value in restorer.unet.state_dict().items()}
    other = replace(restorer, unet=deepcopy(restorer.unet))
    for layer, change in low.items():
        weight = changeable(other.unet)[layer]
        weight += 0.7 * change.delta(weight)
    found, expected, base = (
        restored(restorer, lq, Identity(adapter, 0.7)), restored(other, lq), restored(restorer, lq)
    )  # fmt: skip
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert (found - base).abs().max() > 0.01, "it changes nothing: the test is blind"
    assert all(torch.equal(value, before[key]) for key, value in restorer.unet.state_dict().items())


def test_scales_of_stable_diffusion() -> None:
    unet = UNet(UNetConfig(), Backend(device="meta"))
    scales = {layer: feature_scale(unet.config, layer) for layer in changeable(unet)}
    expected = {
        "input_blocks.0.0": 1, "input_blocks.2.1.proj_in": 1, "input_blocks.3.0.op": 1,
        "input_blocks.4.0.in_layers.2": 2, "input_blocks.11.0.out_layers.3": 8,
        "middle_block.1.transformer_blocks.0.attn1.to_q": 8, "output_blocks.0.0.in_layers.2": 8,
        "output_blocks.5.1.proj_in": 4, "output_blocks.8.1.proj_in": 2, "output_blocks.11.1.proj_in": 1,
        "out.2": 1, "time_embed.0": None,
    }  # fmt: skip
    assert {layer: scales[layer] for layer in expected} == expected


def test_factors_act_on_the_layers_of_their_resolution(restorer: Restorer, adapter: LoRAAdapter) -> None:
    def strengths(factors: dict[int, float]) -> dict[str, float]:
        changes = adapter.bind(restorer.unet, restorer.schedule, 0.5, factors).prepare(0)
        return {name.removesuffix(".weight"): low.alpha / 1.5 for name, (low,) in changes.weights.items()}  # type: ignore[attr-defined]

    assert strengths({}) == {LINEAR: 0.5, OUT: 0.5, CONV: 0.5}
    assert strengths({4: 0.2, 2: 2.0, 1: 1.0}) == {LINEAR: 1.0, OUT: 1.0, CONV: 0.5}
    assert strengths({2: 0.0}) == {CONV: 0.5}
    assert strengths({1: 0.1}) == pytest.approx({LINEAR: 0.05, OUT: 0.05, CONV: 0.05})
    assert strengths({4: 0.0}) == strengths({})
    cases = {}, {1: 0.0, 2: 0.0}, {1: 0.2, 2: 0.5}, {1: 0.2, 4: 2.0}, {2: 0.0}
    assert [factor_at(None, factors) for factors in cases] == [1.0, 0.0, 0.5, 1.0, 1.0], "what is in no block"


def test_names_of_diffusers(restorer: Restorer) -> None:
    names = known_names(restorer.unet)
    for ours, theirs in {
        **DIFFUSERS,
        "input_blocks.2.0.op": "down_blocks.0.downsamplers.0.conv",
        "output_blocks.1.2.conv": "up_blocks.0.upsamplers.0.conv",
        "middle_block.2.out_layers.3": "mid_block.resnets.1.conv2",
        "output_blocks.5.0.skip_connection": "up_blocks.2.resnets.1.conv_shortcut",
        "time_embed.2": "time_embedding.linear_2",
        "out.2": "conv_out",
    }.items():
        assert names[flat(theirs)] == ours
        assert names[flat(ours)] == ours


def kohya(layer: str, change: LowRank) -> dict[str, Tensor]:
    name = f"lora_unet_{flat(layer)}"
    parts = {
        "lora_up.weight": change.up,
        "lora_down.weight": change.down,
        "alpha": torch.tensor(change.alpha),
    }
    return {f"{name}.{part}": value for part, value in parts.items()}


def kohya_diffusers(layer: str, change: LowRank) -> dict[str, Tensor]:
    return kohya(DIFFUSERS[layer], change)


def peft(layer: str, change: LowRank) -> dict[str, Tensor]:
    name, scale = f"unet.{DIFFUSERS[layer]}", change.alpha / change.rank
    return {f"{name}.lora_A.weight": change.down, f"{name}.lora_B.weight": scale * change.up}


def peft_saved(layer: str, change: LowRank) -> dict[str, Tensor]:
    return {
        key.replace("unet.", "base_model.model.").replace(".weight", ".default.weight"): value
        for key, value in peft(layer, change).items()
    }


def processor(layer: str, change: LowRank) -> dict[str, Tensor]:
    """Of diffusers up to 0.21."""
    name = DIFFUSERS[layer].replace(".to_", ".processor.to_").removesuffix(".0")
    scale = change.alpha / change.rank
    return {f"{name}_lora.down.weight": change.down, f"{name}_lora.up.weight": scale * change.up}


def generic(layer: str, change: LowRank) -> dict[str, Tensor]:
    return {
        key.replace(f"lora_unet_{flat(layer)}", f"diffusion_model.{layer}"): value
        for key, value in kohya(layer, change).items()
    }


Layout = Callable[[str, LowRank], dict[str, Tensor]]
LAYOUTS: list[Layout] = [kohya, kohya_diffusers, peft, peft_saved, processor, generic]


def file_of(low: dict[str, LowRank], layout: Layout) -> dict[str, Tensor]:
    layers = [LINEAR, OUT] if layout is processor else list(low)
    return {k: v.contiguous() for layer in layers for k, v in layout(layer, low[layer]).items()}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_file_made_elsewhere_is_read(
    tmp_path: Path, restorer: Restorer, low: dict[str, LowRank], layout: Layout
) -> None:
    tensors = file_of(low, layout)
    save_file(tensors, tmp_path / "theirs.safetensors", {"ss_base_model_version": "sd_v2"})
    adapter = load_identity_adapter(tmp_path / "theirs.safetensors")
    assert isinstance(adapter, LoRAAdapter)
    assert (adapter.header.made_for, adapter.header.notes) == ("sd_v2", [])
    adapter.check_base(restorer.fingerprint)
    adapter.check_fit(restorer.unet, 32)
    changes = adapter.bind(restorer.unet, restorer.schedule).prepare(0)
    assert len(changes.weights) == (2 if layout is processor else 3)
    for name, (change,) in changes.weights.items():
        weight = restorer.unet.get_parameter(name)
        torch.testing.assert_close(change.delta(weight), low[name.removesuffix(".weight")].delta(weight))
    adapter.save(tmp_path / "ours.safetensors")
    again = load_identity_adapter(tmp_path / "ours.safetensors")
    assert again.header == adapter.header
    assert again.header.training == {}
    assert is_lora(again.tensors())
    assert find_path(tmp_path / "ours.safetensors", adapter.header.run_key)[0].name == "ours_2.safetensors"


def test_locon_s_three_factors() -> None:
    down, mid, up = torch.randn(3, 8, 1, 1), torch.randn(3, 3, 3, 3), torch.randn(6, 3, 1, 1)
    name, x = "lora_unet_down_blocks_0_resnets_0_conv1", torch.randn(1, 8, 5, 5)
    tensors = {f"{name}.lora_{part}.weight": v for part, v in (("down", down), ("mid", mid), ("up", up))}
    (change,) = read_layers(tensors, "x")[0].values()
    expected = F.conv2d(F.conv2d(F.conv2d(x, down), mid, padding=1), up)
    delta = change.delta(torch.empty(6, 8, 3, 3))
    torch.testing.assert_close(F.conv2d(x, delta, padding=1), expected, rtol=1e-4, atol=1e-4)


def test_the_text_encoder_s_layers_are_left_out(low: dict[str, LowRank]) -> None:
    text = {"lora_te_text_model_encoder_layers_0_mlp_fc1.lora_up.weight": torch.ones(4, 2),
            "text_encoder.text_model.encoder.layers.0.mlp.fc1.lora_A.weight": torch.ones(2, 4)}  # fmt: skip
    layers, notes = read_layers({**text, **kohya(LINEAR, low[LINEAR])}, "ada.safetensors")
    assert list(layers) == [flat(LINEAR)]
    assert "ada.safetensors" in notes[0]
    assert "2 layers" in notes[0]
    assert load({**text, **kohya(LINEAR, low[LINEAR])}, {}, "ada.safetensors").header.notes == notes
    with pytest.raises(CheckpointError, match="text encoder alone"):
        read_layers(text, "ada.safetensors")


UP, DOWN = "lora_unet_conv_in.lora_up.weight", "lora_unet_conv_in.lora_down.weight"
GOOD = {UP: torch.ones(4, 2), DOWN: torch.ones(2, 8)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lora_unet_conv_in.hada_w1_a": torch.ones(2)}, "a LoHa"),
        ({"lora_unet_conv_in.lokr_w1": torch.ones(2)}, "a LoKr"),
        ({"lora_unet_conv_in.dora_scale": torch.ones(2)}, "a DoRA"),
        ({"lora_unet_conv_in.diff_b": torch.ones(2)}, "biases"),
        ({"something": torch.ones(2)}, "something"),
        ({UP: torch.ones(4, 3)}, "two different ranks"),
        ({UP: torch.ones(4)}, "up and a down"),
        ({DOWN: torch.ones(0, 8)}, "up and a down"),
        ({UP: torch.full((4, 2), torch.nan)}, "NaN"),
        ({UP: torch.ones(4, 2, dtype=torch.int64)}, "no fractions"),
        ({"lora_unet_conv_in.alpha": torch.ones(2)}, "one number"),
        ({"unet.conv_in.lora_B.weight": torch.ones(4, 2)}, "changed twice"),
        ({"lora_unet_conv_in.lora_mid.weight": torch.ones(3, 3, 3, 3)}, "LoCon"),
        ({"lora_unet_conv_out.lora_up.weight": torch.ones(4, 2)}, "no lora_down"),
    ],
)
def test_other_kinds_and_damage_are_named(change: dict[str, Tensor], message: str) -> None:
    assert len(read_layers(GOOD, "x")[0]) == 1
    with pytest.raises(CheckpointError, match=message):
        read_layers({**GOOD, **change}, "x")


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ({flat(LINEAR): LowRank(torch.ones(64, 2), torch.ones(2, 768), 1.0)}, "64 x 768.*sd_v1"),
        ({flat(LINEAR): LowRank(torch.ones(32, 2), torch.ones(2, 64), 1.0)}, "32 x 64, but 64 x 64"),
        ({"down_blocks_9": LowRank(torch.ones(64, 2), torch.ones(2, 64), 1.0)}, "no layer down_blocks_9"),
    ],
)
def test_what_does_not_fit_is_refused(restorer: Restorer, layers: dict[str, LowRank], message: str) -> None:
    header = LoRAHeader(base="", prediction_type="", made_for="sd_v1")
    with pytest.raises(ValueError, match=message):
        LoRAAdapter(header, layers).check_fit(restorer.unet, 32)


def test_one_layer_by_two_names_is_refused(restorer: Restorer, adapter: LoRAAdapter) -> None:
    twice = {**adapter.layers, flat(DIFFUSERS[LINEAR]): adapter.layers[flat(LINEAR)]}
    with pytest.raises(ValueError, match="two names"):
        replace(adapter, layers=twice).check_fit(restorer.unet, 32)


@torch.no_grad()
def test_in_an_area_the_rest_is_the_base_s(restorer: Restorer, adapter: LoRAAdapter) -> None:
    """Bit for bit: weights change all of an evaluation, so each area has its own."""
    x, left = torch.randn(1, 4, 16, 16), torch.zeros(1, 1, 16, 16)
    left[..., :8] = 1
    changes = [Identity(adapter).bound(restorer).prepare(500)]

    def predict(who: Sequence[int]) -> Tensor:
        now = together(*(changes[k] for k in who))
        return restorer.denoise(x, torch.tensor([500]), restorer.condition(x), changes=now)

    found = each_in_its_area(predict, [left])
    assert torch.equal(found[..., :8], predict([0])[..., :8])
    assert torch.equal(found[..., 8:], predict([])[..., 8:])
    assert not torch.equal(predict([0]), predict([]))


def test_changed_weights_are_made_once_for_all_steps_and_tiles(
    restorer: Restorer, adapter: LoRAAdapter, lq: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[LowRank] = []
    delta = LowRank.delta
    monkeypatch.setattr(LowRank, "delta", lambda low, weight: made.append(low) or delta(low, weight))
    pf.restore(
        restorer, lq.repeat(1, 1, 2, 2), upscale=4, steps=3, identities=[Identity(adapter)], tile_batch=1
    )
    assert len(made) == len(adapter.layers)


@pytest.mark.parametrize("lambda_gen", [0.0, 0.5])
def test_the_loss_by_hand(restorer: Restorer, person: list[Tensor], lambda_gen: float) -> None:
    photos = Photos.of(restorer, person)
    objective = LoRALoss(restorer, photos, replace(QUICK, lambda_gen=lambda_gen, alpha=2.0))
    for up in objective.up.values():
        torch.nn.init.normal_(up, std=0.05)
    pairs = Pairs(restorer, photos, random_degradation("", 32), 0.0, 4, 2, 0)
    batch = collate([pairs[k] for k in range(2)])
    pairs.close()
    other = deepcopy(restorer.unet)
    with torch.no_grad():
        for layer, weight in changeable(other).items():
            up, down = objective.up[flat(layer)], objective.down[flat(layer)]
            weight += 2.0 / 4 * (up.flatten(1) @ down.flatten(1)).view_as(weight)
        rngs = generators(batch)
        t = torch.tensor([int(rng.integers(1000)) for rng in rngs])
        noise, schedule = normal(batch["hq"], rngs), restorer.schedule
        x = schedule.q_sample(batch["hq"], t, noise)
        target = schedule.target(batch["hq"], t, noise, "v")
        context = restorer.null_context.expand(2, -1, -1)
        expected = F.mse_loss(other(x, t, context, batch["lq"]), target)
        expected = expected + lambda_gen * F.mse_loss(other(x, t, context), target)
    assert objective(batch).item() == pytest.approx(expected.item(), rel=1e-4)


def test_it_starts_as_the_base_and_learns_the_chosen_layers(restorer: Restorer, person: list[Tensor]) -> None:
    attention = {layer for layer in changeable(restorer.unet) if ".attn" in layer}
    assert set(trained_layers(restorer.unet, "attention")) == attention
    assert set(trained_layers(restorer.unet)) == set(changeable(restorer.unet)), "none at its finest level"
    stable_diffusion = UNet(UNetConfig(), Backend(device="meta"))
    assert len(trained_layers(stable_diffusion)) == 16 * 8
    photos = Photos.of(restorer, person)
    objective = LoRALoss(restorer, photos, replace(QUICK, targets="attention", rank=2))
    assert set(objective.names) == {flat(layer) for layer in attention}
    assert {len(down) for down in objective.down.values()} == {2}
    assert not any(up.any() for up in objective.up.values())
    other = LoRALoss(restorer, photos, replace(QUICK, targets="attention", rank=2, seed=1))
    assert not any(torch.equal(down, other.down[name]) for name, down in objective.down.items())
    assert [LoRATraining().loop(width).lr for width in (32, 320)] == [2e-3, 1e-4]
    assert [p.requires_grad for p in restorer.unet.parameters()].count(True) == 0


def test_a_person_is_learned_and_gone_on_from(restorer: Restorer, person: list[Tensor], lq: Tensor) -> None:
    whole = train_identity_adapter(restorer, person, replace(QUICK, steps=4))
    assert isinstance(whole, LoRAAdapter)
    assert whole.header.method == "lora"
    assert len(whole.header.losses) == 4
    assert set(whole.layers) == {flat(layer) for layer in changeable(restorer.unet)}
    assert all(low.up.any() for low in whole.layers.values())
    base, one, two = (restored(restorer, lq, Identity(whole, gamma)) for gamma in (0.0, 1.0, 2.0))
    assert torch.equal(base, restored(restorer, lq))
    assert 0 < (one - base).abs().mean() < (two - base).abs().mean()
    objective = LoRALoss(restorer, Photos.of(restorer, person), QUICK)
    objective.take(whole)
    for name, low in objective.adapter("", 0, []).layers.items():
        assert torch.equal(low.up, whole.layers[name].up)
        assert torch.equal(low.down, whole.layers[name].down)


@pytest.mark.parametrize(
    "change",
    [{"rank": 0}, {"alpha": 0.0}, {"alpha": float("nan")}, {"targets": "text"}, {"lambda_gen": -1.0}],
)
def test_settings_have_ranges(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        replace(QUICK, **change)


def test_settings_of_another_method_are_refused() -> None:
    assert settings_of("lora", {"steps": 7, "rank": 2}) == LoRATraining(steps=7, rank=2)
    assert settings_of("pfstorer", {"lambda_gen": 0.2}) == pf.AdapterTraining(lambda_gen=0.2)
    with pytest.raises(ValueError, match="lora has no reference_timestep"):
        settings_of("lora", {"reference_timestep": "zero"})
    with pytest.raises(ValueError, match="'dreams'"):
        settings_of("dreams", {})


def test_the_command_line_learns_a_lora(tmp_path: Path, restorer: Restorer) -> None:
    save_restorer(restorer, tmp_path / "small.safetensors")
    write_picture(torch.rand(1, 3, 40, 40), tmp_path / "photo.png")
    file = tmp_path / "ada.safetensors"
    what = ["personalize", str(tmp_path / "small.safetensors"), str(file), str(tmp_path / "photo.png")]
    chosen = "--method lora --steps 1 --batch 1 --rank 2 --targets attention --lambda-gen 0 --no-bf16"
    result = CliRunner().invoke(app, [*what, *chosen.split()])
    assert result.exit_code == 0, result.output
    header = load_identity_adapter(file).header
    assert header.method == "lora"
    assert {"rank": 2, "targets": "attention", "lambda_gen": 0.0}.items() <= header.training.items()
