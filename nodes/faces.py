"""The nodes for pictures with more in them than one face: find, crop and paste faces."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..pfstorer_core.faces import (
    Box,
    Window,
    box_of_mask,
    cut,
    face_window,
    find_faces,
    masks_of_boxes,
    paste,
)
from .images import from_image, to_image
from .paths import face_detector, face_detectors

FaceCropType = io.Custom("FACE_CROP")


class RestorationFindFaces(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="RestorationFindFaces",
            display_name="Find Faces",
            category="PFStorer",
            description="Finds the faces in a picture, from left to right.",
            search_aliases=["face detection", "yunet", "bbox", "pfstorer"],
            inputs=[
                io.Image.Input("image", tooltip="The picture; of a batch, the first one."),
                io.Combo.Input("detector", options=face_detectors(),
                               tooltip="blazeface is built in; YuNet's file lies in models/face_detection "
                               "and needs OpenCV."),
            ],
            outputs=[
                io.BoundingBox.Output(display_name="bboxes"),
                io.Mask.Output(display_name="masks", tooltip="One of each face."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, image: Tensor, detector: str) -> io.NodeOutput:
        picture = from_image(image)[0]
        boxes = [face.box for face in find_faces(picture, face_detector(detector))]
        if not boxes:
            raise ValueError("No face was found: give Crop Face a mask of it, or choose another detector.")
        found = [
            {"x": left, "y": top, "width": right - left, "height": bottom - top, "label": "face"}
            for left, top, right, bottom in boxes
        ]
        return io.NodeOutput([found], masks_of_boxes(boxes, (picture.shape[-2], picture.shape[-1])))


class RestorationCropFace(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="RestorationCropFace",
            display_name="Crop Face",
            category="PFStorer",
            description="Cuts a face out of a picture, with what is around it.",
            search_aliases=["face", "crop", "group photo", "pfstorer"],
            inputs=[
                io.Image.Input("image", tooltip="The whole picture."),
                io.Int.Input("face", default=1, min=1, max=1000,
                             tooltip="Which one: 1 is the first box or mask, from Find Faces the leftmost."),
                io.Float.Input("context", default=0.6, min=0.0, max=4.0, step=0.05,
                               tooltip="What is added around the face, as a part of its size."),
                io.BoundingBox.Input("bboxes", optional=True, force_input=True,
                                     tooltip="Of Find Faces, or of the MediaPipe face landmarker."),
                io.Mask.Input("masks", optional=True, tooltip="Or masks, one of each face."),
            ],
            outputs=[io.Image.Output(), FaceCropType.Output(display_name="face_crop")],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, image: Tensor, face: int, context: float, bboxes: Any = None, masks: Tensor | None = None
    ) -> io.NodeOutput:
        pictures = from_image(image)
        size = pictures.shape[-2], pictures.shape[-1]
        boxes = boxes_of(bboxes) if masks is None else [box_of_mask(mask) for mask in fitting(masks, size)]
        box = boxes[face - 1] if face <= len(boxes) else None
        if box is None:
            raise ValueError(
                f"There is no face {face} in what was given: connect bboxes of Find Faces, or masks."
            )
        window = face_window(box, size, context)
        return io.NodeOutput(to_image(cut(pictures, window)), window)


class RestorationPasteFace(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="RestorationPasteFace",
            display_name="Paste Face",
            category="PFStorer",
            description="Puts a restored face back; the rest of the picture stays as it is.",
            search_aliases=["face", "uncrop", "group photo", "pfstorer"],
            inputs=[
                io.Image.Input("image", tooltip="The whole picture, or an enlarged copy of it."),
                io.Image.Input("face", tooltip="The restored face, of any size."),
                FaceCropType.Input("face_crop", tooltip="Of Crop Face."),
                io.Float.Input("feather", default=0.1, min=0.0, max=0.5, step=0.01,
                               tooltip="Width of the soft border, as a part of the face's window."),
            ],
            outputs=[io.Image.Output()],
        )  # fmt: skip

    @classmethod
    def execute(cls, image: Tensor, face: Tensor, face_crop: Window, feather: float) -> io.NodeOutput:
        pictures, parts = from_image(image), from_image(face)
        if len(parts) not in (1, len(pictures)):
            raise ValueError(f"{len(parts)} faces do not fit {len(pictures)} pictures: give one, or as many.")
        parts = parts.expand(len(pictures), -1, -1, -1)
        return io.NodeOutput(to_image(paste(pictures, parts, face_crop, feather)))


def boxes_of(bboxes: Any) -> list[Box]:
    """The host's boxes: one, a list of them, or a list for each picture, of which the first counts."""
    while isinstance(bboxes, list) and bboxes and isinstance(bboxes[0], list):
        bboxes = bboxes[0]
    found = bboxes if isinstance(bboxes, list) else [bboxes] if bboxes else []
    return [(b["x"], b["y"], b["x"] + b["width"], b["y"] + b["height"]) for b in found]


def fitting(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """Masks [N, H, W] at the picture's size."""
    masks = masks.reshape(-1, 1, *masks.shape[-2:])
    return torch.nn.functional.interpolate(masks, size, mode="nearest-exact")[:, 0]
