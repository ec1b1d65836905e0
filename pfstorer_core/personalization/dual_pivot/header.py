"""What the file of a Dual-Pivot adapter says besides its tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ...checkpoints.fields import Rules, number, one_of, text, whole
from ..header import AdapterHeader

PIVOTS = ("both", "text", "model")
TEXT_WEIGHTS = ("lora", "full")
MODEL_WEIGHTS = ("first150", "full", "lora")
DATA = ("personal", "generic", "mixed")
MAX_RANK = 1024
WORD = 40
"""Characters of a token, and of a class word, at the most."""


@dataclass(frozen=True, kw_only=True)
class DualPivotHeader(AdapterHeader):
    """What the tensors do not tell.

    Attributes:
        token, class_word: what calls the person, and what they are.
        prompt, class_prompt: of the person and of the class.
        pivots: "text": the generator was changed; "model": its control network; "both".
        steps_text: of `steps`, those of the text pivot, which came first; so are their `losses`.
        text_weights, model_weights: what was trained, also where that pivot was not.
        rank: of those that are low-rank.
        prior_weight: of the loss on the class.
        data: what the model pivot saw: "personal", "generic" or "mixed" pictures.
    """

    rules: ClassVar[Rules] = {
        **AdapterHeader.rules,
        "token": text(WORD),
        "class_word": text(WORD),
        "prompt": text(200),
        "class_prompt": text(200),
        "pivots": one_of(*PIVOTS),
        "steps_text": whole(0, 10**7),
        "text_weights": one_of(*TEXT_WEIGHTS),
        "model_weights": one_of(*MODEL_WEIGHTS),
        "rank": whole(1, MAX_RANK),
        "prior_weight": number(0, 1e6),
        "data": one_of(*DATA),
    }
    required: ClassVar[tuple[str, ...]] = (*AdapterHeader.required, "pivots")

    method: str = "dual_pivot"
    token: str = "sks"
    class_word: str = "person"
    prompt: str = ""
    class_prompt: str = ""
    pivots: str
    steps_text: int = 0
    text_weights: str = "lora"
    model_weights: str = "first150"
    rank: int = 32
    prior_weight: float = 1.0
    data: str = "personal"

    def details(self) -> list[str]:
        made = {
            "text": f"text pivot ({self.text_weights}, {self.steps_text} steps)",
            "model": f"model pivot ({self.model_weights}, {self.steps - self.steps_text} steps)",
        }
        parts = [said for pivot, said in made.items() if self.pivots in (pivot, "both")]
        return [" and ".join(parts), f"prompt: {self.prompt}"]
