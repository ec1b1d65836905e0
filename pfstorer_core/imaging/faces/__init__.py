"""Faces in a larger picture: where they are, cut out with what is around them, and put back."""

from .face import Box, Face
from .find import face_finder, face_in, find_faces, largest_face, whole_pixels
from .windows import (
    Window,
    box_of_mask,
    cut,
    face_square,
    face_windows,
    mask_of_others,
    masks_of_boxes,
    paste,
)

__all__ = [
    "Box",
    "Face",
    "Window",
    "box_of_mask",
    "cut",
    "face_finder",
    "face_in",
    "face_square",
    "face_windows",
    "find_faces",
    "largest_face",
    "mask_of_others",
    "masks_of_boxes",
    "paste",
    "whole_pixels",
]
