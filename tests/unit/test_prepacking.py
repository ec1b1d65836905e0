"""Convolutions on a CPU have their weights laid out once, and nobody sees it in the result."""

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from lab.benchmarks.operations import Operations
from pfstorer_core import Restorer, restore
from pfstorer_core.models.prepacking import PIXELS, number_formats, prepacked

from .small import small_diffbir, small_restorer

LAID_OUT, CALLED = "mkldnn_reorder_conv2d_weight", "_convolution_pointwise"
ROUNDING = {torch.float32: 1e-5, torch.bfloat16: 1e-2}
"""Relative; sums are added up in another order."""


class Two(nn.Module):
    """Convolutions of the kinds that U-Nets have."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(16, 24, 3, 2, 1, dtype=dtype).requires_grad_(False)
        self.second = nn.Conv2d(24, 8, 1, bias=False, dtype=dtype).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x))


def picture(rows: int = 1, side: int = 9, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(rows + side)
    return torch.randn(rows, 16, side, side, generator=generator).to(dtype)


def test_this_machine_has_a_layout_of_its_own() -> None:
    assert torch.float32 in number_formats(), "the other tests are blind"


@pytest.mark.parametrize("dtype", number_formats(), ids=str)
def test_the_result_is_the_same_for_all_sizes(dtype: torch.dtype) -> None:
    network = Two(dtype)
    given = [picture(rows, side, dtype) for rows, side in [(2, 9), (1, 9), (3, 16), (1, 2), (1, 40)]]
    plain = [network(x) for x in given]
    with torch.no_grad(), prepacked(network):
        for x, expected in zip(given, plain, strict=True):
            found = network(x)
            torch.testing.assert_close(found, expected, rtol=ROUNDING[dtype], atol=ROUNDING[dtype])
            assert found.is_contiguous()
            last = network(x.to(memory_format=torch.channels_last))
            torch.testing.assert_close(last, expected, rtol=ROUNDING[dtype], atol=ROUNDING[dtype])
            assert last.is_contiguous(memory_format=torch.channels_last)


def test_weights_are_laid_out_once_and_where_there_are_few_pixels() -> None:
    network = Two()
    with torch.no_grad(), prepacked(network):
        with Operations() as first:
            network(picture())
        with Operations() as again:
            network(picture(rows=2))
        halved = picture(side=60)
        assert halved[:, 0].numel() > PIXELS > halved[:, 0].numel() / 4
        with Operations() as large:
            network(halved)
    assert first.counts[LAID_OUT] == first.counts[CALLED] == again.counts[CALLED] == 2
    assert not again.counts[LAID_OUT]
    assert large.counts[CALLED] == 1, "the second, which sees a quarter of the pixels"


def test_weights_that_are_lent_are_seen() -> None:
    network, x = Two(), picture()
    lent = {"first.weight": network.first.weight + 0.1}
    expected = functional_call(network, lent, x)
    with torch.no_grad(), prepacked(network):
        given = network(x)
        torch.testing.assert_close(functional_call(network, lent, x), expected)
        torch.testing.assert_close(network(x), given)
    assert (given - expected).abs().max() > 1e-2, "the test is blind"


def test_all_is_as_before_afterwards() -> None:
    network, x = Two(), picture()
    expected = network(x)
    with pytest.raises(KeyError), prepacked(network):
        raise KeyError
    assert torch.equal(network(x), expected)
    assert all("forward" not in vars(module) for module in network.modules())


def test_one_may_begin_and_end_within_another() -> None:
    """Such as two threads that restore by one restorer."""
    network, x = Two(), picture()
    one, other = prepacked(network), prepacked(network)
    with torch.no_grad():
        expected = network(x)
        one.__enter__()
        other.__enter__()
        one.__exit__(None, None, None)
        torch.testing.assert_close(network(x), expected)
        other.__exit__(None, None, None)
    assert all("forward" not in vars(module) for module in network.modules())


def test_a_forward_pass_that_somebody_put_there_stays() -> None:
    network, x = Two(), picture()
    plain = network.first.forward
    network.first.forward = lambda input: plain(input) + 1
    with torch.no_grad():
        expected = network(x)
        with prepacked(network):
            torch.testing.assert_close(network(x), expected)
        torch.testing.assert_close(network(x), expected)


def test_gradients_flow() -> None:
    network, x = Two(), picture().requires_grad_()
    with prepacked(network):
        network(x).sum().backward()
    assert x.grad is not None
    assert x.grad.abs().max() > 0


class Cast(nn.Conv2d):
    """A host's convolution, which does something of its own to its weight."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) + 1


@pytest.mark.parametrize(
    "other",
    [
        Cast(16, 8, 3, padding=1),
        nn.Conv2d(16, 8, 3, padding="same"),
        nn.Conv2d(16, 8, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(16, 8, 3, padding=1, dtype=torch.float64),
    ],
    ids=["host", "same", "reflect", "fp64"],
)
def test_other_convolutions_stay_as_they_are(other: nn.Conv2d) -> None:
    x = picture().to(other.weight.dtype)
    with torch.no_grad():
        expected = other(x)
        with prepacked(other):
            assert torch.equal(other(x), expected)


@pytest.mark.parametrize("make", [small_restorer, small_diffbir])
def test_restoring_lays_them_out_once_for_all_steps(make) -> None:
    restorer: Restorer = make()
    with Operations() as seen:
        restore(restorer, torch.rand(1, 3, 16, 16), upscale=2, steps=3)
    convolutions = sum(isinstance(module, nn.Conv2d) for module in restorer.unet.modules())
    assert 0 < seen.counts[LAID_OUT] <= convolutions
    assert seen.counts[CALLED] == 3 * seen.counts[LAID_OUT]
