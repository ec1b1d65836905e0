"""LikenessReport."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io
from torch import Tensor

from ..pfstorer_core.recognition.likeness import likeness_sheet, measured
from .host.images import to_image
from .host.inputs import photos_input
from .host.likeness import judged_by_its_guide, photos_of, pictures_of
from .host.notes import show_notes
from .host.recognition import FaceRecognizerType, HostedRecognizer


class LikenessReport(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LikenessReport",
            display_name="Likeness Report",
            category="PFStorer",
            description="How like the person a result is, beside what the person's own photos and strangers "
            "have.",
            search_aliases=["likeness", "identity", "face similarity", "same person", "compare faces",
                            "arcface", "face distance", "pfstorer"],
            is_output_node=True,
            inputs=[
                FaceRecognizerType.Input("recognizer", tooltip="From Load Face Recognizer; not the one that "
                                         "the result was guided by."),
                io.Image.Input("result", tooltip="What was restored. Of a batch, the mean is reported."),
                photos_input(),
                io.Image.Input("base", optional=True, tooltip="The same without the person: restored by the "
                               "base alone."),
                io.Image.Input("bad", optional=True, tooltip="The bad picture, of any size."),
                FaceRecognizerType.Input("second", optional=True, tooltip="Another recogniser, such as the "
                                         "one that guided: both are reported."),
                io.Model.Input("model", optional=True, tooltip="The one that the result was sampled with: "
                               "the report says so if one of the recognisers guided it."),
            ],
            outputs=[
                io.String.Output(display_name="report",
                                 tooltip="The numbers as text; the node shows it, too."),
                io.Image.Output(display_name="sheet", tooltip="All faces with their numbers."),
            ],
            hidden=[io.Hidden.unique_id],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, recognizer: HostedRecognizer, result: Tensor, photos: Mapping[str, Tensor],
        base: Any = None, bad: Any = None, second: HostedRecognizer | None = None,
        model: ModelPatcher | None = None,
    ) -> io.NodeOutput:  # fmt: skip
        pictures = pictures_of({"bad": bad, "base": base, "result": result})
        own = photos_of(photos)
        recognizers = [recognizer] if second is None else [recognizer, second]
        found = [measured(one.loaded().embed, pictures, own) for one in recognizers]
        lines = [
            line
            for one, likeness in zip(recognizers, found, strict=True)
            for line in likeness.lines(one.name)
        ]
        lines += judged_by_its_guide(model, recognizers)
        shown = show_notes(cls.hidden.unique_id, lines) if cls.hidden else {}
        sheet = to_image(likeness_sheet(pictures, own, found))
        return io.NodeOutput("\n".join(lines), sheet, ui=shown)
