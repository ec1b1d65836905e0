"""ChooseIdentity."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..pfstorer_core.personalization.base import Adapter
from ..pfstorer_core.recognition.identification import THRESHOLD
from .host.adapters import IdentityAdapterType
from .host.choosing import BASE, LEAVE, choose, faces_in, faces_known
from .host.folders import DLIB, recognizer_path
from .host.images import from_image, to_image
from .host.inputs import adapters_input
from .host.notes import show_notes
from .host.recognition import FaceRecognizerType, HostedRecognizer


class ChooseIdentity(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ChooseIdentity",
            display_name="Choose Identity",
            category="PFStorer",
            description="Gives each face in a picture or film to the one of several people whose adapter it "
            "belongs to, or to nobody.",
            search_aliases=["who is it", "face recognition", "identify", "face match", "group photo", "video",
                            "who", "person", "pfstorer"],
            inputs=[
                io.Image.Input("image", tooltip="One picture, several, or the frames of a film, in which a "
                               "face is followed."),
                adapters_input(),
                io.Float.Input("threshold", default=THRESHOLD, min=0.0, max=1.0, step=0.01,
                               tooltip="Likeness that a face needs to be a person's: 0 is as strangers are, "
                               "1 as like as can be. Higher leaves more faces to nobody."),
                io.BoundingBox.Input("bboxes", optional=True, force_input=True,
                                     tooltip="From Find Faces: only these faces. Unconnected: all that the "
                                     "built-in detector finds."),
                FaceRecognizerType.Input("recognizer", optional=True, tooltip="The one that the "
                                         "adapters' faces were embedded by. Unconnected: dlib's, which "
                                         "comes with the pack."),
                io.Combo.Input("others", options=[LEAVE, BASE], default=LEAVE, optional=True,
                               tooltip="What becomes of faces that are nobody's: they stay untouched, or the "
                               "restorer draws them without a person."),
            ],
            outputs=[
                IdentityAdapterType.Output(display_name="identity_adapter", is_output_list=True,
                                           tooltip="A list: of each person who is there."),
                io.BoundingBox.Output(display_name="bboxes", is_output_list=True,
                                      tooltip="A list in the same order: where the person is, for Crop "
                                      "Face."),
                io.String.Output(display_name="report", tooltip="A line for each face: who, and how near."),
                io.Image.Output(display_name="sheet", tooltip="The faces, each under its person."),
            ],
            hidden=[io.Hidden.unique_id],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, image: Tensor, identity_adapters: Mapping[str, Adapter], threshold: float, bboxes: Any = None,
        recognizer: HostedRecognizer | None = None, others: str = LEAVE,
    ) -> io.NodeOutput:  # fmt: skip
        pictures = from_image(image).cpu().clamp(0, 1)
        recognizer = recognizer or HostedRecognizer.load(recognizer_path(DLIB))
        known = faces_known(identity_adapters, recognizer)
        faces, people = faces_in(pictures, bboxes), list(identity_adapters.values())
        chosen = choose(pictures, faces, people, known, recognizer, threshold, others)
        shown = show_notes(cls.hidden.unique_id, chosen.lines) if cls.hidden else {}
        report = "\n".join(chosen.lines)
        return io.NodeOutput(chosen.adapters, chosen.boxes, report, to_image(chosen.sheet), ui=shown)
