"""The loss of denoising, of rows with and without an LQ picture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch.nn.functional as F
from torch import Tensor

from ...models.layers import BlockHooks, SelfAttention
from ..base import Restorer
from ..condition import UNCONDITIONAL

Evaluate = Callable[[Restorer, Tensor, Tensor, Tensor, Tensor, Tensor, SelfAttention | None], Tensor]
"""(restorer, x, t, context, LQ latent, rows that it is for, attention) -> the network's answer."""


def denoising_loss(
    restorer: Restorer,
    *,
    x0: Tensor,
    lq_latent: Tensor,
    noise: Tensor,
    t: Tensor,
    context: Tensor,
    null_lq: Tensor,
    evaluate: Evaluate | None = None,
    attention: SelfAttention | None = None,
) -> Tensor:
    """Mean squared error against the prediction type's target (StableSR section 3.1).

    Args:
        x0, lq_latent, noise: [B, C, H, W], latents scaled as the U-Net sees them.
        t: time steps [B]. context: [B, M, context_dim].
        null_lq: bool [B], the rows that SFT has no part in.
        evaluate: does all rows at once, see `evaluated`; None: those with and those without an LQ picture
            one after the other, which takes less arithmetic.
        attention: what runs the self-attentions of `evaluate`, where photos are looked at.
    """
    x, target = restorer.noised(x0, t, noise), restorer.target(x0, t, noise)
    if evaluate is not None:
        output = evaluate(restorer, x, t, context, lq_latent, ~null_lq[:, None, None, None], attention)
        return F.mse_loss(output.float(), target)
    error = x.new_zeros(())
    for rows, guided in ((~null_lq, True), (null_lq, False)):
        if rows.any():
            condition = restorer.condition(lq_latent[rows]) if guided else UNCONDITIONAL
            output = restorer.denoise(x[rows], t[rows], condition, context[rows])
            error = error + F.mse_loss(output.float(), target[rows], reduction="sum")
    return error / target.numel()


def evaluated(
    restorer: Restorer,
    x: Tensor,
    t: Tensor,
    context: Tensor,
    lq_latent: Tensor,
    guided: Tensor,
    attention: SelfAttention | None = None,
) -> Tensor:
    """`Restorer.denoise` of rows with and without an LQ picture as one graph; `guided`: bool [B, 1, 1, 1]."""
    hooks = BlockHooks(self_attention=attention)
    empty = restorer.header.control_prompt == "empty"
    read = restorer.null_context.expand(len(x), -1, -1) if empty else context
    given = restorer.unet.conditioning(lq_latent, x, t, read)
    if given.channels is not None:
        return restorer.unet(x, t, context, replace(given, channels=given.channels * guided), hooks=hooks)
    return restorer.unet(x, t, context, replace(given, rows=guided), hooks=hooks)
