"""The rule that gives DiffBIR's golden weights, against the sums in the files' headers."""

import pytest
import torch

from . import diffbir, golden

RULED = [
    (name, group)
    for name in sorted(path.stem for path in golden.folder().glob("diffbir_*.safetensors"))
    for group in golden.metadata(name).get("weights_check", {})
]


@pytest.mark.parametrize(("name", "group"), RULED)
def test_sums(name: str, group: str) -> None:
    found = list(diffbir.weights(name, group).values())
    numbers = torch.cat([tensor.flatten() for tensor in found]).double()
    expected = golden.metadata(name)["weights_check"][group]
    assert (len(found), len(numbers)) == (expected["tensors"], expected["numbers"])
    assert numbers.sum().item() == pytest.approx(expected["sum"], rel=1e-9)
    assert numbers.square().sum().item() == pytest.approx(expected["sum_of_squares"], rel=1e-9)
