"""Networks that keep the channels of a pixel side by side."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import pfstorer_core as pf
from pfstorer_core import Restorer

from .small import small_diffbir, small_prior, small_restorer

MAKERS = pytest.mark.parametrize("make", [small_restorer, small_diffbir, small_prior])
SEE_PICTURES = {
    "input_blocks.0.0",
    "lq_encoder.input_blocks.0.0",
    "control_model.input_blocks.0.0",
    "encoder.conv_in",
    "post_quant_conv",
}
"""Convolutions that are given a picture or a latent as it comes: a few channels, which they turn."""


def is_last(tensor: Tensor) -> bool:
    return tensor.is_contiguous(memory_format=torch.channels_last)


def outputs(restorer: Restorer) -> list[Tensor]:
    """Of an evaluation, and of the autoencoder's both ways."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, restorer.unet.config.out_channels, 9, 8, generator=generator)
    picture = torch.rand(1, 3, 32, 32, generator=generator)
    fidelity = 0.5 if restorer.autoencoder.config.cfw else 0.0
    with torch.no_grad():
        found = restorer.denoise(x, torch.full((2,), 500), restorer.condition(x))
        return [found, restorer.encode(picture), restorer.decode(x[:1, :, :8], picture, fidelity)]


@MAKERS
def test_no_layer_turns_features_back(make, tmp_path: Path) -> None:
    pf.save_restorer(make(), tmp_path / "restorer.safetensors")
    plain = pf.load_restorer(tmp_path / "restorer.safetensors")
    last = pf.load_restorer(tmp_path / "restorer.safetensors", channels_last=True)
    turned: set[str] = set()
    for network in (last.unet, last.autoencoder):
        for name, layer in network.named_modules():
            if not isinstance(layer, nn.Conv2d):
                continue
            assert is_last(layer.weight), name

            def look(_: nn.Module, given: tuple[Tensor, ...], name: str = name) -> None:
                if not is_last(given[0]):
                    turned.add(name)

            layer.register_forward_pre_hook(look)
    found, expected = outputs(last), outputs(plain)
    assert turned <= SEE_PICTURES
    assert turned, "the test is blind"
    assert not any(is_last(w) for w in plain.unet.parameters() if w.ndim == 4 and min(w.shape) > 1)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_a_file_is_as_it_was_and_tells_the_same_base(tmp_path: Path) -> None:
    first, again = tmp_path / "first.safetensors", tmp_path / "again.safetensors"
    pf.save_restorer(small_restorer(), first)
    loaded = pf.load_restorer(first, text=True, channels_last=True)
    pf.save_restorer(loaded, again)
    one, other = load_file(first), load_file(again)
    assert one.keys() == other.keys()
    assert [name for name, tensor in one.items() if not torch.equal(tensor, other[name])] == []
    assert loaded.fingerprint == pf.load_restorer(first).fingerprint
