"""Attention is the same whichever way it is computed."""

import pytest
import torch
from torch import Tensor

from pfstorer_core.models import ops


@pytest.mark.parametrize("masked", [False, True])
def test_matrix_products_and_the_fused_kernel_agree(masked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    values = [torch.randn(2, n, 64, generator=generator) for n in (24, 10, 10)]
    mask = torch.rand(2, 10, generator=generator) > 0.4 if masked else None

    def run(dtype: torch.dtype) -> list[Tensor]:
        q, k, v = (x.to(dtype, copy=True).requires_grad_() for x in values)
        out = ops.attention(q, k, v, 2, mask)
        return [out.detach(), *torch.autograd.grad(out.square().sum(), (q, k, v))]

    exact = run(torch.float32)
    products = run(torch.bfloat16)
    monkeypatch.setattr(ops, "SMALL_MAP", 0)
    fused = run(torch.bfloat16)
    for one, other, true in zip(products, fused, exact, strict=True):
        assert one.dtype == torch.bfloat16
        scale = true.abs().max()
        torch.testing.assert_close(one.float(), true, rtol=0, atol=0.03 * scale.item())
        assert (one.float() - true).norm() < 2 * (other.float() - true).norm() + 1e-3
