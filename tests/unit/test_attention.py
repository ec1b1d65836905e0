"""Attention is the same whichever way it is computed."""

import pytest
import torch
from torch import Tensor

from pfstorer_core.models import ops


@pytest.mark.parametrize("kind", ["none", "keys", "scores"])
def test_matrix_products_and_the_fused_kernel_agree(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    values = [torch.randn(2, n, 64, generator=generator) for n in (24, 10, 10)]
    added = 3 * torch.randn(1, 2, 24, 10, generator=generator)
    mask = {"none": None, "keys": torch.rand(2, 10, generator=generator) > 0.4, "scores": added}[kind]

    def run(dtype: torch.dtype) -> list[Tensor]:
        q, k, v = (x.to(dtype, copy=True).requires_grad_() for x in values)
        given = mask.to(dtype) if kind == "scores" and mask is not None else mask
        out = ops.attention(q, k, v, 2, given)
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


def test_what_is_added_to_the_scores_is_added_to_them() -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, n, 16, generator=generator) for n in (5, 7, 7))
    added = torch.randn(1, 2, 5, 7, generator=generator)
    for head in range(2):
        own = slice(8 * head, 8 * head + 8)
        scores = q[0, :, own] @ k[0, :, own].T / 8**0.5 + added[0, head]
        expected = scores.softmax(-1) @ v[0, :, own]
        torch.testing.assert_close(ops.attention(q, k, v, 2, added)[0, :, own], expected)
