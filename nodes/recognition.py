"""LoadFaceRecognizer."""

from __future__ import annotations

from comfy_api.latest import io

from .host.folders import recognizer_names, recognizer_path, stamp
from .host.notes import show_notes
from .host.recognition import FaceRecognizerType, HostedRecognizer


class LoadFaceRecognizer(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoadFaceRecognizer",
            display_name="Load Face Recognizer",
            category="PFStorer",
            description="Loads a network that tells by a picture who it is, to guide and to judge by.",
            search_aliases=["arcface", "insightface", "dlib", "identity", "face embedding", "pfstorer"],
            inputs=[
                io.Combo.Input(
                    "name",
                    options=recognizer_names(),
                    tooltip="A file of models/face_recognizers. dlib_resnet29 comes with the pack; "
                    "insightface's recognisers load as state dicts (backbone.pth).",
                )
            ],
            outputs=[
                FaceRecognizerType.Output(
                    display_name="recognizer",
                    tooltip="For Face Identity Guidance, Likeness Report, Check Photos or Choose Identity.",
                )
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def fingerprint_inputs(cls, name: str | None = None) -> str:
        """A file that was replaced is loaded again. What is linked from another node is not known here."""
        return stamp(recognizer_path(name)) if name else ""

    @classmethod
    def execute(cls, name: str) -> io.NodeOutput:
        recognizer = HostedRecognizer.load(recognizer_path(name))
        if cls.hidden:
            show_notes(cls.hidden.unique_id, [recognizer.recognizer.described()])
        return io.NodeOutput(recognizer)
