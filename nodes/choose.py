"""ChooseIdentity."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from comfy_api.latest import io

from ..pfstorer_core.recognition.identification import THRESHOLD
from .host.adapters import IdentityAdapterType
from .host.choosing import BASE, LEAVE, Choosing
from .host.folders import DLIB, recognizer_path
from .host.images import to_image
from .host.inputs import adapters_input
from .host.lists import as_list, rounds
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
            is_input_list=True,  # so that each face of a list of pictures goes back into its own
            inputs=[
                io.Image.Input("image", tooltip="One picture, several, or the frames of a film, in which a "
                               "face is followed. A list, as of a folder, is one picture after another."),
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
                io.Image.Output(display_name="images", is_output_list=True,
                                tooltip="A list in the same order: the picture with the person in it, for "
                                "Crop Face where image is a list of pictures."),
            ],
            hidden=[io.Hidden.unique_id],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, image: Any, identity_adapters: Mapping[str, Any], threshold: Any, bboxes: Any = None,
        recognizer: Any = None, others: Any = LEAVE,
    ) -> io.NodeOutput:  # fmt: skip
        given = [as_list(values) for values in (image, bboxes, threshold, others)]
        by: HostedRecognizer = as_list(recognizer)[0] or HostedRecognizer.load(recognizer_path(DLIB))
        people = {name: as_list(adapters) for name, adapters in identity_adapters.items()}
        chosen = Choosing.among(people, by).choose(rounds(given))
        shown = show_notes(cls.hidden.unique_id, chosen.lines) if cls.hidden else {}
        report, sheet = "\n".join(chosen.lines), to_image(chosen.sheet)
        return io.NodeOutput(chosen.adapters, chosen.boxes, report, sheet, chosen.images, ui=shown)
