"""What a checkpoint is, told from its keys; and where each network stands in it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from .words import LONGEST, plain

StateDict = dict[str, Tensor]

PREFIXES = {
    "unet": "model.diffusion_model.",
    "lq_encoder": "structcond_stage_model.",
    "autoencoder": "first_stage_model.",
    "text": "cond_stage_model.",
}
"""Where a Stable Diffusion or StableSR checkpoint keeps each network."""

UNET = PREFIXES["unet"] + "input_blocks.0.0.weight"
SFT = PREFIXES["unet"] + "input_blocks.1.0.spade.mlp_shared.0.weight"
LQ_ENCODER = PREFIXES["lq_encoder"] + "input_blocks.0.0.weight"
AUTOENCODER = PREFIXES["autoencoder"] + "encoder.conv_in.weight"
FUSION = PREFIXES["autoencoder"] + "decoder.fusion_layer_1.encode_enc_1.conv1.weight"


class CheckpointError(ValueError):
    """A file that is not what it has to be; the message says what was expected and found, on one line,
    whatever the file's own names are."""

    # ComfyUI shows an error's class with its module in front, which is a path of folders there, unless it is
    # one of Python's own. So in every class of exceptions of ours.
    __module__ = "builtins"

    def __init__(self, message: str) -> None:
        super().__init__(plain(message, LONGEST))


@dataclass(frozen=True)
class Layout:
    """A kind of file that can be loaded.

    Attributes:
        has, lacks: keys that tell it from the others.
    """

    name: str
    has: tuple[str, ...]
    lacks: tuple[str, ...] = ()


RESTORER = Layout("a full StableSR checkpoint or PFStorer restorer", (UNET, SFT, LQ_ENCODER, AUTOENCODER))
OWN_WEIGHTS = Layout("StableSR's own weights alone", (SFT, LQ_ENCODER), lacks=(UNET,))
MODEL = Layout(
    "a restorer without its VAE, as ModelSave writes it",
    (UNET, SFT, LQ_ENCODER),
    lacks=(AUTOENCODER, PREFIXES["autoencoder"] + "decoder.conv_out.weight"),
)
CFW = Layout("a CFW autoencoder, or its fusion layers alone", (FUSION,), lacks=(UNET, LQ_ENCODER))
BASE = Layout("a Stable Diffusion 2.1 checkpoint", (UNET, AUTOENCODER), lacks=(SFT, LQ_ENCODER))
LAYOUTS = (RESTORER, MODEL, OWN_WEIGHTS, CFW, BASE)

FOREIGN = {
    "a LoRA": r"lora[._](up|down|A|B|unet|te)|\.hada_w|\.lokr_",
    "an unCLIP checkpoint": r"^noise_augmentor\.",
    "an SDXL or SD Turbo checkpoint": r"^conditioner\.embedders\.|\.label_emb\.0\.0\.",
    "a Stable Diffusion 1.x checkpoint": r"^cond_stage_model\.transformer\.",
    "a Stable Diffusion 3, Flux or other transformer": r"(^|\.)(joint|double|single)_blocks\.|x_embedder\.",
    "a ControlNet": r"^control_model\.|(^|\.)input_hint_block\.|^controlnet_|(^|\.)zero_convs\.",
    "a model in the layout of diffusers": r"(^|\.)(down_blocks|mid_block|up_blocks)\.",
    "a textual inversion": r"^(emb_params|string_to_param|string_to_token|clip_[gl])$",
    "a text or image encoder": r"^(text_model|vision_model|visual|transformer\.resblocks|encoder\.block)\.",
    "an upscaler or restorer of another architecture": r"^(conv_first|model\.0|body\.0|stylegan_decoder)\."
    r"|^(fuse_convs_dict|vqvae)\.",
}
"""Well-known models that people try to load here, and keys that only they have."""

CONTEXT_WIDTHS = {768: "a Stable Diffusion 1.x checkpoint", 2048: "an SDXL checkpoint"}
"""Those of U-Nets without a text encoder beside them, by the width of the context that they read."""

VAE = "a plain VAE"


def with_prefixes(tensors: Mapping[str, Tensor]) -> StateDict:
    """The tensors of a file under the keys that a full checkpoint has for them: an autoencoder alone, or
    its fusion layers alone, get their prefix."""
    prefix = PREFIXES["autoencoder"]
    if not any(key.removeprefix(prefix) in tensors for key in (AUTOENCODER, FUSION)):
        return dict(tensors)
    bare = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.")
    return {prefix + key if key.startswith(bare) else key: value for key, value in tensors.items()}


def part(tensors: Mapping[str, Tensor], name: str) -> StateDict:
    """The state dict of one network ("unet", "lq_encoder", "autoencoder", "text"), without its prefix."""
    prefix = PREFIXES[name]
    return {key[len(prefix) :]: value for key, value in tensors.items() if key.startswith(prefix)}


def identify(tensors: Mapping[str, Tensor], name: str) -> Layout:
    """Which of `LAYOUTS` a file is.

    Args:
        tensors: of a file, `with_prefixes`.
        name: of the file, for the error.
    Raises:
        CheckpointError: none of them; names the well-known model that it is instead, or else the
            layouts that were tried with the keys that decided.
    """
    for layout in LAYOUTS:
        if _is(tensors, layout) and not (layout is BASE and foreign(tensors)):
            return layout
    tried = "; ".join(f"{layout.name} ({_against(tensors, layout)})" for layout in LAYOUTS)
    if known := foreign(tensors):
        raise CheckpointError(
            f"{name} is {known}, which cannot restore. Expected StableSR's weights; tried: {tried}."
        )
    raise CheckpointError(
        f"{name} is none of the files that can be loaded. Tried: {tried}. "
        f"Its own keys: {first(tensors) or 'none'}."
    )


def foreign(tensors: Mapping[str, Tensor]) -> str | None:
    """The well-known model of another kind that these keys belong to, if any."""
    keys = "\n".join(tensors)
    for name, pattern in FOREIGN.items():
        if re.search(pattern, keys, re.MULTILINE):
            return name
    widths = {value.shape[-1:] for key, value in tensors.items() if key.endswith(".attn2.to_k.weight")}
    for width, name in CONTEXT_WIDTHS.items():
        if (width,) in widths:
            return name
    return VAE if AUTOENCODER in tensors and UNET not in tensors else None


def first(keys: Iterable[str], count: int = 4) -> str:
    """The first keys of a list, for an error."""
    listed = list(keys)
    return ", ".join(map(plain, listed[:count])) + (", …" if len(listed) > count else "")


def _is(tensors: Mapping[str, Tensor], layout: Layout) -> bool:
    return all(key in tensors for key in layout.has) and not any(key in tensors for key in layout.lacks)


def _against(tensors: Mapping[str, Tensor], layout: Layout) -> str:
    missing = [f"no {key}" for key in layout.has if key not in tensors]
    surplus = [f"but has {key}" for key in layout.lacks if key in tensors]
    return (missing + surplus or ["of another kind"])[0]
