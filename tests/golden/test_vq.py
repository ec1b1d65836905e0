"""VQ autoencoders, those of latent diffusion (f4) and of ReF-LDM (f8), against the reference."""

from functools import cache

import pytest
import torch

from pfstorer_core.models import Autoencoder
from pfstorer_core.models.codebook import COMMITMENT

from . import golden
from .networks import autoencoder_config

FILES = ["vqgan_f4", "vqgan_f8"]


@cache
def autoencoder(name: str) -> Autoencoder:
    header = golden.metadata(name)
    model = Autoencoder(autoencoder_config(header, codebook=header["n_embed"]))
    model.load_state_dict(golden.under(name, "weights") | golden.pooled(name))
    return model.requires_grad_(False)


@pytest.fixture(params=FILES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def test_the_latent_is_not_quantized_yet(name: str) -> None:
    latent = autoencoder(name).encode(golden.tensors(name)["in.x"])
    golden.assert_near(latent, golden.tensors(name)["out.prequant"])
    assert torch.equal(autoencoder(name).sample(golden.tensors(name)["in.x"]), latent)
    with pytest.raises(ValueError, match="no distribution"):
        autoencoder(name).moments(golden.tensors(name)["in.x"])


def test_quantize(name: str) -> None:
    out, quantize = golden.group(name, "out"), autoencoder(name).quantize
    assert quantize is not None
    q, indices, loss = quantize(out["prequant"])
    assert torch.equal(indices, out["indices"].long())
    golden.assert_near(q, out["quant"])
    golden.assert_near(q, out["codebook_entry"])
    golden.assert_near(loss, out["codebook_loss"].squeeze(), 1e-5)
    if "commitment_term" in out:  # the codebook's own term has the same value
        golden.assert_near(loss, (1 + COMMITMENT) * out["commitment_term"].squeeze(), 1e-5)
    if "offgrid_indices" in out:
        assert torch.equal(quantize(golden.tensors(name)["in.z_offgrid"])[1], out["offgrid_indices"].long())


def test_decode(name: str) -> None:
    given, out, model = golden.group(name, "in"), golden.group(name, "out"), autoencoder(name)
    golden.assert_near(model.decode(out["prequant"]), out["decode_quantized"])
    golden.assert_near(model.decode(out["prequant"], quantize=False), out["decode_unquantized"])
    golden.assert_near(model.decode(given["z_offgrid"]), out["decode_offgrid_requantized"])
    if (raw := "decode_offgrid_unquantized") in out:
        golden.assert_near(model.decode(given["z_offgrid"], quantize=False), out[raw])
    golden.assert_near(model.decode(model.encode(given["x"])), out["reconstruction"])


def test_gradients_pass_straight_through(name: str) -> None:
    train, quantize = golden.group(name, "train"), autoencoder(name).quantize
    assert quantize is not None
    z = golden.tensors(name)["out.prequant"].clone().requires_grad_()
    entries = quantize.get_parameter("embedding.weight").requires_grad_()
    q, _, loss = quantize(z)
    found = torch.autograd.grad(loss + (q * train["w"]).mean(), [z, entries])
    quantize.requires_grad_(False)
    for ours, key in zip(found, ("grad_prequant", "grad_codebook"), strict=True):
        golden.assert_near(ours, train[key], 1e-6)
