"""Latent diffusion's U-Nets without a text, whose condition are further channels, against the reference."""

import pytest
import torch

from . import golden
from .networks import plain_unet


def test_channels_put_beside_by_the_caller() -> None:
    given = golden.group("vqgan_unet", "in")
    eps = plain_unet("vqgan_unet")(given["x"], given["timesteps"])
    golden.assert_near(eps, golden.tensors("vqgan_unet")["out.eps"])


def test_the_condition_stands_after_the_noisy_latent() -> None:
    given, out = golden.group("ldm_ddim", "in"), golden.group("ldm_ddim", "out")
    unet, t = plain_unet("ldm_ddim"), given["timesteps"]
    golden.assert_near(unet(given["x_T"], t, condition=given["cond"]), out["eps"])
    golden.assert_near(unet(given["x_T"], t, condition=torch.zeros_like(given["cond"])), out["eps_null"])


def test_a_condition_without_channels_for_it_is_refused() -> None:
    given = golden.group("ldm_ddim", "in")
    with pytest.raises(ValueError, match="of 2 channels was given, but this U-Net has no LQ encoder"):
        plain_unet("ldm_ddim")(given["x_T"], given["timesteps"], condition=given["cond"][:, :2])
