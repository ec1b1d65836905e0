"""The shipped workflows, described; `python -m harness.workflows` writes them."""

from .clr_face import CLR_FACE
from .diffbir import DUAL_PIVOT, RESTORE_AND_EDIT, RESTORE_WITH_DIFFBIR
from .film import RESTORE_A_FILM
from .folder import RESTORE_A_FOLDER
from .graphs import GUIDED, INPAINT, LORA
from .group import RESTORE_A_GROUP
from .methods import COMPARE_METHODS
from .native import NATIVE
from .parts import EXAMPLE, Node, Template, Workflow
from .person import LEARN_A_PERSON, RESTORE_A_PERSON
from .restore import RESTORE_A_PHOTOGRAPH, RESTORE_AND_UPSCALE
from .restorers import COMPARE_RESTORERS
from .stages import STAGES
from .untrained import IDENTITY_WITHOUT_TRAINING

TEMPLATES = (
    RESTORE_A_PHOTOGRAPH, LEARN_A_PERSON, RESTORE_A_PERSON, RESTORE_A_GROUP, DUAL_PIVOT, CLR_FACE,
    IDENTITY_WITHOUT_TRAINING, COMPARE_METHODS,
)  # fmt: skip
"""On the canvas, in the order of the template browser."""
API_ONLY = (
    RESTORE_AND_UPSCALE, NATIVE, INPAINT, GUIDED, LORA, STAGES, COMPARE_RESTORERS, RESTORE_WITH_DIFFBIR,
    RESTORE_AND_EDIT, RESTORE_A_FILM, RESTORE_A_FOLDER,
)  # fmt: skip
WORKFLOWS = (*TEMPLATES, *API_ONLY)

__all__ = ["API_ONLY", "EXAMPLE", "TEMPLATES", "WORKFLOWS", "Node", "Template", "Workflow"]
