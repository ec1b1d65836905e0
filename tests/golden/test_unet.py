"""The U-Net against the reference: whole, with its encoder, and module by module."""

import pytest
import torch
from torch import Tensor

from pfstorer_core.models import LQEncoder, LQEncoderConfig, UNet, UNetConfig
from pfstorer_core.models.blocks import timestep_embedding
from pfstorer_core.models.ops import Backend

from . import golden
from .formula import PREFIXES, filled, formula
from .networks import LQ_ENCODER, UNET, load_lq_encoder, load_unet

INTERMEDIATES = "stablesr_unet_intermediates"
FORMULA = "stablesr_formula_1244"


def cases(name: str, suffix: str, *needs: str) -> list[str]:
    return golden.cases(name, suffix) if golden.has(name, *needs) else []


def struct_cases() -> list[str]:
    return [case for case in cases(UNET, "out") if golden.group(UNET, f"{case}.struct")]


@pytest.mark.parametrize("case", struct_cases())
def test_unet(case: str):
    given = golden.group(UNET, case)
    features = golden.by_level(golden.group(UNET, f"{case}.struct"))
    out = load_unet(golden.folder())(given["x"], given["t"], given["context"], features)
    golden.assert_near(out, given["out"])


@pytest.mark.parametrize("case", cases(UNET, "lq_latent", LQ_ENCODER))
def test_unet_fed_by_the_encoder(case: str):
    given = golden.group(UNET, case)
    features = load_lq_encoder(golden.folder())(given["lq_latent"], given["t"])
    out = load_unet(golden.folder())(given["x"], given["t"], given["context"], features)
    golden.assert_near(out, given["out"])


@pytest.mark.parametrize("case", cases(LQ_ENCODER, "lq_latent"))
def test_lq_encoder(case: str):
    given = golden.group(LQ_ENCODER, case)
    expected = golden.by_level(golden.group(LQ_ENCODER, f"{case}.out"))
    for ours, theirs in zip(
        load_lq_encoder(golden.folder())(given["lq_latent"], given["t"]), expected, strict=True
    ):
        golden.assert_near(ours, theirs)


def module_paths() -> list[tuple[str, str]]:
    """(case, module path) of every stored output of a module."""
    if not golden.has(INTERMEDIATES, UNET):
        return []
    keys = [key.partition(".") for key in golden.tensors(INTERMEDIATES)]
    return [(case, path) for case, _, path in keys if case in struct_cases() and not path.endswith(".in")]


@pytest.fixture(scope="module")
def traced() -> dict[str, dict[str, Tensor]]:
    """case -> module path -> what the module returned, and under `<path>.in` what it was given."""
    unet = load_unet(golden.folder())
    found: dict[str, dict[str, Tensor]] = {}
    for case in struct_cases():
        seen = found.setdefault(case, {})

        def note(path: str, seen: dict[str, Tensor] = seen):
            def hook(module: torch.nn.Module, args: tuple, out: Tensor) -> None:
                seen[path], seen[f"{path}.in"] = out, args[0]

            return hook

        hooks = [
            unet.get_submodule(path).register_forward_hook(note(path))
            for c, path in module_paths()
            if c == case
        ]
        given = golden.group(UNET, case)
        unet(given["x"], given["t"], given["context"], golden.by_level(golden.group(UNET, f"{case}.struct")))
        for hook in hooks:
            hook.remove()
    return found


@pytest.mark.parametrize(("case", "path"), module_paths())
def test_module(case: str, path: str, traced: dict[str, dict[str, Tensor]]):
    stored = golden.tensors(INTERMEDIATES)
    golden.assert_near(traced[case][path], stored[f"{case}.{path}"])
    if f"{case}.{path}.in" in stored:
        golden.assert_near(traced[case][f"{path}.in"], stored[f"{case}.{path}.in"])


@pytest.mark.parametrize(
    "width",
    [key.split(".")[1] for key in golden.tensors(INTERMEDIATES) if key.startswith("timestep_embedding.")]
    if golden.has(INTERMEDIATES)
    else [],
)
def test_timestep_embedding(width: str):
    t = torch.tensor(golden.metadata(INTERMEDIATES)["timestep_embedding_t"])
    golden.assert_near(
        timestep_embedding(t, int(width)), golden.tensors(INTERMEDIATES)[f"timestep_embedding.{width}"]
    )


def formula_networks() -> tuple[torch.nn.Module, torch.nn.Module]:
    header = golden.metadata(FORMULA)
    meta = Backend(device="meta")
    unet = UNet(UNetConfig.from_ldm(header["unet_config"]), meta)
    encoder = LQEncoder(LQEncoderConfig.from_ldm(header["structcond_config"]), meta)
    seed = int(header["formula_seed"])
    return filled(unet, PREFIXES["unet"], seed), filled(encoder, PREFIXES["lq_encoder"], seed)


def test_formula_weights_are_the_reference_s():
    seed = int(golden.metadata(FORMULA)["formula_seed"])
    state = {
        prefix + key: tuple(value.shape)
        for module, prefix in zip(formula_networks(), (PREFIXES["unet"], PREFIXES["lq_encoder"]), strict=True)
        for key, value in module.state_dict().items()
    }
    probes = golden.group(FORMULA, "probe")
    assert probes
    for name, expected in probes.items():
        ours = formula(name, state[name], seed).flatten()[: len(expected)]
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-7)


def test_networks_with_formula_weights():
    unet, encoder = formula_networks()
    given = golden.tensors(FORMULA)
    features = encoder(given["lq_latent"], given["t"])
    for ours, theirs in zip(features, golden.by_level(golden.group(FORMULA, "struct")), strict=True):
        golden.assert_near(ours, theirs)
    golden.assert_near(unet(given["x"], given["t"], given["context"], features), given["out"])
