"""The host's patches that change the size of features, such as Kohya's deep shrink."""

# ruff: noqa: F811 - fixtures are imported

from pathlib import Path
from typing import Any

import pytest
import torch
from comfy_extras.nodes_model_downscale import PatchModelAddDownscale
from inside_identity import adapter, applied, sampled  # noqa: F401 - a fixture
from inside_model import SIZES, host_unet, inputs, path, restorer  # noqa: F401 - fixtures
from pfstorer.nodes.host.model import build_model
from pfstorer.nodes.host.tiles import Tiles, with_tiles
from pfstorer.pfstorer_core.restorers.base import Restorer
from pfstorer.pfstorer_core.restorers.files import open_restorer
from torch import Tensor


@pytest.fixture
def model(path: Path) -> Any:
    return build_model(open_restorer(path), torch.float32)


def shrunk(model: Any, block: int = 2, factor: float = 2.0, after_skip: bool = True) -> Any:
    made = PatchModelAddDownscale.execute(model, block, factor, 0.0, 1.0, after_skip, "bicubic", "bicubic")
    return made.args[0]


@pytest.mark.parametrize("block", [1, 2, 3, 5])
@pytest.mark.parametrize(("factor", "after_skip"), [(2.0, True), (1.7, True), (2.0, False), (0.5, True)])
def test_deep_shrink(model: Any, block: int, factor: float, after_skip: bool) -> None:
    base, small = sampled(model), sampled(shrunk(model, block, factor, after_skip))
    assert small.shape == base.shape
    assert torch.isfinite(small).all()
    assert not torch.equal(small, base)


@torch.no_grad()
@pytest.mark.parametrize("size", [(16, 16), (33, 27)])
def test_it_acts_as_on_the_host_s_own_unet(restorer: Restorer, model: Any, size: tuple[int, int]) -> None:
    x, t, context, _ = inputs(size)
    given = shrunk(model).model_options["transformer_options"] | {"sigmas": torch.tensor([5.0])}
    expected = host_unet(restorer.unet.state_dict())(x, t, context, transformer_options=dict(given))
    assert (expected - restorer.unet(x, t, context)).abs().max() > 1e-3, "the test is blind"
    out = model.model.diffusion_model(x, t, context, transformer_options=dict(given))
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-4)


def test_with_guidance_tiles_and_a_person(model: Any, adapter: Any) -> None:
    mask = torch.zeros(1, 16, 16)
    mask[..., :8] = 1

    def run(model: Any, **settings: Any) -> Tensor:
        return sampled(with_tiles(model, Tiles(12, 6, 2)), cfg=2.0, **settings)

    base = run(shrunk(model))
    assert not torch.equal(base, run(model))
    assert not torch.equal(run(shrunk(applied(model, adapter))), base)
    part = run(shrunk(applied(model, adapter, mask=mask)))
    assert (part - base)[..., :6].abs().max() > 1e-4
    whole = sampled(shrunk(applied(model, adapter, mask=mask)), 1) - sampled(shrunk(model), 1)
    assert whole[..., :8].abs().max() > 1e-4
    assert not whole[..., 8:].any(), "what the person changes is seen beside the mask"


@torch.no_grad()
def test_the_pictures_features_follow(model: Any) -> None:
    """The features of the bad picture steer a shrunk level as they do the whole one."""
    x, t, context, lq = inputs((16, 16))
    options = shrunk(model).model_options["transformer_options"] | {"sigmas": torch.tensor([5.0])}
    unet = model.model.diffusion_model
    small = unet(x, t, context, transformer_options=dict(options), lq_latent=lq)
    assert (small - unet(x, t, context, transformer_options=dict(options))).abs().max() > 1e-3
    residual = {"middle": [torch.ones(1, 2 * SIZES.model_channels, 4, 4)]}
    controlled = unet(x, t, context, None, residual, transformer_options=dict(options), lq_latent=lq)
    assert (controlled - small).abs().max() > 1e-3
