"""Who is it in a picture: recognisers, which a restoration can be guided and judged by."""

from .recognizer import Recognizer, cosines, load_recognizer, mean_of_units
from .view import ARCFACE, DLIB, View

__all__ = ["ARCFACE", "DLIB", "Recognizer", "View", "cosines", "load_recognizer", "mean_of_units"]
