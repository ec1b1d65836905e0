"""The modules of the U-Net against the reference, one by one."""

import pytest
import torch
from torch import Tensor

from pfstorer_core.models import Conditioning
from pfstorer_core.models.blocks import timestep_embedding

from . import golden
from .networks import UNET, load_unet, struct_cases

INTERMEDIATES = "stablesr_unet_intermediates"


def module_paths() -> list[tuple[str, str]]:
    """(case, module path) of every stored output of a module."""
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
        features = Conditioning(golden.by_level(golden.group(UNET, f"{case}.struct")))
        unet(given["x"], given["t"], given["context"], features)
        for handle in hooks:
            handle.remove()
    return found


@pytest.mark.parametrize(("case", "path"), module_paths())
def test_module(case: str, path: str, traced: dict[str, dict[str, Tensor]]):
    stored = golden.tensors(INTERMEDIATES)
    golden.assert_near(traced[case][path], stored[f"{case}.{path}"])
    if f"{case}.{path}.in" in stored:
        golden.assert_near(traced[case][f"{path}.in"], stored[f"{case}.{path}.in"])


@pytest.mark.parametrize("width", golden.group(INTERMEDIATES, "timestep_embedding"))
def test_timestep_embedding(width: str):
    t = torch.tensor(golden.metadata(INTERMEDIATES)["timestep_embedding_t"])
    golden.assert_near(
        timestep_embedding(t, int(width)), golden.tensors(INTERMEDIATES)[f"timestep_embedding.{width}"]
    )
