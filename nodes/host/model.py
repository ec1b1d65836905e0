"""A restorer as a native MODEL."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Any, cast

import comfy.conds
import comfy.latent_formats
import comfy.model_base
import comfy.model_management as mm
import comfy.model_patcher
import comfy.supported_models
import comfy.utils
import torch
from torch import Tensor

from ...pfstorer_core.checkpoints.header import HEADER_TENSOR
from ...pfstorer_core.checkpoints.parts import SWINIR
from ...pfstorer_core.diffusion.schedule import PredictionType
from ...pfstorer_core.restorers.changes import Changes, attention_of, sites_of
from ...pfstorer_core.restorers.files import RestorerFile, open_restorer
from ...pfstorer_core.restorers.fingerprint import fingerprint
from ...pfstorer_core.restorers.keys import NULL_CONTEXT, unet_keys
from .adapters import AREA, KEPT, apply_identities, identity_conds, patches_of
from .cfg import set_guidance
from .cleaning import KEY as CLEANER
from .cleaning import build_cleaner, cleaner_weights
from .guidance_masks import ON_LATENT, mask_conds
from .loading import load_weights, patcher_class
from .placement import Placement, check_latent, placement_of
from .unet import HostUNet

LQ_LATENT = "lq_latent"
"""Key of the LQ latent in a conditioning's values, and of the host's U-Net's keyword."""
CLEANED_LATENT = "cleaned_latent"
"""Of what a cleaner made of the LQ picture, in a conditioning's values; among the conditions it is what
sampling starts from."""
NEGATIVE = "pfstorer_negative"
"""In a conditioning's values: whether it is the one that cfg leads away from."""
SEES = "sees_lq"
"""Of the conditions, [B, 1, 1, 1]: 1 where the LQ latent is seen, 0 where zeros stand for it."""
CONTROL_CONTEXT = "condition_context"
"""Of what a control network reads in place of the prompt."""
PICTURES = "pfstorer_pictures"
"""In a conditioning's values: number of the LQ latent's first picture, and of how many it is one."""

MODEL_TYPES = {
    "eps": comfy.model_base.ModelType.EPS,
    "v": comfy.model_base.ModelType.V_PREDICTION,
}


class RestorerLatentFormat(comfy.latent_formats.LatentFormat):
    """Scale and preview colours of a restorer's latents."""

    def __init__(self, file: RestorerFile) -> None:
        self.scale_factor = file.header.scale_factor
        self.latent_channels = file.unet_config.out_channels
        self.spacial_downscale_ratio = file.autoencoder_config.downscale
        preview = file.header.preview
        known = file.autoencoder_config.double_z and self.latent_channels == 4
        sd = comfy.latent_formats.SD15.latent_rgb_factors if known else None
        self.latent_rgb_factors = [row[:3] for row in preview[:-1]] if preview else sd
        self.latent_rgb_factors_bias = list(preview[-1]) if preview else None


class RestorerModelConfig(comfy.supported_models.SD20):
    """What the host wants to know of a restorer, in the words of its own SD 2.x."""

    # Only this entry: the host's others would overwrite our head widths.
    unet_extra_config = {"attn_precision": torch.float32}  # noqa: RUF012 - the host's class attribute

    def __init__(self, file: RestorerFile) -> None:
        sizes, levels = file.unet_config, len(file.unet_config.channel_mult)
        attends = [2**level in sizes.attention_resolutions for level in range(levels)]
        of_each = sizes.transformer_depth if sizes.context_dim else 0
        depth = [of_each * attend for attend in attends]
        super().__init__(
            {
                "sizes": sizes,
                "in_channels": sizes.in_channels,
                "model_channels": sizes.model_channels,
                "channel_mult": list(sizes.channel_mult),
                "num_res_blocks": [sizes.num_res_blocks] * levels,
                "transformer_depth": [d for d in depth for _ in range(sizes.num_res_blocks)],
                "transformer_depth_output": [d for d in depth for _ in range(sizes.num_res_blocks + 1)],
                "transformer_depth_middle": of_each,
                "context_dim": sizes.context_dim,
                "use_linear_in_transformer": True,
            }
        )
        self.latent_format = RestorerLatentFormat(file)
        header = file.header
        self.sampling_settings = {
            "linear_start": header.beta_start,
            "linear_end": header.beta_end,
            "timesteps": header.num_train_timesteps,
            "zsnr": header.rescale_betas_zero_snr,
        }

    def process_unet_state_dict_for_saving(self, state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
        """Back to the key names of StableSR's checkpoints."""
        return unet_keys(state_dict)

    def process_clip_state_dict_for_saving(self, state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
        """To OpenCLIP's names. The host joins q, k and v there, which it cannot do where it streams weights
        and hands out stand-ins that are cast as they are written: those are cast first."""
        there = {k: v if isinstance(v.device, torch.device) else v.to("cpu") for k, v in state_dict.items()}
        return super().process_clip_state_dict_for_saving(there)


class RestorerModel(comfy.model_base.BaseModel):
    """A restorer as the host's model: it adds the LQ latent to the conditions."""

    def __init__(self, file: RestorerFile, config: RestorerModelConfig, device: torch.device) -> None:
        super().__init__(
            config, MODEL_TYPES[file.header.prediction_type], device, unet_model=cast(Any, HostUNet)
        )
        self.sizes = file.unet_config
        self.header = file.header
        self.source = file.source
        self.null_context = file.null_context
        self.fingerprint = fingerprint(file.unet)
        self.cleaner = build_cleaner(file.cleaner) if file.cleaner else None
        self.cleaner_keys = list(file.cleaner)

    def state_dict_for_saving(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """What the host's save nodes write: with the header and the null context among the tensors,
        since the host writes metadata of its own, and with the cleaner that came in the file."""
        extra = {HEADER_TENSOR: self.header.to_tensor()}
        if self.null_context is not None and self.null_context.numel():
            extra[NULL_CONTEXT] = self.null_context
        if self.cleaner is not None:
            extra |= SWINIR.prefixed(cleaner_weights(self.cleaner, self.cleaner_keys))
        return super().state_dict_for_saving(*args, **kwargs) | extra

    def extra_conds_shapes(self, **kwargs: Any) -> dict[str, Any]:
        """What `memory_required` is told of a conditioning."""
        return super().extra_conds_shapes(**kwargs) | ({KEPT: [kwargs[KEPT]]} if KEPT in kwargs else {})

    def memory_required(self, input_shape: Any, cond_shapes: Any = MappingProxyType({})) -> float:
        """With what persons keep, which is once there for all conditionings."""
        kept = max((numbers for (numbers,) in cond_shapes.get(KEPT, [])), default=0)
        needed = super().memory_required(input_shape, cond_shapes)
        return needed + kept * mm.dtype_size(self.get_dtype_inference())

    def extra_conds(self, **kwargs: Any) -> dict[str, Any]:
        conds, noise = super().extra_conds(**kwargs), kwargs["noise"]
        channels, start = self.latent_format.latent_channels, kwargs.get("latent_image")
        check_latent(noise if start is None else start, channels, "LATENT")
        rows, size = len(noise), (noise.shape[-2], noise.shape[-1])
        placement = Placement(range(rows), rows, size)
        if (lq := kwargs.get(LQ_LATENT)) is not None:
            check_latent(lq, channels, "conditioning")
            lq = self.process_latent_in(lq.to(kwargs["device"], torch.float32))
            begin = self._cleaned(lq, **kwargs)
            placement = placement_of(lq if begin is None else begin, rows, size, start)
            if self.header.condition != "none":
                conds[LQ_LATENT] = comfy.conds.CONDNoiseShape(placement.of(lq, "bilinear"))
            if begin is not None:
                conds[CLEANED_LATENT] = comfy.conds.CONDNoiseShape(placement.of(begin, "bilinear"))
            if self.header.drops_condition:
                seen = float(not kwargs.get(NEGATIVE))
                conds[SEES] = comfy.conds.CONDRegular(lq.new_full((1, 1, 1, 1), seen))
            if self.header.condition == "control" and self.header.control_prompt == "empty":
                assert self.null_context is not None
                context = self.null_context.to(kwargs["device"], torch.float32)
                conds[CONTROL_CONTEXT] = comfy.conds.CONDRegular(context)
        first, total = kwargs.get(PICTURES, (0, placement.total))
        placement = replace(placement, rows=[first + row for row in placement.rows], total=total)
        conds |= mask_conds(self.current_patcher, noise, kwargs, placement)
        return conds | identity_conds(self.current_patcher, noise, kwargs, placement)

    def _cleaned(self, lq: Tensor, **values: Any) -> Tensor | None:
        """What sampling starts from, where that is not the latent which the U-Net is given."""
        if (found := values.get(CLEANED_LATENT)) is None:
            return lq if self.header.condition == "none" else None
        check_latent(found, self.latent_format.latent_channels, "conditioning")
        return self.process_latent_in(found.to(lq))

    def _apply_model(
        self, x: Tensor, t: Tensor, c_concat: Any = None, c_crossattn: Any = None, control: Any = None,
        transformer_options: dict | None = None, **conds: Any,
    ) -> Tensor:  # fmt: skip
        options = transformer_options or {}
        conds = {name: value for name, value in conds.items() if not name.startswith(ON_LATENT)}
        check_cut(x, conds)
        conds.pop(CLEANED_LATENT, None)
        if (lq := conds.get(LQ_LATENT)) is not None:
            if (seen := conds.pop(SEES, None)) is not None:
                lq = lq * seen
            conds[LQ_LATENT] = distinct_rows(lq, t, len(options.get("cond_or_uncond", [0])))
        evaluate = partial(super()._apply_model, x, t, c_concat)
        if not (patches := patches_of(options)):
            return evaluate(c_crossattn, control, options, **conds)

        def changed(context: Tensor | None, changes: Changes) -> Tensor:
            inside = {"sites": sites_of(changes), "self_attention": attention_of(changes)}
            return evaluate(context, control, options, **conds, **inside)

        return apply_identities(changed, self, patches, t, c_crossattn, conds)


def check_cut(x: Tensor, conds: dict[str, Any]) -> None:
    """Raise ValueError where somebody cut the latent [B, C, h, w] and not what lies on it."""
    for name, value in conds.items():
        if name == LQ_LATENT or name.startswith(AREA):
            rows, size = len(value), list(value.shape[-2:])
            if size != list(x.shape[-2:]) or len(x) % rows:
                raise ValueError(
                    f"The model was given {len(x)} x {list(x.shape[-2:])} latent cells, and {rows} x {size} "
                    f"of {name}: another node cuts the latent, and not the picture that it is restored from. "
                    "For tiles take Tiled Diffusion or Tiled SR Sampler."
                )


def distinct_rows(lq_latent: Tensor, timesteps: Tensor, chunks: int) -> Tensor:
    """The first rows of a batch [B, …], where the others only repeat them: both branches of CFG see the
    same LQ picture, and so do all variations of one picture. The rest needs no LQ encoder and no SFT."""

    def repeats(values: Tensor, rows: int) -> bool:
        return bool((values.unflatten(0, (-1, rows)) == values[:rows]).all())

    for rows in (1, len(lq_latent) // chunks):
        if repeats(lq_latent, rows) and repeats(timesteps, rows):
            return lq_latent[:rows]
    return lq_latent


def build_model(
    file: RestorerFile,
    dtype: torch.dtype | None,
    null_context: Tensor | None = None,
    disable_dynamic: bool = False,
) -> comfy.model_patcher.ModelPatcher:
    """The MODEL of an opened restorer.

    Args:
        dtype: of weights and arithmetic; None lets the host choose, as it does for its own models.
        null_context: that of the empty prompt, where the file has none.
    """
    config = RestorerModelConfig(file)
    device = mm.get_torch_device()
    parameters = sum(value.numel() for value in file.unet.values())
    weight_dtype = comfy.utils.weight_dtype(file.unet)
    chosen = dtype or mm.unet_dtype(
        model_params=parameters,
        supported_dtypes=config.supported_inference_dtypes,
        weight_dtype=weight_dtype,
    )
    manual_cast = None if dtype else mm.unet_manual_cast(chosen, device, config.supported_inference_dtypes)
    config.set_inference_dtype(chosen, manual_cast)
    model = RestorerModel(file, config, torch.device("meta"))
    model.device = mm.unet_inital_load_device(parameters, chosen)
    offload_device = mm.unet_offload_device()
    patcher = patcher_class(disable_dynamic)(model, load_device=device, offload_device=offload_device)
    placement = None if patcher.is_dynamic() else {"dtype": chosen, "device": model.device}
    load_weights(model.diffusion_model, file.unet, "U-Net", file.expected[0], placement)
    if null_context is not None:
        model.null_context = null_context
    set_guidance(patcher, file.header)
    if model.cleaner is not None:
        patcher.set_attachments(CLEANER, model.cleaner)
    return patcher


def load_model(
    path: str,
    addons: Sequence[str],
    prediction_type: PredictionType | None,
    variant: str | None,
    dtype: torch.dtype | None,
    null_context: Tensor | None,
    disable_dynamic: bool = False,
) -> comfy.model_patcher.ModelPatcher:
    """Loads a MODEL afresh: what the host calls for a deep copy with weights of its own."""
    file = open_restorer(path, addons, prediction_type, variant)
    return build_model(file, dtype, null_context, disable_dynamic)
