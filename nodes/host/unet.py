"""The core's U-Net on the host's layers, with the host's patches between its blocks."""

from __future__ import annotations

from functools import partial
from typing import Any

import comfy.patcher_extension
import torch
from comfy.ldm.modules.attention import BasicTransformerBlock, optimized_attention
from torch import Tensor

from ...pfstorer_core.models import Backend, BlockHooks, UNet, UNetConfig


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
        personalization: Any = None,
        until: int | None = None,
        where: dict | None = None,
        **_: Any,
    ) -> Tensor:
        transformer_options = transformer_options if where is None else where
        given = {"x": x, "timesteps": timesteps, "context": context, "y": y}
        hooks = block_hooks(transformer_options, self.config.model_channels, given)
        return super().forward(
            x,
            timesteps,
            context,
            lq_latent=lq_latent,
            control=control,
            personalization=personalization,
            until=until,
            hooks=hooks,
            where=transformer_options,
        )


def block_hooks(options: dict, model_channels: int, given: dict[str, Any]) -> BlockHooks:
    """The host's block patches (FreeU, PatchModelAddDownscale, …) as the core's hooks."""
    patches: dict[str, list] = options.get("patches", {})

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
        emb=each("emb_patch", model_channels),
        input=each("input_block_patch"),
        after_skip=each("input_block_patch_after_skip"),
        middle=middle if patches.get("middle_block_after_patch") else None,
        output=output if patches.get("output_block_patch") else None,
    )
