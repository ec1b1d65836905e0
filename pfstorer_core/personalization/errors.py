"""L_Diff of a person's samples under several conditions at once."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..models import BlockHooks
from ..models.layers import NO_HOOKS
from ..restorers.base import Restorer
from ..restorers.changes import NO_CHANGES, Changes
from ..restorers.condition import Condition, one_after_the_other
from ..training.formats import as_stored


def denoising_errors(
    restorer: Restorer,
    x0: Tensor,
    timesteps: Tensor,
    noise: Tensor,
    conditions: Sequence[Condition],
    context: Tensor | None = None,
    changes: Changes = NO_CHANGES,
    hooks: BlockHooks = NO_HOOKS,
) -> Tensor:
    """`Restorer.denoising_error` under each of the conditions: [N]. All are rows of one evaluation, which
    takes half as many launches as two, and a network that is bf16 does without autocast.

    Args:
        x0, noise: [B, C, h, w]. timesteps: [B]. context: of all rows [N·B, M, context_dim].
    """
    count = len(conditions)
    x, target = restorer.noised(x0, timesteps, noise), restorer.target(x0, timesteps, noise)
    x, dtype = x.repeat(count, 1, 1, 1), restorer.dtype
    condition = one_after_the_other(conditions).to(dtype)
    with as_stored(dtype, x.device):
        output = restorer.denoise(x.to(dtype), timesteps.repeat(count), condition, context, changes, hooks)
    return (output.float().unflatten(0, (count, -1)) - target).square().mean((1, 2, 3, 4))
