"""Files of restorers: opening one or more of them as one restorer, loading its networks, writing it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..checkpoints.errors import CheckpointError, StateDict
from ..checkpoints.header import RestorerHeader
from ..checkpoints.layouts import (
    BASE,
    CFW,
    CLEANER,
    CONTROL_NETWORK,
    DIFFBIR_MODEL,
    FIRST_STAGE,
    MODEL,
    OWN_WEIGHTS,
    PRIOR,
    PRIOR_MODEL,
    RESTORERS,
    Layout,
)
from ..checkpoints.parts import AUTOENCODER, LQ_ENCODER, SWINIR, TEXT, UNET
from ..checkpoints.parts.text import LONGEST_TEXT
from ..checkpoints.tensors import check_fit, is_finite, load_exactly, read_layout, write_safetensors
from ..checkpoints.words import plain
from ..diffusion.schedule import PredictionType
from ..models import Autoencoder, AutoencoderConfig, Backend, SwinIR, UNet, UNetConfig
from ..models.packing import pack
from .base import Restorer
from .context import null_context
from .diffbir.cleaner import Cleaner, load_swinir
from .joints import check_joints, joined
from .keys import NULL_CONTEXT, file_tensors, unet_weights
from .registry import check_architecture, header_of


class RestorerSource(NamedTuple):
    """Where a restorer is opened from: see `open_restorer`."""

    path: Path | str
    addons: Sequence[Path | str] = ()
    prediction_type: PredictionType | None = None
    variant: str | None = None


@dataclass(frozen=True)
class RestorerFile:
    """An opened restorer: tensors by network, still in their files, and the sizes that they tell.

    Attributes:
        unet: with the LQ encoder under ``lq_encoder.``, or the control network under ``control_model.``.
        text: of the text tower; empty where there is none.
        cleaner: SwinIR of the first stage of DiffBIR and CLR-Face; empty where there is none.
        source: the files; None where the tensors came from elsewhere.
    """

    unet: StateDict
    autoencoder: StateDict
    text: StateDict
    null_context: Tensor | None
    unet_config: UNetConfig
    autoencoder_config: AutoencoderConfig
    header: RestorerHeader
    source: RestorerSource | None = None
    cleaner: StateDict = field(default_factory=dict)

    def check_fit(self) -> None:
        """Raise CheckpointError, with the keys, where a network is not complete or of another shape."""
        unet, autoencoder = self.expected
        check_fit(unet, self.unet, "U-Net")
        check_fit(autoencoder, self.autoencoder, "autoencoder")
        if self.text:
            TEXT.check_fit(self.text, TEXT.config_from(self.text))

    @cached_property
    def expected(self) -> tuple[StateDict, StateDict]:
        """What `unet` and `autoencoder` have to hold, told by the networks on the meta device."""
        unet, autoencoder = self.build(Backend(device="meta"))
        return unet.state_dict(), autoencoder.state_dict()

    def build(self, backend: Backend) -> tuple[UNet, Autoencoder]:
        """The networks, without their weights."""
        return UNET.build(self.unet_config, backend), AUTOENCODER.build(self.autoencoder_config, backend)


def open_restorer(
    path: Path | str,
    addons: Sequence[Path | str] = (),
    prediction_type: PredictionType | None = None,
    variant: str | None = None,
) -> RestorerFile:
    """Read a restorer and tell its sizes, without building the networks.

    Args:
        path: a StableSR or DiffBIR checkpoint, a latent diffusion model without a text, one of our restorers,
            or an SD 2.1 checkpoint (see `layouts`).
        addons: StableSR's own weights alone or DiffBIR's control network alone, which go on top of an SD 2.1
            checkpoint, the latter also of a restorer; a restorer without its VAE, on top of that one; a CFW
            autoencoder; the first stage of a latent diffusion model; a SwinIR, which cleans pictures.
        prediction_type: overrides what header and file name say.
        variant: of the published weights; overrides what the file name says, where there is no header.
    Raises:
        FileNotFoundError, PermissionError: see `read_checkpoint`.
        CheckpointError: not a restorer, one that lacks a part, or one whose variant nothing tells; the
            message says which file to add.
        ValueError: another prediction type than "eps" and "v", or a variant that there is not.
    """
    source = RestorerSource(path, tuple(addons), prediction_type, variant)
    path = Path(path)
    tensors, metadata, layout = read_layout(path, (CLEANER,))
    if layout not in (*RESTORERS, BASE, PRIOR_MODEL):
        raise CheckpointError(
            f"{path.name} holds {layout.name}: it goes on top of a checkpoint. Choose {_WHERE[layout]} as "
            "the checkpoint, and this file as an add-on."
        )
    told = (metadata, tensors, path.name)
    for addon in map(Path, addons):
        extra, metadata, kind = read_layout(addon, (CLEANER,))
        if kind not in ADDONS:
            raise CheckpointError(
                f"{addon.name} is {kind.name}, not an add-on: choose it as the checkpoint itself."
            )
        if kind is FIRST_STAGE and layout not in (PRIOR, PRIOR_MODEL):
            raise CheckpointError(f"{addon.name} is {kind.name}, and {path.name} is none of them.")
        tensors = joined(tensors, extra, kind)
        if kind not in (CFW, CLEANER, FIRST_STAGE):
            layout, told = kind, (metadata, extra, addon.name)
    if layout is BASE:
        raise CheckpointError(
            f"{path.name} is {BASE.name}: it can draw pictures, but not restore them. Add StableSR's own "
            f"weights ({LQ_ENCODER.prefix}* and *.spade.*), such as webui_768v_139.ckpt, or DiffBIR's "
            "control network, such as v1_face.pth."
        )
    if layout is PRIOR_MODEL and AUTOENCODER.key not in tensors:
        raise CheckpointError(
            f"{path.name} is {PRIOR_MODEL.name}: add that as an add-on, such as vqgan.ckpt for refldm.ckpt."
        )
    header = header_of(*told, layout, variant)
    check_architecture(header, path.name)
    if prediction_type is not None:
        header = replace(header, prediction_type=prediction_type)
    try:
        return replace(_restorer_file(tensors, header), source=source)
    except CheckpointError as error:
        names = " + ".join(Path(file).name for file in (path, *addons))
        raise CheckpointError(f"{names}: {error}") from error


_WHERE: dict[Layout, str] = {
    OWN_WEIGHTS: "an SD 2.1 checkpoint (of 768 pixels for a 768v file)",
    MODEL: "the restorer that it was saved from",
    CONTROL_NETWORK: "an SD 2.1 checkpoint, or the restorer that it was trained on",
    DIFFBIR_MODEL: "the restorer that it was saved from",
    CFW: "a StableSR checkpoint",
    FIRST_STAGE: "the latent diffusion model, such as refldm.ckpt,",
    CLEANER: "a DiffBIR or CLR-Face restorer",
}
ADDONS = (OWN_WEIGHTS, MODEL, CONTROL_NETWORK, DIFFBIR_MODEL, PRIOR_MODEL, FIRST_STAGE, CFW, CLEANER)


def _restorer_file(tensors: StateDict, header: RestorerHeader) -> RestorerFile:
    unet = unet_weights(tensors)
    autoencoder, text = AUTOENCODER.of(tensors), TEXT.of(tensors)
    sizes = UNET.config_from(unet, header)
    autoencoder_sizes = AUTOENCODER.config_from(autoencoder, header)
    check_joints(sizes, autoencoder_sizes, header.condition)
    for network in (unet, autoencoder, TEXT.weights(text)):
        check_numbers(network)
    context, cleaner = tensors.get(NULL_CONTEXT), SWINIR.of(tensors)
    if cleaner and header.condition == "sft":
        raise CheckpointError(
            "there is a cleaner, but not DiffBIR's control network, with which it goes: add that or leave "
            "the cleaner out. To clean pictures for this restorer choose it by --cleaner or in the samplers."
        )
    return RestorerFile(unet, autoencoder, text, context, sizes, autoencoder_sizes, header, cleaner=cleaner)


def check_numbers(weights: Mapping[str, Tensor]) -> None:
    """Raise CheckpointError unless all weights are fractions: from anything else a network of other
    numbers would be made, without a word."""
    for key, value in weights.items():
        if not value.is_floating_point():
            kind = str(value.dtype).removeprefix("torch.")
            raise CheckpointError(f"{plain(key)} is stored as {kind}, expected floating-point numbers.")


def load_restorer(
    path: Path | str,
    *addons: Path | str,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    prediction_type: PredictionType | None = None,
    variant: str | None = None,
    text: bool = False,
    channels_last: bool = False,
) -> Restorer:
    """Load a restorer for use without a host.

    Args:
        path, addons, prediction_type, variant: see `open_restorer`.
        text: also load the text tower, for prompts other than the empty one, where the U-Net reads any.
        channels_last: keep the pixels of features one after the other, not their channels, as convolutions
            want it. Faster on CPUs, but there torch's GroupNorm loses digits so, where the mean of features
            is far above their deviation; on GPUs not measured, see docs/gpu.md.
    Raises:
        FileNotFoundError, PermissionError, CheckpointError: see `open_restorer`; also where there is
            neither a null context nor a text tower to make it.
    """
    file = open_restorer(path, addons, prediction_type, variant)
    context = file_context(file, Path(path).name)
    text = text and bool(file.unet_config.context_dim)
    if text and not file.text:
        raise CheckpointError(
            f"{Path(path).name} has no text tower, so it cannot read prompts, nor learn a person."
        )
    meta = Backend(device="meta")
    unet, autoencoder = file.build(meta)
    tower = TEXT.build(TEXT.config_from(file.text), meta) if text else None
    placement = {"device": device, "dtype": dtype}

    def load(network: nn.Module, what: str, weights: Callable[[RestorerFile], StateDict]) -> None:
        """From a mapping of its own: what was read of a file stays in memory for as long as its mapping."""
        mapped = open_restorer(path, addons, prediction_type, variant)
        load_exactly(network, weights(mapped), what, placement=placement)
        network.eval().requires_grad_(False)
        if channels_last:
            network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        pack(network)

    load(unet, "U-Net", lambda mapped: mapped.unet)
    load(autoencoder, "autoencoder", lambda mapped: mapped.autoencoder)
    if tower is not None:
        load(tower, "text tower", lambda mapped: TEXT.weights(mapped.text))
    cleaner = Cleaner.of(load_swinir(file.cleaner).to(device, dtype)) if file.cleaner else None
    return Restorer(unet, autoencoder, context.to(device, dtype), file.header, tower, cleaner)


def file_context(file: RestorerFile, name: str) -> Tensor:
    """The context of the empty prompt: the file's own, else that of its text tower, in fp32; [1, 1, 0] where
    the U-Net reads no text.

    Raises:
        CheckpointError: neither is there, or it does not fit the U-Net.
        ImportError: see `tokenize`.
    """
    width = file.unet_config.context_dim
    if not width:
        return torch.zeros(1, 1, 0)
    context = _file_context(file, name)
    tokens = context.shape[1] if context.ndim == 3 else 0
    if not 0 < tokens <= LONGEST_TEXT or context.shape[0] != 1 or context.shape[2] != width:
        raise CheckpointError(
            f"The empty prompt's context of {name} has the shape {list(context.shape)}, but its U-Net reads "
            f"[1, tokens, {width}], of up to {LONGEST_TEXT} tokens."
        )
    if not is_finite(context):
        raise CheckpointError(f"The empty prompt's context of {name} holds NaN or infinity.")
    return context


def _file_context(file: RestorerFile, name: str) -> Tensor:
    if file.null_context is not None:
        return file.null_context.float()
    if not file.text:
        raise CheckpointError(
            f"{name} carries neither {NULL_CONTEXT} nor a text tower to make the empty prompt's context."
        )
    return null_context(file.text)


def save_restorer(restorer: Restorer, path: Path | str, dtype: torch.dtype = torch.float16) -> None:
    """Write a restorer as one file, under the key names of StableSR's checkpoints."""
    text = restorer.text.state_dict() if restorer.text else {}
    cleaner = restorer.cleaner.network if isinstance(restorer.cleaner, Cleaner) else None
    tensors = file_tensors(
        restorer.unet.state_dict(),
        restorer.autoencoder.state_dict(),
        text,
        restorer.null_context,
        cleaner.state_dict() if isinstance(cleaner, SwinIR) else {},
    )
    write_safetensors(path, tensors, restorer.header.to_metadata(), dtype)
