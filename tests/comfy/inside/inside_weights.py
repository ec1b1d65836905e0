"""Weights changed in the host's MODEL: its own LoRA loader's bits, the base's where nothing acts."""

# ruff: noqa: F811 - fixtures are imported

import operator
from pathlib import Path
from typing import Any

import comfy.hooks
import comfy.lora
import comfy.model_patcher
import comfy.sample
import pytest
import safetensors.torch
import torch
from comfy.patcher_extension import WrappersMP
from inside_dynamic import dynamic  # noqa: F401 - a fixture
from inside_identity import adapter, applied, model, sampled  # noqa: F401 - fixtures
from inside_model import SIZES, path, restorer  # noqa: F401 - fixtures
from pfstorer.nodes.host.model import build_model, load_model
from pfstorer.nodes.host.tiles import Tiles, with_tiles
from pfstorer.nodes.host.weights import HookedSteps, check_no_mask, weight_patches, with_weights
from pfstorer.pfstorer_core.personalization.weights import LowRank, feature_scale
from pfstorer.pfstorer_core.restorers.base import Restorer
from pfstorer.pfstorer_core.restorers.files import open_restorer
from torch import Tensor

from nodes import LoraLoaderModelOnly

HALF = 0.5


def low_rank(restorer: Restorer, seed: int = 0, rank: int = 2, scale: float = 0.2) -> dict[str, Any]:
    """A LoRA of every attention and of two convolutions, whose alpha is not its rank."""
    generator = torch.Generator().manual_seed(seed)
    chosen = (
        ".to_q.",
        ".to_k.",
        ".to_out.0.weight",
        "input_blocks.1.0.in_layers.2.weight",
        "time_embed.0.weight",
    )
    found = {}
    for name, value in restorer.unet.state_dict().items():
        if not name.startswith("lq_encoder") and any(part in name for part in chosen):
            up = scale * torch.randn(value.shape[0], rank, *[1] * (value.ndim - 2), generator=generator)
            down = scale * torch.randn(rank, *value.shape[1:], generator=generator)
            found[name] = LowRank(up, down, 1.5 * rank)
    return found


@pytest.fixture
def lora(restorer: Restorer) -> dict[str, Any]:
    return low_rank(restorer)


@pytest.fixture
def patches(lora: dict[str, Any]) -> dict[str, Any]:
    return weight_patches({name: [low] for name, low in lora.items()})


def as_file(lora: dict[str, Any]) -> dict[str, Tensor]:
    """In Stable Diffusion's usual layout."""
    tensors = {}
    for name, low in lora.items():
        stem = "lora_unet_" + name.removesuffix(".weight").replace(".", "_")
        tensors |= {f"{stem}.lora_up.weight": low.up, f"{stem}.lora_down.weight": low.down}
        tensors[f"{stem}.alpha"] = torch.tensor(low.alpha)
    return tensors


def each_step(model: Any, steps: int = 4, **conditions: Any) -> list[Tensor]:
    """What the model predicts in each step where none of them moves the sampling: what acts in a step is seen
    in that step alone."""
    found: list[Tensor] = []

    def note(args: dict[str, Any]) -> Tensor:
        found.append(args["denoised"].clone())
        return torch.zeros_like(args["denoised"])

    patched = model.clone()
    patched.set_model_sampler_post_cfg_function(note, disable_cfg1_optimization=True)
    sampled(patched, steps, **conditions)
    return found


def test_all_the_time_it_is_the_host_s_loader_bit_for_bit(
    model: Any, lora: dict[str, Any], patches: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "lora.safetensors"
    safetensors.torch.save_file(as_file(lora), file)
    monkeypatch.setattr("folder_paths.get_full_path_or_raise", lambda *_: str(file))
    (expected,) = LoraLoaderModelOnly().load_lora_model_only(model, "lora.safetensors", 0.7)
    assert len(expected.patches) == len(lora), "the host's loader left something out"
    base, theirs = sampled(model), sampled(expected)
    assert torch.equal(sampled(with_weights(model, patches, 0.7)), theirs)
    assert (theirs - base).abs().max() > 0.02, "it changes nothing: the test is blind"
    assert torch.equal(sampled(model), base), "something stayed behind"


def test_hooks_all_the_time_are_the_same_bits(model: Any, patches: dict[str, Any]) -> None:
    """Until a percent that no step is after."""
    hooked = with_weights(model, patches, 0.7, 0.0, 1 - 1e-12)
    assert not hooked.patches
    assert torch.equal(sampled(hooked), sampled(with_weights(model, patches, 0.7)))


@pytest.mark.parametrize("until", [1.0, HALF])
def test_strength_0_is_the_base_bit_for_bit(model: Any, patches: dict[str, Any], until: float) -> None:
    base, nothing = sampled(model), with_weights(model, patches, 0.0, 0.0, until)
    assert nothing is not model
    assert not nothing.patches
    assert not nothing.hook_patches
    assert torch.equal(sampled(nothing), base)
    none = with_weights(model, patches, 1.0, 0.0, until, {1: 0.0, 2: 0.0, 4: 0.0})
    assert not none.patches
    assert not none.hook_patches


@pytest.mark.parametrize(
    ("start", "end", "acting"),
    [
        (0.0, HALF, [True, True, False, False]),
        (HALF, 1.0, [False, False, True, True]),
        (0.3, 0.4, [False, True] + 2 * [False]),
    ],
)
def test_it_acts_in_exactly_its_steps(
    model: Any, patches: dict[str, Any], start: float, end: float, acting: list[bool]
) -> None:
    base, always = each_step(model), each_step(with_weights(model, patches))
    some = with_weights(model, patches, 1.0, start, end)
    for _ in range(2):  # a second sampling begins as the first one did
        found = each_step(some)
        for one, without, whole, acts in zip(found, base, always, acting, strict=True):
            assert torch.equal(one, whole if acts else without)
            assert not torch.equal(whole, without)
    assert all(map(torch.equal, each_step(model), base)), "the weights were left patched"


def test_weights_are_set_only_where_it_begins_and_ends(
    model: Any, patches: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not in every step, and not for each branch of guidance."""
    patcher, given = comfy.model_patcher.ModelPatcher, list[Any]()
    own = patcher.patch_hooks
    monkeypatch.setattr(patcher, "patch_hooks", lambda self, hooks: given.append(hooks) or own(self, hooks))
    sampled(with_weights(model, patches, 1.0, 0.2, 0.8), 8, cfg=2.0)
    assert sum(hooks is not None for hooks in given) == 1


def test_it_adds_up_with_hooks_of_the_conditioning(
    restorer: Restorer, model: Any, lora: dict[str, Any], patches: dict[str, Any]
) -> None:
    """As the host's own hooks do: ours on both branches, the user's on the positive one."""
    ours = comfy.hooks.create_hook_lora(as_file(lora), 0.7, 0.0)
    frames = comfy.hooks.HookKeyframeGroup()
    frames.add(comfy.hooks.HookKeyframe(1.0, 0.0, 0))
    frames.add(comfy.hooks.HookKeyframe(0.0, HALF, 0))
    ours.set_keyframes_on_hooks(frames)
    theirs = comfy.hooks.create_hook_lora(as_file(low_rank(restorer, 5)), 0.6, 0.0)
    own = torch.randn(1, 3, SIZES.context_dim)
    user = [[own, {"hooks": theirs}]]
    given = {"steps": 4, "cfg": 2.0, "negative": [[-own, {}]]}
    changed = with_weights(model, patches, 0.7, 0.0, HALF)
    found = sampled(changed, positive=user, **given)
    ((wrapper,),) = changed.wrappers[WrappersMP.CALC_COND_BATCH].values()
    assert not wrapper.__self__._combined, "the conditioning's hooks outlive the sampling"
    given["negative"] = [[-own, {"hooks": ours}]]
    expected = sampled(model, positive=[[own, {"hooks": theirs.clone_and_combine(ours)}]], **given)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    alone = sampled(model, positive=user, steps=4, cfg=2.0, negative=[[-own, {}]])
    assert (found - alone).abs().max() > 0.01
    assert torch.equal(sampled(model, positive=user, steps=4, cfg=2.0, negative=[[-own, {}]]), alone)


def test_the_same_hooks_give_the_same_group_for_a_sampling() -> None:
    """The host sets all weights anew where a group is another object."""
    hook, own = comfy.hooks.WeightHook(), comfy.hooks.create_hook_lora({}, 1.0, 0.0)
    steps = HookedSteps(hook, 10.0, 1.0)
    area = {"strength": 0.5}

    def seen(sigma: float) -> list[Any]:
        conds = [[{"hooks": own, **area}, area], None]
        (found, none) = steps.calc_cond_batch(
            lambda _, conds, *__: conds, None, conds, None, torch.tensor([sigma]), {}
        )
        assert none is None
        assert all(cond["strength"] == 0.5 for cond in found)
        assert conds == [[{"hooks": own, **area}, area], None], "the caller's own conditions were changed"
        return [cond.get("hooks") for cond in found]

    both, alone = seen(10.0)
    assert (both.hooks, alone.hooks) == ([*own.hooks, hook], [hook])
    assert all(map(operator.is_, seen(1.0), (both, alone)))
    assert seen(10.1) == seen(0.9) == [own, None]
    steps.cleanup(None)
    assert seen(5.0)[0] is not both, "hooks outlive the sampling"


def test_two_add_up(restorer: Restorer, model: Any, patches: dict[str, Any]) -> None:
    other = weight_patches({name: [low] for name, low in low_rank(restorer, 5).items()})
    always = with_weights(with_weights(model, patches, 0.4), other, 0.6)
    assert all(len(group) == 2 for group in always.patches.values())
    parts = with_weights(with_weights(model, patches, 0.4, 0.0, HALF), other, 0.6, 0.0, HALF)
    found, whole, base = each_step(parts), each_step(always), each_step(model)
    torch.testing.assert_close(found[:2], whole[:2], rtol=0, atol=1e-5)
    assert all(map(torch.equal, found[2:], base[2:]))
    mixed = each_step(with_weights(with_weights(model, patches, 0.4), other, 0.6, HALF, 1.0))
    one = each_step(with_weights(model, patches, 0.4))
    assert torch.equal(mixed[0], one[0])
    torch.testing.assert_close(mixed[2:], whole[2:], rtol=0, atol=1e-5)


def test_on_tiles_it_is_the_same(model: Any, patches: dict[str, Any]) -> None:
    always, some = with_weights(model, patches), with_weights(model, patches, 1.0, 0.0, HALF)
    base, whole, found = (each_step(with_tiles(of, Tiles(12, 4, 4)), 2) for of in (model, always, some))
    assert torch.equal(found[0], whole[0])
    assert torch.equal(found[1], base[1])
    assert not torch.equal(whole[1], base[1])


def test_a_person_s_photos_are_read_anew_where_the_weights_change(
    model: Any, patches: dict[str, Any], adapter: Any
) -> None:
    """Beside an adapter that reads them once for all steps."""
    person = applied(model, adapter)
    alone, both = each_step(person), each_step(applied(with_weights(model, patches), adapter))
    some = each_step(with_weights(person, patches, 1.0, 0.0, HALF))
    assert all(map(torch.equal, some, [*both[:2], *alone[2:]]))
    assert not torch.equal(alone[0], both[0])


def test_each_resolution_has_its_factor(model: Any, patches: dict[str, Any], lora: dict[str, Any]) -> None:
    factors = {1: 0.5, 2: 0.0, 4: 2.0}
    changed = with_weights(model, patches, 0.8, factors=factors)
    strengths = {key.removeprefix("diffusion_model."): group[0][0] for key, group in changed.patches.items()}
    expected = {name: 0.8 * factors.get(feature_scale(SIZES, name) or 0, 1.0) for name in lora}
    assert strengths == {name: strength for name, strength in expected.items() if strength}
    assert set(expected.values()) == {0.4, 0.0, 1.6, 0.8}
    assert not with_weights(model, patches, factors=dict.fromkeys(factors, 0.0)).patches, "0 is the base"
    part = next(iter(with_weights(model, patches, 0.8, 0.0, HALF, factors).hook_patches.values()))
    assert {key: group[0][0] for key, group in part.items()} == {
        key: group[0][0] for key, group in changed.patches.items()
    }


@torch.no_grad()
def test_a_layer_s_factor_is_how_much_smaller_its_features_are(restorer: Restorer) -> None:
    """Told by what comes into each convolution and transformer of a latent of 16 x 16."""
    seen: dict[str, int] = {}
    for name, module in restorer.unet.named_modules():
        if (
            isinstance(module, torch.nn.Conv2d)
            and not name.startswith("lq_encoder")
            and ".spade." not in name
        ):
            module.register_forward_pre_hook(
                lambda own, given, name=name: seen.update({name: 16 // given[0].shape[-1]})
            )
    restorer.unet(torch.zeros(1, 4, 16, 16), torch.tensor([5]), restorer.null_context)
    for module in restorer.unet.modules():
        module._forward_pre_hooks.clear()
    upsampled = {name for name in seen if name.startswith("output") and name.endswith(".conv")}
    for name, smaller in seen.items():
        found = feature_scale(SIZES, f"{name}.weight")
        assert found == (2 * smaller if name in upsampled else smaller), name
    assert {"input_blocks.0.0", "out.2", "middle_block.0.in_layers.2"} < set(seen)
    assert feature_scale(SIZES, "time_embed.0.weight") is None
    assert feature_scale(SIZES, "lq_encoder.input_blocks.1.0.in_layers.2.weight") is None


def test_what_is_smaller_than_the_last_factor_has_it(model: Any, patches: dict[str, Any]) -> None:
    changed = with_weights(model, patches, factors={1: 0.5, 2: 0.25})
    middle = [group[0][0] for key, group in changed.patches.items() if ".middle_block." in key]
    assert set(middle) == {0.25}


def test_a_stranger_s_weights_and_masks_are_refused(model: Any, patches: dict[str, Any]) -> None:
    with pytest.raises(
        ValueError, match=r"1 of \d+ changes.*diffusion_model.nowhere.weight.*load the restorer"
    ):
        with_weights(model, {**patches, "diffusion_model.nowhere.weight": ()})
    with pytest.raises(ValueError, match=r"method lora.*whole picture.*Crop Face"):
        check_no_mask(torch.ones(1, 4, 4), "lora")
    check_no_mask(None, "lora")


def test_where_the_host_streams_weights(
    path: Path, patches: dict[str, Any], request: Any, model: Any
) -> None:
    """It has no hooks there, and is asked for a model that does not stream; but only where there are some."""
    expected = each_step(with_weights(model, patches, 0.7, 0.0, HALF))
    kind = request.getfixturevalue("dynamic")
    streamed = build_model(open_restorer(path), torch.float32)
    source = (str(path), (), None, None, torch.float32, streamed.model.null_context)
    streamed.cached_patcher_init = (load_model, source)
    for stays in (with_weights(streamed, patches, 0.7), with_weights(streamed, patches, 0.0, 0.0, HALF)):
        assert isinstance(stays, kind)
        assert stays.model is streamed.model
    first, second = (with_weights(streamed, patches, 0.7, 0.0, HALF) for _ in range(2))
    assert not first.is_dynamic()
    assert first.model is second.model, "it is loaded for every change of a setting"
    assert all(map(torch.equal, each_step(first), expected))
