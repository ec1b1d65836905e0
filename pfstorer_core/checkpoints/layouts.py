"""What a checkpoint is, told from its keys."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from .averages import with_averages, without_copies
from .errors import CheckpointError, StateDict
from .parts import AUTOENCODER, CONTROL, LQ_ENCODER, SWINIR, UNET
from .parts.autoencoder import CODEBOOK, with_own_names
from .words import first_keys

SFT = UNET.prefix + "input_blocks.1.0.spade.mlp_shared.0.weight"
TRANSFORMER = UNET.prefix + "middle_block.1.transformer_blocks.0.attn2.to_k.weight"
"""Of U-Nets that read a text."""
ATTENTION = UNET.prefix + "middle_block.1.qkv.weight"
"""Of U-Nets that read none."""
ZERO_CONV = CONTROL.prefix + "zero_convs.0.0.weight"
HINT_NETWORK = CONTROL.prefix + "input_hint_block.0.weight"
"""Of ControlNets that see a picture in pixels, which DiffBIR's does not."""
PARALLEL = "module."
"""Before all keys of what torch's DistributedDataParallel saved."""
FUSION = AUTOENCODER.prefix + "decoder.fusion_layer_1.encode_enc_1.conv1.weight"


@dataclass(frozen=True)
class Layout:
    """A kind of file that can be loaded.

    Attributes:
        has, lacks: keys that tell it from the others.
        architecture: of the restorer that it is a part of.
    """

    name: str
    has: tuple[str, ...]
    lacks: tuple[str, ...] = ()
    architecture: str = "stablesr"


RESTORER = Layout(
    "a full StableSR checkpoint or PFStorer restorer", (UNET.key, SFT, LQ_ENCODER.key, AUTOENCODER.key)
)
OWN_WEIGHTS = Layout("StableSR's own weights alone", (SFT, LQ_ENCODER.key), lacks=(UNET.key,))
MODEL = Layout(
    "a restorer without its VAE, as ModelSave writes it",
    (UNET.key, SFT, LQ_ENCODER.key),
    lacks=(AUTOENCODER.key, AUTOENCODER.prefix + "decoder.conv_out.weight"),
)
DIFFBIR = Layout(
    "a full DiffBIR checkpoint",
    (UNET.key, CONTROL.key, ZERO_CONV, AUTOENCODER.key),
    lacks=(HINT_NETWORK,),
    architecture="diffbir",
)
CONTROL_NETWORK = Layout(
    "DiffBIR's control network alone",
    (CONTROL.key, ZERO_CONV),
    lacks=(UNET.key, HINT_NETWORK),
    architecture="diffbir",
)
DIFFBIR_MODEL = Layout(
    "a DiffBIR restorer without its VAE, as ModelSave writes it",
    (UNET.key, CONTROL.key, ZERO_CONV),
    lacks=(AUTOENCODER.key, AUTOENCODER.prefix + "decoder.conv_out.weight", HINT_NETWORK),
    architecture="diffbir",
)
CFW = Layout("a CFW autoencoder, or its fusion layers alone", (FUSION,), lacks=(UNET.key, LQ_ENCODER.key))
BASE = Layout(
    "a Stable Diffusion 2.1 checkpoint",
    (UNET.key, AUTOENCODER.key, TRANSFORMER),
    lacks=(SFT, LQ_ENCODER.key, CONTROL.key),
)
PRIOR = Layout(
    "a latent diffusion model without a text, such as FFHQ's or a CLR-Face prior",
    (UNET.key, ATTENTION, AUTOENCODER.key),
    lacks=(SFT, LQ_ENCODER.key, CONTROL.key),
    architecture="clr_face",
)
PRIOR_MODEL = Layout(
    "a latent diffusion model without its first stage, such as ReF-LDM's",
    (UNET.key, ATTENTION),
    lacks=(SFT, LQ_ENCODER.key, CONTROL.key, AUTOENCODER.key, AUTOENCODER.prefix + "decoder.conv_out.weight"),
    architecture="clr_face",
)
FIRST_STAGE = Layout(
    "a VQ autoencoder alone, the first stage of latent diffusion models",
    (AUTOENCODER.key, AUTOENCODER.prefix + CODEBOOK),
    lacks=(UNET.key,),
)
LAYOUTS = (
    RESTORER, MODEL, OWN_WEIGHTS, DIFFBIR, DIFFBIR_MODEL, CONTROL_NETWORK, PRIOR, PRIOR_MODEL, FIRST_STAGE,
    CFW, BASE,
)  # fmt: skip
RESTORERS = (RESTORER, DIFFBIR, PRIOR)
"""What restores by itself, all but a text tower."""
CLEANER = Layout(
    "a SwinIR alone, which cleans pictures for DiffBIR", (SWINIR.key,), lacks=(UNET.key, CONTROL.key)
)
"""Not one of these: it restores nothing by itself."""


@dataclass(frozen=True)
class Foreign:
    """A well-known kind of model that people try to load here.

    Attributes:
        has: what one of its keys is like that only it has; lacks: what none of its keys is like.
        advice: what to do about it.
    """

    name: str
    has: str
    lacks: str = ""
    advice: str = ""


CLEANERS = "cleaners come in by Load Upscale Model, and from there into a node's input cleaner"
NEWER = "StableSR's and DiffBIR's weights go on top of Stable Diffusion 2.1, such as v2-1_512-ema-pruned.ckpt"

UPSCALER = Foreign(
    "an upscaler or restorer of another architecture",
    r"^(conv_first|model\.0|body\.0|stylegan_decoder|fuse_convs_dict|vqvae|m_head)\.",
    advice=CLEANERS,
)
FOREIGN = (
    Foreign("a LoRA", r"lora[._](up|down|A|B|unet|te)|\.hada_w|\.lokr_"),
    Foreign("an unCLIP checkpoint", r"^noise_augmentor\."),
    Foreign("an SDXL or SD Turbo checkpoint", r"^conditioner\.embedders\.|\.label_emb\.0\.0\.", advice=NEWER),
    Foreign("a Stable Diffusion 1.x checkpoint", r"^cond_stage_model\.transformer\.", advice=NEWER),
    Foreign(
        "a Stable Diffusion 3, Flux or other transformer",
        r"(^|\.)(joint|double|single)_blocks\.|x_embedder\.",
        advice=NEWER,
    ),
    Foreign(
        "a SwinIR, such as DiffBIR's cleaner",
        re.escape(SWINIR.key),
        lacks=rf"^(control_model\.|{re.escape(UNET.prefix)})",
        advice=CLEANERS,
    ),
    Foreign(
        "a ControlNet",
        r"^control_model\.|(^|\.)input_hint_block\.|^controlnet_|(^|\.)zero_convs\.",
        advice="DiffBIR's control networks are v1_face.pth, v1_general.pth, v2.pth and DiffBIR_v2.1.pt",
    ),
    Foreign("a model in the layout of diffusers", r"(^|\.)(down_blocks|mid_block|up_blocks)\."),
    Foreign(
        "a face recogniser",
        r"^layer1\.0\.(prelu\.weight|conv1\.bias)$",
        advice="it goes into models/face_recognizers, and is loaded by Load Face Recognizer",
    ),
    Foreign("a textual inversion", r"^(emb_params|string_to_param|string_to_token|clip_[gl])$"),
    Foreign(
        "a text or image encoder",
        r"^(text_model|vision_model|visual|transformer\.resblocks|encoder\.block)\.",
    ),
    UPSCALER,
)
"""The first that matches is it."""

CONTEXT_WIDTHS = {768: "a Stable Diffusion 1.x checkpoint", 2048: "an SDXL checkpoint"}
"""Those of U-Nets without a text encoder beside them, by the width of the context that they read."""

VAE = Foreign("a plain VAE", "")


def with_prefixes(tensors: Mapping[str, Tensor]) -> StateDict:
    """The tensors of a file under the keys that a full checkpoint has for them: an autoencoder alone, its
    fusion layers alone, a control network alone or a cleaner alone get their prefix, and what several
    processes trained loses theirs. A U-Net without a text has the averages of its weights where there are
    some.

    Raises:
        CheckpointError: see `with_averages`.
    """
    if all(key.startswith(PARALLEL) for key in tensors):
        tensors = {key.removeprefix(PARALLEL): value for key, value in tensors.items()}
    if ZERO_CONV.removeprefix(CONTROL.prefix) in tensors:
        return CONTROL.prefixed(tensors)
    if SWINIR.sign in tensors:
        return SWINIR.prefixed(tensors)
    if ATTENTION in tensors:
        tensors = with_averages(without_copies(tensors), UNET.prefix)
    prefix = AUTOENCODER.prefix
    tensors = with_own_names(tensors)
    if not any(key.removeprefix(prefix) in tensors for key in (AUTOENCODER.key, FUSION)):
        return tensors
    bare = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.", "quantize.")
    return {prefix + key if key.startswith(bare) else key: value for key, value in tensors.items()}


def identify(tensors: Mapping[str, Tensor], name: str, also: tuple[Layout, ...] = ()) -> Layout:
    """Which of `LAYOUTS` a file is.

    Args:
        tensors: of a file, `with_prefixes`.
        name: of the file, for the error.
        also: further layouts that it may be.
    Raises:
        CheckpointError: none of them; names the well-known model that it is instead, or else the
            layouts that were tried with the keys that decided.
    """
    for layout in (*LAYOUTS, *also):
        if _is(tensors, layout) and not (layout is BASE and foreign(tensors)):
            return layout
    if known := foreign(tensors):
        advice = f": {known.advice}" if known.advice else ""
        raise CheckpointError(
            f"{name} is {known.name}, which cannot restore{advice}. "
            "Expected StableSR's or DiffBIR's weights, "
            f"or a latent diffusion model without a text; tried: {'; '.join(one.name for one in LAYOUTS)}."
        )
    tried = "; ".join(f"{layout.name} ({_against(tensors, layout)})" for layout in LAYOUTS)
    raise CheckpointError(
        f"{name} is none of the files that can be loaded. Tried: {tried}. "
        f"Its own keys: {first_keys(tensors) or 'none'}."
    )


def foreign(tensors: Mapping[str, Tensor]) -> Foreign | None:
    """The well-known model of another kind that these keys belong to, if any."""
    keys = "\n".join(tensors)

    def found(pattern: str) -> bool:
        return bool(pattern) and re.search(pattern, keys, re.MULTILINE) is not None

    for model in FOREIGN:
        if found(model.has) and not found(model.lacks):
            return model
    widths = {value.shape[-1:] for key, value in tensors.items() if key.endswith(".attn2.to_k.weight")}
    for width, name in CONTEXT_WIDTHS.items():
        if (width,) in widths:
            return Foreign(name, "", advice=NEWER)
    return VAE if AUTOENCODER.key in tensors and UNET.key not in tensors else None


def _is(tensors: Mapping[str, Tensor], layout: Layout) -> bool:
    return all(key in tensors for key in layout.has) and not any(key in tensors for key in layout.lacks)


def _against(tensors: Mapping[str, Tensor], layout: Layout) -> str:
    missing = [f"no {key}" for key in layout.has if key not in tensors]
    surplus = [f"but has {key}" for key in layout.lacks if key in tensors]
    return (missing + surplus or ["of another kind"])[0]
