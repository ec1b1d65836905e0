"""ReF-LDM from pictures and photos of the person to the last latent, against the reference."""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from pfstorer_core import References, ReferenceSettings, Restorer
from pfstorer_core.personalization.reference_attention.references import reference_latents
from pfstorer_core.restorers.changes import evaluated

from . import golden
from .test_refldm import HEADER, IN, NAME, OUT, checkpoint, files, restorer  # noqa: F401 - fixtures


def latents_of(restorer: Restorer, side_by_side: bool) -> Tensor:  # noqa: F811
    def encode(pictures: Tensor) -> Tensor:
        return restorer.encode(pictures, tile=max(pictures.shape[-2:]) // restorer.downscale)

    return reference_latents(encode, IN["refs"].float() / 255, side_by_side)


@pytest.mark.parametrize(("name", "side_by_side"), [("", True), ("_one_by_one", False)])
def test_photos_are_encoded_as_one_wide_picture_or_each_for_itself(
    restorer: Restorer,  # noqa: F811
    name: str,
    side_by_side: bool,
) -> None:
    found = latents_of(restorer, side_by_side)
    golden.assert_near(torch.cat([*found], dim=-1)[None], OUT[f"ref_latent{name}"])


@pytest.mark.parametrize("name", ["latents", "latents_one_by_one", "latents_without_averages"])
def test_sampling(restorer: Restorer, name: str) -> None:  # noqa: F811
    restorer = replace(restorer, unet=deepcopy(restorer.unet))
    if name.endswith("averages"):
        prefix = "model.diffusion_model."
        own = {
            key.removeprefix(prefix): value for key, value in checkpoint().items() if key.startswith(prefix)
        }
        restorer.unet.load_state_dict(own)
    settings = ReferenceSettings(cfg=HEADER["cfg_scale"]).suited(0)
    latents = latents_of(restorer, "one_by_one" not in name)
    references = References(latents, None, restorer.fingerprint, settings)
    bound = references.bind(restorer.unet, restorer.schedule)
    condition = restorer.condition(restorer.encode(IN["lq"].float() / 255))

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        changes = bound.prepare(int(t[0]))
        return evaluated(lambda now: restorer.denoise(x, t, condition, changes=now), [changes])

    states: list[Tensor] = []
    restorer.sample(
        condition, HEADER["steps"], IN["x_T"], denoise=denoise, sampler="ddim",
        callback=lambda step: states.append(step.x),
    )  # fmt: skip
    golden.assert_near(torch.stack(states), OUT[name])
