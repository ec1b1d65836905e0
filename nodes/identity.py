"""FaceIdentityGuidance, and what it reports."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io
from torch import Tensor

from ..pfstorer_core.restorers.clr_face.mask import check_mask, load_mask
from .host.conditioning import restorer_of
from .host.folders import mask_names, mask_path, stamp
from .host.guidance import GradientDecoder
from .host.guidance_masks import GuidanceMask
from .host.identity_guidance import (
    FaceGuide,
    person_of,
    record_of,
    settings_of,
    with_identity_guidance,
)
from .host.images import from_images, from_mask
from .host.inputs import percent, photos_input
from .host.notes import show_text
from .host.recognition import FaceRecognizerType, HostedRecognizer


class FaceIdentityGuidance(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FaceIdentityGuidance",
            display_name="Face Identity Guidance",
            category="PFStorer",
            description="Steers a restoration so that a face recogniser finds the person in it. Needs no "
            "training; every guided step decodes the face.",
            search_aliases=["clr-face", "identity", "arcface", "guidance", "likeness", "same person",
                            "face similarity", "pfstorer"],
            inputs=[
                io.Model.Input("model", tooltip="From Load Base Restorer, also after Apply Personalization."),
                io.Vae.Input("vae", tooltip="From the same Load Base Restorer."),
                FaceRecognizerType.Input("recognizer", tooltip="From Load Face Recognizer. Judge the result "
                                         "by another one: this one will always find it good."),
                io.Float.Input("strength", default=0.01, min=0.0, max=2.0, step=0.005, round=0.001,
                               tooltip="Length of a step, as a part of the latent's spread. 0 is the MODEL "
                               "as it is, bit for bit; 0.05 and more shows as noise."),
                photos_input(least=0),
                io.Float.Input("blend", default=1.0, min=0.0, max=1.0, step=0.05, optional=True,
                               tooltip="Towards whom: 1 the photos, 0 the face in the bad (or cleaned) "
                               "picture. Without photos it is always the picture."),
                io.Mask.Input("mask", optional=True, tooltip="Where to guide, over the whole picture, such "
                              "as eyes, nose and mouth. One for all pictures, or one for each; of any size."),
                io.Combo.Input("latent_mask", options=mask_names(), default="none", optional=True,
                               tooltip="What of the latent takes part. none: all of it. landmarks: eyes, "
                               "nose and mouth. A file of models/identity_masks: what train-mask learned."),
                percent("start_percent", 0.4, "begins"),
                percent("end_percent", 1.0, "ends"),
                io.Int.Input("every", default=1, min=1, max=100, optional=True, advanced=True,
                             tooltip="Guides only every n-th step: faster, and weaker."),
            ],
            outputs=[io.Model.Output(tooltip="The guided MODEL: for a sampler, and then for Identity "
                                     "Guidance Report.")],
            hidden=[io.Hidden.unique_id],
        )  # fmt: skip

    @classmethod
    def fingerprint_inputs(cls, latent_mask: str = "none", **_: Any) -> str:
        """A mask that was replaced is loaded again."""
        path = mask_path(latent_mask) if latent_mask in mask_names() else None
        return stamp(path) if path else ""

    @classmethod
    def execute(
        cls, model: ModelPatcher, vae: Any, recognizer: HostedRecognizer, strength: float,
        photos: Mapping[str, Tensor] | None = None, blend: float = 1.0, mask: Tensor | None = None,
        latent_mask: str = "none",
        start_percent: float = 0.4, end_percent: float = 1.0, every: int = 1,
    ) -> io.NodeOutput:  # fmt: skip
        settings = settings_of(strength, every, start_percent, end_percent)
        restorer, path = restorer_of(model, vae), mask_path(latent_mask)
        learned = load_mask(path) if path else latent_mask
        if not isinstance(learned, str):
            check_mask(learned, restorer.latent_format.latent_channels)
        area = None if mask is None else from_mask(mask).cpu()
        if not strength or (area is not None and not area.any()):
            return io.NodeOutput(model.clone())
        given = from_images(photos or {}, "photos")
        wanted = person_of(recognizer, given) if given else None
        say = partial(show_text, cls.hidden.unique_id) if cls.hidden else lambda _: None
        guide = FaceGuide(
            settings, recognizer, GradientDecoder(vae, "identity guidance", "restore without it"), wanted,
            blend, None if area is None else GuidanceMask(area), learned, say,
        )  # fmt: skip
        return io.NodeOutput(with_identity_guidance(model, guide))


class IdentityGuidanceReport(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="IdentityGuidanceReport",
            display_name="Identity Guidance Report",
            category="PFStorer",
            description="Whether Face Identity Guidance acted: the likeness in each guided step.",
            search_aliases=["clr-face", "likeness", "face similarity", "loss", "pfstorer"],
            inputs=[
                io.Model.Input("model",
                               tooltip="From Face Identity Guidance: the one that was sampled with."),
                io.Latent.Input("samples", tooltip="What the sampler made with it."),
            ],
            outputs=[
                io.Custom("LOSS_MAP").Output(display_name="loss", tooltip="1 - likeness before each guided "
                                             "step, and after the last: for Plot Loss Graph."),
                io.String.Output(display_name="report", tooltip="The same in words."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, model: ModelPatcher, samples: dict[str, Any]) -> io.NodeOutput:
        record, name = record_of(model, samples["samples"])
        if not record.curve:
            raise ValueError(record.described(name))
        return io.NodeOutput({"loss": [1 - likeness for likeness in record.curve]}, record.described(name))
