"""The nodes for pictures with more in them than one face, and for films: find, crop and paste faces."""

from __future__ import annotations

from typing import Any

import comfy.model_management as mm
import torch
from comfy.utils import ProgressBar
from comfy_api.latest import io
from torch import Tensor

from ..pfstorer_core.imaging.alignment import ALIGNMENTS
from ..pfstorer_core.imaging.faces import Face, face_finder, face_windows
from .host.face_crops import (
    FaceCrop,
    Places,
    aligned,
    cut_out,
    pasted,
    pasted_in_list,
    side_of_aligned,
)
from .host.faces import chosen_face, host_boxes, masks_of_faces, others_of, picture_of
from .host.folders import face_detector, face_detectors, stamp
from .host.images import from_image, to_image
from .host.lists import as_list, rounds

FaceCropType = io.Custom("FACE_CROP")
LARGEST_SIZE = 16384


class RestorationFindFaces(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        def limit(name: str, which: str) -> Any:
            return io.Int.Input(name, default=0, min=0, max=LARGEST_SIZE, optional=True,
                                tooltip=f"Longer side of the {which} face, in pixels of the picture; 0: no "
                                "limit.")  # fmt: skip

        return io.Schema(
            node_id="RestorationFindFaces",
            display_name="Find Faces",
            category="PFStorer",
            description="Finds the faces in each picture, from left to right.",
            search_aliases=["face detection", "detect face", "face detailer", "blazeface", "yunet", "bbox",
                            "pfstorer"],
            inputs=[
                io.Image.Input("image", tooltip="One picture, or a batch of them: each is looked through."),
                io.Combo.Input("detector", options=face_detectors(),
                               tooltip="blazeface is built in. YuNet's file lies in models/face_detection "
                               "and needs OpenCV."),
                limit("smallest", "smallest"),
                limit("largest", "largest"),
            ],
            outputs=[
                io.BoundingBox.Output(display_name="bboxes",
                                      tooltip="The faces' boxes, a list for each picture."),
                io.Mask.Output(display_name="masks", tooltip="Of one picture, a mask of each face. Of a "
                               "batch, a mask of each picture, with all of its faces."),
            ],
        )  # fmt: skip

    @classmethod
    def fingerprint_inputs(cls, detector: str = "", **_: Any) -> str:
        path = face_detector(detector) if detector in face_detectors() else None
        return stamp(path) if path else ""

    @classmethod
    def execute(cls, image: Tensor, detector: str, smallest: int = 0, largest: int = 0) -> io.NodeOutput:
        pictures = from_image(image)
        find = face_finder(
            face_detector(detector), smallest, largest, mm.throw_exception_if_processing_interrupted
        )
        bar = ProgressBar(len(pictures))
        found = list[list[Face]]()
        for picture in pictures:
            mm.throw_exception_if_processing_interrupted()
            found.append(find(picture))
            bar.update(1)
        if not any(found):
            where = "the picture" if len(found) == 1 else f"any of the {len(found)} pictures"
            raise ValueError(
                f"No face was found in {where}: give Crop Face a mask of it, set other sizes, or choose "
                "another detector."
            )
        return io.NodeOutput([host_boxes(faces) for faces in found], masks_of_faces(found, pictures))


class RestorationCropFace(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="RestorationCropFace",
            display_name="Crop Face",
            category="PFStorer",
            description="Cuts a face out of a picture, with what is around it; in a film, where it is.",
            search_aliases=["face", "crop", "align", "FFHQ", "face detailer", "group photo", "video",
                            "pfstorer"],
            inputs=[
                io.Image.Input("image", tooltip="The whole picture, or the frames of a film."),
                io.Int.Input("face", default=1, min=1, max=1000,
                             tooltip="Which one: 1 is the first box or mask, from Find Faces the leftmost. "
                             "Frames that have no such face are left out."),
                io.Float.Input("context", default=0.6, min=0.0, max=4.0, step=0.05,
                               tooltip="What is added around the face, as a part of its size; aligned faces "
                               "have FFHQ's."),
                io.BoundingBox.Input("bboxes", optional=True, force_input=True,
                                     tooltip="From Find Faces, or the MediaPipe face landmarker: a list for "
                                     "each picture, or one for all."),
                io.Mask.Input("masks", optional=True,
                              tooltip="Or masks, of any size: one of each face. As many masks as pictures "
                              "(more than one) are one of each picture."),
                io.Combo.Input("align", options=list(ALIGNMENTS), default="auto", optional=True,
                               tooltip="FFHQ: the face upright, at 512 pixels, as DiffBIR needs it. none: a "
                               "square as it lies. auto: what the model says, else none."),
                io.Model.Input("model", optional=True,
                               tooltip="The restorer that the face is for: it says whether its faces are "
                               "aligned, and at which size."),
            ],
            outputs=[
                io.Image.Output(tooltip="All of one size. Frames without the face are left out."),
                FaceCropType.Output(display_name="face_crop",
                                    tooltip="Where each face was cut out: for Paste Face."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, image: Tensor, face: int, context: float, bboxes: Any = None, masks: Tensor | None = None,
        align: str = "auto", model: Any = None,
    ) -> io.NodeOutput:  # fmt: skip
        pictures = from_image(image)
        faces = chosen_face(pictures, face, bboxes, masks)
        size = pictures.shape[-2], pictures.shape[-1]
        windows: Places = face_windows([one and one.box for one in faces], size, context)
        if side := side_of_aligned(align, model):
            windows = aligned(pictures, faces, side, mm.throw_exception_if_processing_interrupted)
        crops = [cut_out(p, window) for p, window in zip(pictures.split(1), windows, strict=True) if window]
        others = others_of(None if masks is not None else bboxes, len(pictures), face)
        boxes = tuple((one and one.box, beside) for one, beside in zip(faces, others, strict=True))
        return io.NodeOutput(to_image(torch.cat(crops)), FaceCrop(windows, boxes, picture_of(bboxes)))


class RestorationPasteFace(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="RestorationPasteFace",
            display_name="Paste Face",
            category="PFStorer",
            description="Puts a restored face back; the rest of the picture stays as it is.",
            search_aliases=["face", "uncrop", "paste back", "stitch", "face detailer", "group photo", "video",
                            "pfstorer"],
            is_input_list=True,  # the faces of several people go into one picture
            inputs=[
                io.Image.Input("image", tooltip="The whole picture, or an enlarged copy of it; alpha stays."),
                io.Image.Input("face", tooltip="The restored face, of any size: one for all, or as many as "
                               "Crop Face gave. A list of several people's faces goes into one picture."),
                FaceCropType.Input("face_crop", tooltip="From Crop Face. It knows which frame each face is "
                                   "of; frames without one stay as they are."),
                io.Float.Input("feather", default=0.1, min=0.0, max=0.5, step=0.01,
                               tooltip="Width of the soft border, as a part of the face's window."),
                io.Float.Input("strength", default=1.0, min=0.0, max=1.0, step=0.05, optional=True,
                               tooltip="How much of the restoration is seen: 0 is the photo as it was, 1 the "
                               "restored face."),
                io.Mask.Input("keep", optional=True,
                              tooltip="What of the photo stays as it is, such as hands or glasses. One mask "
                              "for all pictures, or one for each; of any size."),
            ],
            outputs=[io.Image.Output(is_output_list=True, tooltip="One picture with all faces; of a list of "
                                     "pictures, as many.")],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, image: Any, face: Any, face_crop: Any, feather: Any, strength: Any = 1.0, keep: Any = None
    ) -> io.NodeOutput:
        given = [as_list(values) for values in (image, face, face_crop, feather, strength, keep)]
        pictures, crops, kept = given[0], given[2], given[5]
        if in_list := any(crop.picture is not None for crop in crops):
            given[5] = [kept[min(crop.picture or 0, len(kept) - 1)] for crop in crops]
        if not in_list and (len(pictures) > 1 or len(crops) == 1):
            return io.NodeOutput([pasted(*values) for values in rounds(given)])
        return io.NodeOutput(pasted_in_list(pictures, rounds(given[1:])))
