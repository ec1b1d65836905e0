"""Layers that read the same input are one product, and nobody sees it in the result."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from lab.benchmarks.operations import counted
from pfstorer_core.models import UNet, UNetConfig
from pfstorer_core.models.packing import each, jointly, pack

from .small import CONTROLLED, SIZES

Evaluate = Callable[[nn.Module], Tensor]


def network(sizes: UNetConfig = SIZES) -> UNet:
    torch.manual_seed(0)
    return UNet(sizes).eval().requires_grad_(False)


@pytest.fixture
def evaluate() -> Evaluate:
    generator = torch.Generator().manual_seed(1)
    x, lq = torch.randn(2, 2, 4, 8, 8, generator=generator)
    context = torch.randn(2, 5, SIZES.context_dim, generator=generator)
    return lambda unet: unet(x, torch.tensor([3, 700]), context, lq)


@pytest.mark.parametrize("sizes", [SIZES, CONTROLLED], ids=["sft", "control"])
def test_packed_networks_say_the_same_in_fewer_operations(sizes: UNetConfig, evaluate: Evaluate) -> None:
    plain, packed = network(sizes), network(sizes)
    names = list(packed.state_dict())
    pack(packed)
    assert list(packed.state_dict()) == names
    for name, value in plain.state_dict().items():
        assert torch.equal(packed.state_dict()[name], value), name
    torch.testing.assert_close(evaluate(packed), evaluate(plain), rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        before, after = (counted(lambda unet=unet: evaluate(unet)) for unet in (plain, packed))
    attentions = sum(name.endswith("attn1.to_q.weight") for name in names)
    texts = sum(name.endswith("attn2.to_k.weight") for name in names)
    encoders = 2  # the U-Net's, and that of what reads the condition
    embedded = sum("emb_layers.1.weight" in name for name in names)
    saved = {"addmm": embedded - encoders, "mm": 2 * attentions + texts}
    if sizes is SIZES:
        sfts, levels = sum("mlp_beta.weight" in name for name in names), len(SIZES.channel_mult)
        saved |= {"convolution": sfts + (sfts - levels), "relu": sfts - levels}
    assert {name: before[name] - after[name] for name in saved} == saved


class Called(nn.Module):
    """A network at work, whose weights may be lent."""

    def __init__(self, unet: UNet, evaluate: Evaluate) -> None:
        super().__init__()
        self.unet, self.evaluate = unet, evaluate

    def forward(self) -> Tensor:
        return self.evaluate(self.unet)


def test_weights_are_one_in_memory_alone(evaluate: Evaluate) -> None:
    """Each can be lent, changed, copied and moved as ever."""
    unet = network()
    pack(unet)
    name, given = "output_blocks.2.0.spade.mlp_beta.weight", evaluate(unet)
    weight = unet.get_parameter(name)
    lent = functional_call(Called(unet, evaluate), {f"unet.{name}": weight + 0.1}, ())
    assert (lent - given).abs().max() > 1e-4, "a lent weight is not seen"
    assert torch.equal(evaluate(unet), given)
    with torch.no_grad():
        weight += 0.1
    torch.testing.assert_close(evaluate(unet), lent, rtol=1e-4, atol=1e-5)
    twin = copy.deepcopy(unet)
    with torch.no_grad():
        weight.zero_()
    torch.testing.assert_close(evaluate(twin), lent, rtol=1e-4, atol=1e-5)
    moved = unet.to(torch.float64).to(torch.float32)
    torch.testing.assert_close(evaluate(moved), evaluate(unet), rtol=1e-4, atol=1e-5)


def test_weights_in_training_get_their_gradients() -> None:
    layers = [nn.Linear(4, n, bias=False) for n in (3, 2)]
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    one = [layer(x).square().sum() for layer in layers]
    expected = torch.autograd.grad(one[0] + 2 * one[1], [layer.weight for layer in layers])
    row = Row(layers)
    pack(row)
    found = [out.square().sum() for out in each(layers, x)]
    gradients = torch.autograd.grad(found[0] + 2 * found[1], [layer.weight for layer in layers])
    for gradient, known in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, known)
    assert jointly(layers, x) is None, "packed weights know no gradients"
    row.requires_grad_(False)
    assert jointly(layers, x) is not None


class Row(nn.Module):
    def __init__(self, layers: list[nn.Linear]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def joint_layers(self) -> list[list[nn.Module]]:
        return [list(self.layers)]


def test_a_hosts_layers_are_left_to_the_host() -> None:
    class Linear(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return 2 * super().forward(input)

    layers, x = [Linear(4, 3), Linear(4, 3)], torch.ones(1, 4)
    pack(Row([*layers]).requires_grad_(False))
    for layer, out in zip(layers, each(layers, x), strict=True):
        assert torch.equal(out, layer(x))
