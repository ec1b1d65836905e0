"""The core's U-Net on the host's layers, with the host's patches between its blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import comfy.patcher_extension
import torch
from comfy.ldm.modules.attention import BasicTransformerBlock, optimized_attention
from torch import Tensor

from ...pfstorer_core.models import Backend, BlockHooks, UNet, UNetConfig
from ...pfstorer_core.models.layers import NO_SITES, LayerInputs, SelfAttention, Site, attn1_name


class HostUNet(UNet):
    """The core's U-Net, built from the host's layers and patched by the host's patches."""

    def __init__(
        self,
        *,
        sizes: UNetConfig,
        attn_precision: torch.dtype | None,
        dtype: torch.dtype,
        device: torch.device,
        operations: Any,
        **_: Any,  # sizes in the host's own words, which only its LoRA key map and patches read
    ) -> None:
        block = partial(BasicTransformerBlock, attn_precision=attn_precision, checkpoint=False)
        super().__init__(sizes, Backend(operations, optimized_attention, block, dtype, device))
        self.dtype = dtype

    def forward(  # type: ignore[override]
        self,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor | None = None,
        y: Tensor | None = None,
        control: dict | None = None,
        transformer_options: dict | None = None,
        **kwargs: Any,
    ) -> Tensor:
        options = transformer_options or {}
        wrappers = comfy.patcher_extension.get_all_wrappers(
            comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, options
        )
        executor = comfy.patcher_extension.WrapperExecutor.new_class_executor(self._denoise, self, wrappers)
        return executor.execute(x, timesteps, context, y, control, options, **kwargs)

    def _denoise(
        self,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor | None,
        y: Tensor | None,
        control: dict | None,
        transformer_options: dict,
        lq_latent: Tensor | None = None,
        condition: Any = None,
        condition_context: Tensor | None = None,
        sites: Mapping[str, Site] = NO_SITES,
        self_attention: SelfAttention | None = None,
        hooks: BlockHooks | None = None,
        **_: Any,
    ) -> Tensor:
        """In the host's words, and with `hooks` in the core's own: then without the host's patches."""
        options = transformer_options if hooks is None else reading_options(hooks)
        attend = self_attention if hooks is None else hooks.self_attention
        options.update(original_shape=list(x.shape), transformer_index=0)
        given = {"x": x, "timesteps": timesteps, "context": context, "y": y}
        patched = block_hooks(options, self.config.model_channels, given, attend)
        condition = lq_latent if condition is None else condition
        condition = self.conditioning(condition, x, timesteps, context, condition_context)
        if control:
            condition = replace(condition, residuals=[*condition.residuals, control])
        until = hooks.until if hooks else ""
        return super().forward(x, timesteps, context, condition, sites, replace(patched, until=until))


def reading_options(hooks: BlockHooks) -> dict[str, Any]:
    """The host's options by which its transformer blocks tell their queries to the text."""

    def attend(read: Callable[[Tensor], object]) -> Callable[..., Tensor]:
        def replacement(q: Tensor, k: Tensor, v: Tensor, options: dict[str, Any]) -> Tensor:
            read(q)
            return optimized_attention(q, k, v, options["n_heads"])

        return replacement

    replaced = {(*host_block(name), 0): attend(read) for name, read in hooks.queries.items()}
    return {"patches_replace": {"attn2": replaced}}


def with_self_attention(
    options: dict[str, Any], name: str, number: int, self_attention: SelfAttention
) -> dict[str, Any]:
    """The host's options for one block of a transformer, whose self-attention is run by this. What another
    node put in its place (SAG, PAG) stays: it knows nothing of further keys."""
    place, replaced = host_block(name), options.get("patches_replace", {})
    others = replaced.get("attn1", {})
    if place in others or (*place, number) in others:
        return options

    def replacement(q: Tensor, k: Tensor, v: Tensor, extra: dict[str, Any]) -> Tensor:
        attend = partial(
            optimized_attention,
            heads=extra["n_heads"],
            attn_precision=extra["attn_precision"],
            transformer_options=extra,
        )
        return self_attention(attn1_name(name, number), q, k, v, attend)

    own = {**others, (*place, number): replacement}
    return {**options, "patches_replace": {**replaced, "attn1": own}}


def host_block(name: str) -> tuple[str, int]:
    """What the host calls a block: "output_blocks.4.1" is of ("output", 4)."""
    part, *numbers = name.split(".")
    part = part.removesuffix("_block").removesuffix("_blocks")
    return part, 0 if part == "middle" else int(numbers[0])


def block_hooks(
    options: dict, model_channels: int, given: dict[str, Any], self_attention: SelfAttention | None = None
) -> BlockHooks:
    """The host's block patches (FreeU, PatchModelAddDownscale, …) as the core's hooks.

    Args:
        options: the host's `transformer_options`, in which the network keeps its place for the patches.
        self_attention: see `BlockHooks`.
    """
    patches: dict[str, list] = options.get("patches", {})

    def start(block: str, inputs: LayerInputs) -> LayerInputs:
        options["block"] = host_block(block)
        return inputs

    def transformer(
        name: str,
        blocks: Iterable[torch.nn.Module],
        tokens: Tensor,
        context: Tensor | None,
        shape: Sequence[int],
    ) -> Tensor:
        options["activations_shape"] = list(shape)
        for number, block in enumerate(blocks):
            options["block_index"] = number
            seen = with_self_attention(options, name, number, self_attention) if self_attention else options
            tokens = block(tokens, context=context, transformer_options=seen)
        options["transformer_index"] += 1
        return tokens

    def each(name: str, *rest: Any) -> Any:
        def run(h: Tensor) -> Tensor:
            for patch in patches[name]:
                h = patch(h, *rest, options)
            return h

        return run if patches.get(name) else None

    def middle(h: Tensor, emb: Tensor) -> Tensor:
        for patch in patches["middle_block_after_patch"]:
            h = patch({"h": h, "emb": emb, "transformer_options": options, **given})["h"]
        return h

    def output(h: Tensor, skip: Tensor) -> tuple[Tensor, Tensor]:
        for patch in patches["output_block_patch"]:
            h, skip = patch(h, skip, options)
        return h, skip

    return BlockHooks(
        start=start,
        transformer=transformer,
        self_attention=self_attention,
        emb=each("emb_patch", model_channels),
        input=each("input_block_patch"),
        after_skip=each("input_block_patch_after_skip"),
        middle=middle if patches.get("middle_block_after_patch") else None,
        output=output if patches.get("output_block_patch") else None,
    )
