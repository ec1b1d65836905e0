"""The scoreboard of the paper's Table 1, on drawn people.

    judges = load_judges("judges.safetensors")
    methods = standard_methods(restorer)
    methods["mine"] = lambda case: my_restorer(case.lq)          # [M, 3, S, S] -> [M, 3, S, S]
    board = evaluate(methods, judges, EvaluationSettings(people=20), path="scores.json")

What the drawing knows exactly (landmarks, traits, what a person's marks do to a picture) is taken from it;
what has to be read off a restored picture (identity, landmarks, traits) is read by two small networks, the
judges, that `train_judges` trains on people of their own. Needs the extra `evaluation`.
"""

from .cases import Case, CaseSettings, draw_case
from .identity import Embedder, equal_error_rate, load_embedder
from .judges import Judges, load_judges, save_judges
from .methods import Method, standard_methods
from .scoreboard import EvaluationSettings, Scoreboard, evaluate

__all__ = [
    "Case",
    "CaseSettings",
    "Embedder",
    "EvaluationSettings",
    "Judges",
    "Method",
    "Scoreboard",
    "draw_case",
    "equal_error_rate",
    "evaluate",
    "load_embedder",
    "load_judges",
    "save_judges",
    "standard_methods",
]
