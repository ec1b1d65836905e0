"""TorchCompileModel on our MODEL, with tiles and a person, also where the host streams weights.

The backend is torch's "eager": tracing, guards and graph breaks are those of every backend, and nothing has
to be built by a C++ compiler.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._dynamo.utils
from comfy_extras.nodes_torch_compile import TorchCompileModel
from inside_dynamic import dynamic  # noqa: F401 - a fixture
from inside_identity import applied, sampled, stand_in
from inside_model import HEADER, SIZES, path  # noqa: F401 - a fixture
from pfstorer.nodes.host.model import build_model, load_model
from pfstorer.nodes.host.tiles import Tiles, with_tiles
from pfstorer.pfstorer_core.models import Autoencoder, AutoencoderConfig, UNet
from pfstorer.pfstorer_core.restorers.base import Restorer
from pfstorer.pfstorer_core.restorers.files import open_restorer


@pytest.fixture(scope="module")
def restorer() -> Restorer:
    """Of one level: each layer more is a second of tracing."""
    torch.manual_seed(0)
    assert SIZES.lq_encoder is not None
    alone = {"channel_mult": (1,), "attention_resolutions": (1,)}
    sizes = replace(SIZES, **alone, lq_encoder=replace(SIZES.lq_encoder, **alone))
    autoencoder = Autoencoder(AutoencoderConfig(ch=32, ch_mult=(1, 2, 2), num_res_blocks=1, cfw=True))
    context = torch.randn(1, 3, SIZES.context_dim)
    return Restorer(UNet(sizes).eval(), autoencoder.eval(), context, HEADER)


def compiled(model: Any) -> Any:
    return TorchCompileModel.execute(model, "eager").args[0]


def test_streamed_weights_tiles_and_a_person(
    dynamic: type,  # noqa: F811
    path: Path,  # noqa: F811
    restorer: Restorer,
) -> None:
    """The node takes a copy of the MODEL that is not streamed, which has to know all of this; and what was
    traced with a person is not taken for what is without."""
    model = build_model(open_restorer(path), torch.float32)
    model.cached_patcher_init = (load_model, (str(path), (), None, None, torch.float32, None))
    personal = with_tiles(applied(model, stand_in(restorer)), Tiles(8, 0, 4))
    base, expected = sampled(model, 1), sampled(personal, 1)
    assert (base - expected).abs().max() > 1e-2, "the test is blind"
    fast = compiled(personal)
    assert isinstance(model, dynamic)
    assert not isinstance(fast, dynamic)
    begun = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    torch.testing.assert_close(sampled(fast, 1), expected, rtol=0, atol=1e-4)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > begun, "nothing was compiled"
    torch.testing.assert_close(sampled(compiled(model), 1), base, rtol=0, atol=1e-4)
