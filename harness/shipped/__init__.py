"""The shipped workflows, described; `python -m harness.workflows` writes them."""

from .clr_face import RESTORE_WITH_CLR_FACE
from .compare import COMPARE
from .diffbir import LEARN_DUAL_PIVOT, RESTORE_AND_EDIT, RESTORE_WITH_DIFFBIR
from .graphs import GUIDED, INPAINT, LORA
from .group import RESTORE_A_GROUP
from .methods import COMPARE_METHODS
from .native import NATIVE
from .parts import EXAMPLE, Node, Workflow
from .person import LEARN_A_PERSON, RESTORE_A_PERSON
from .restore import RESTORE_AND_UPSCALE
from .stages import STAGES
from .untrained import IDENTITY_WITHOUT_TRAINING

WORKFLOWS = (
    RESTORE_AND_UPSCALE, LEARN_A_PERSON, RESTORE_A_PERSON, RESTORE_A_GROUP, NATIVE, INPAINT, GUIDED, LORA,
    STAGES, COMPARE, RESTORE_WITH_DIFFBIR, LEARN_DUAL_PIVOT, RESTORE_AND_EDIT, COMPARE_METHODS,
    IDENTITY_WITHOUT_TRAINING, RESTORE_WITH_CLR_FACE,
)  # fmt: skip

__all__ = ["EXAMPLE", "WORKFLOWS", "Node", "Workflow"]
