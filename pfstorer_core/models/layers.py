"""A U-Net's block as a row of layers, and what they see of one evaluation besides their features."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

Site = Callable[[Tensor], Tensor]
"""Maps the tokens F [B, H·W, C] of a layer to F̂ (PFStorer eq. 3)."""

Transform = Callable[[str, Iterable[nn.Module], Tensor, "Tensor | None", Sequence[int]], Tensor]
"""``transform(name, blocks, tokens, context, shape) -> tokens``, see `BlockHooks`."""

SelfAttention = Callable[[str, Tensor, Tensor, Tensor, Callable[..., Tensor]], Tensor]
"""``self_attention(name, q, k, v, attend) -> out``, see `BlockHooks`: q, k, v and the result are [B, N, C].
``attend(q, k, v)`` is what the layer would have done; it takes more keys than queries, and ``mask=`` numbers
that are added to the scores, see `ops.Attention`."""

AroundAttention = Callable[[Tensor, Tensor, Tensor, Callable[..., Tensor]], Tensor]
"""The same for one layer: ``around(q, k, v, attend) -> out``."""


@dataclass(frozen=True)
class BlockHooks:
    """Optional callbacks of a U-Net, by which a host lets its users patch it and others look into it.

    Attributes:
        start: ``start(block, inputs) -> inputs``, before each block, by its name ("input_blocks.4",
            "middle_block"); may change what the block's layers see.
        emb: of the time embedding. input: of h before, and after_skip: after it is kept for the decoder.
        middle: ``middle(h, emb)``, after the middle block. output: ``output(h, skip) -> (h, skip)``, before
            an output block. Each but `output` returns its first argument's replacement.
        transformer: runs the blocks of a transformer, instead of itself, by its name: on the tokens
            [B, H·W, C] of features of the shape [B, C, H, W].
        self_attention: runs each self-attention, instead of itself, by its name: "input_blocks.3.1" of plain
            attention, "input_blocks.3.1.transformer_blocks.0.attn1" in a transformer.
        queries: by the name of a transformer, what is told the queries [B, H·W, C] of its first block's
            attention to the text.
        until: name of the output block whose features are wanted: nothing after it is computed.
    """

    start: Callable[[str, LayerInputs], LayerInputs] | None = None
    emb: Callable[[Tensor], Tensor] | None = None
    input: Callable[[Tensor], Tensor] | None = None
    after_skip: Callable[[Tensor], Tensor] | None = None
    middle: Callable[[Tensor, Tensor], Tensor] | None = None
    output: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None
    transformer: Transform | None = None
    self_attention: SelfAttention | None = None
    queries: Mapping[str, Callable[[Tensor], object]] = field(default_factory=dict)
    until: str = ""


NO_HOOKS = BlockHooks()
NO_SITES: Mapping[str, Site] = {}


@dataclass(frozen=True)
class LayerInputs:
    """What every layer of one evaluation sees besides its features.

    Attributes:
        emb: of the time steps, behind its SiLU [B, E].
        context: text context [B, M, D], which transformers attend to.
        features: for SFT, one map [b, F, h, w] a level, finest first; None leaves SFT out.
        sites: by the name of a layer ("output_blocks.4.1"), what replaces its tokens.
        size: (height, width) that an enlargement has to end with; None: twice that of its features.
        rows: that SFT has a part in, see `Conditioning`.
        shifts, shared: by the name of a residual block, what its `emb_layers` make of `emb` [B, C] and its
            SFT's `mlp_shared` of the features [b, F', h, w], as far as that is known before.
    """

    emb: Tensor
    context: Tensor | None = None
    features: Sequence[Tensor] | None = None
    sites: Mapping[str, Site] = field(default_factory=dict)
    hooks: BlockHooks = field(default_factory=lambda: NO_HOOKS)
    size: tuple[int, int] | None = None
    rows: Tensor | None = None
    shifts: Mapping[str, Tensor] = field(default_factory=dict)
    shared: Mapping[str, Tensor] = field(default_factory=dict)

    def self_attention(self, name: str) -> AroundAttention | None:
        """What runs the self-attention of this name."""
        hook = self.hooks.self_attention
        return partial(hook, name) if hook else None

    def for_block(self, block: str) -> LayerInputs:
        """What the block of this name sees."""
        return self.hooks.start(block, self) if self.hooks.start else self


def attn1_name(transformer: str, block: int) -> str:
    """What the self-attention in a block of a transformer is called."""
    return f"{transformer}.transformer_blocks.{block}.attn1"


class Layer(nn.Module):
    """A layer that sees more than its features."""

    def forward(self, h: Tensor, given: LayerInputs, name: str = "") -> Tensor:
        """h [B, C, H, W]; `name` is the layer's own in its network."""
        raise NotImplementedError


class Block(nn.ModuleList):
    """One block of a U-Net: a few layers in a row.

    `recompute`: forget what is inside the block until its gradients are asked for (Chen et al. 2016).
    """

    recompute = False

    def __init__(self, name: str, *layers: nn.Module) -> None:
        super().__init__(layers)
        self.name = name

    def forward(self, h: Tensor, given: LayerInputs) -> Tensor:
        if self.recompute and torch.is_grad_enabled():
            # Nothing in a block is random, and a CUDA graph cannot keep the state of what would be.
            return checkpoint(_as_it_is(self), h, given, use_reentrant=False, preserve_rng_state=False)
        return self.run(h, given)

    def run(self, h: Tensor, given: LayerInputs) -> Tensor:
        for index, layer in enumerate(self):
            h = layer(h, given, f"{self.name}.{index}") if isinstance(layer, Layer) else layer(h)
        return h


class _Run(nn.Module):
    """Calls nothing but `Block.run`."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.block = block

    def forward(self, h: Tensor, given: LayerInputs) -> Tensor:
        return self.block.run(h, given)


def _as_it_is(block: Block) -> Callable[[Tensor, LayerInputs], Tensor]:
    """The block with the weights that it has now: those which `functional_call` lends it are gone again when
    the backward pass asks for its features once more."""
    inside = _Run(block)
    weights: dict[str, Tensor] = dict(inside.named_parameters())
    return lambda h, given: functional_call(inside, weights, (h, given))
