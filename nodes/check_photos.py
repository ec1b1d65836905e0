"""CheckPhotos."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import comfy.model_management as mm
from comfy_api.latest import io
from comfy_execution.graph_utils import ExecutionBlocker

from ..pfstorer_core.imaging.faces import face_finder
from ..pfstorer_core.personalization.photo_checks import check_photos
from .host.folders import DLIB, recognizer_path
from .host.images import to_image
from .host.inputs import photos_input
from .host.lists import single_values
from .host.notes import show_notes
from .host.photos import Autogrown, photos_in
from .host.recognition import FaceRecognizerType, HostedRecognizer

NONE_FIT = "None of the photos is fit to learn a person from: Check Photos says why."


class CheckPhotos(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CheckPhotos",
            display_name="Check Photos",
            category="PFStorer",
            description="Says of each photo whether it is fit to learn the person from, and passes on the "
            "faces of those that are.",
            search_aliases=["photo quality", "blurry", "sharpness", "duplicate", "face crop", "dataset",
                            "training images", "pfstorer"],
            is_output_node=True,
            is_input_list=True,  # a list of photos is one person
            inputs=[
                photos_input(),
                FaceRecognizerType.Input("recognizer", optional=True, tooltip="What tells the odd one out. "
                                         "Unconnected: dlib's, which comes with the pack."),
                io.Int.Input("size", default=256, min=16, max=4096, optional=True, advanced=True,
                             tooltip="Side of the pictures that the restorer draws: 256 for those that come "
                             "with the pack, 512 for StableSR's and DiffBIR's. Smaller faces are enlarged."),
            ],
            outputs=[
                io.Image.Output(display_name="photos", tooltip="The faces of all photos that are not to be "
                                "left out, cut as they are learned from: one batch."),
                io.Image.Output(display_name="sheet", tooltip="All photos: green good, yellow doubtful, red "
                                "to be left out."),
                io.String.Output(display_name="report", tooltip="A line for each photo."),
            ],
            hidden=[io.Hidden.unique_id],
        )  # fmt: skip

    @classmethod
    def execute(cls, photos: Autogrown, **inputs: Sequence[Any]) -> io.NodeOutput:
        given, pictures = single_values(inputs), [photo.cpu() for photo in photos_in(photos)]
        recognizer = given.get("recognizer") or HostedRecognizer.load(recognizer_path(DLIB))
        find = face_finder(on_tick=mm.throw_exception_if_processing_interrupted)
        checked = check_photos(pictures, recognizer.loaded(len(pictures)).embed, given.get("size", 256), find)
        lines = checked.lines()
        shown = show_notes(cls.hidden.unique_id, lines) if cls.hidden else {}
        passed = to_image(checked.squares()) if checked.kept else ExecutionBlocker(NONE_FIT)
        return io.NodeOutput(passed, to_image(checked.sheet()), "\n".join(lines), ui=shown)
