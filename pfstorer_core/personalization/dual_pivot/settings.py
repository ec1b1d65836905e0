"""How a person is learned by Dual-Pivot Tuning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from ...models import UNet
from ..objective import PersonTraining
from .adapter import DualPivotAdapter
from .header import DATA, MAX_RANK, MODEL_WEIGHTS, PIVOTS, TEXT_WEIGHTS, WORD

SHARE = 25 / 33
"""Of the steps, the text pivot's: 2500, and 800 of the model pivot's, as published."""
RATES = {
    "text full": {256: 1e-6, 0: 1e-4},
    "text lora": {256: 1e-4, 0: 2e-3},
    "model first150": {256: 5e-5, 0: 5e-4},
    "model full": {256: 5e-5, 0: 5e-4},
    "model lora": {256: 1e-4, 0: 2e-3},
}
"""Learning rates by the least width of the U-Net: the published ones, or diffusers' of a LoRA; and the tiny
restorers'."""


@dataclass(frozen=True)
class DualPivotTraining(PersonTraining[DualPivotAdapter]):
    """How to learn a person; the defaults are those of the published recipe (README of its release, and
    diffusers' train_dreambooth.py) where it names them.

    Attributes:
        steps: of both pivots together, the text pivot's first; of one alone, all of its own.
        batch: rows at once. Of the text pivot each has a row of the class beside it.
        lr, lr_model: of the text pivot and of the model pivot; None for what is published, see `RATES`.
        token: stands for the person; a word that says nothing by itself.
        class_word: what the person is: man, woman, person, girl, …
        pivots: "both", "text" or "model"; "" for both where the restorer has a control network, else "text".
        steps_text: of `steps`; None for 25 of 33 of them, and where one pivot is alone.
        accumulate: batches of the text pivot whose gradients make one step.
        text_weights: "lora" or "full": all of the U-Net's.
        model_weights: "first150", "full" or "lora", of the control network's; see `parameters.FIRST_150`.
        rank: of what is low-rank.
        prior_weight: of the loss on the class (Ruiz et al. 2023, eq. 2); 0 leaves it out.
        class_pictures: how many are drawn.
        data: what the model pivot sees: "personal" photos, "generic" pictures, or "mixed": each as often.
        pictures: a folder of generic pictures of faces; "" for the class's.
        cleaner: fingerprint of what cleans bad pictures; "" for the restorer's own cleaner.
    """

    method: ClassVar[str] = "dual_pivot"

    steps: int = 3300
    batch: int = 1
    p_hq: float = 0.0
    token: str = "sks"
    class_word: str = "person"
    pivots: str = ""
    steps_text: int | None = None
    accumulate: int = 2
    lr_model: float | None = None
    text_weights: str = TEXT_WEIGHTS[0]
    model_weights: str = MODEL_WEIGHTS[0]
    rank: int = 32
    prior_weight: float = 1.0
    class_pictures: int = 200
    data: str = DATA[0]
    pictures: str = ""
    cleaner: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        # Resolved here, so that more steps go on from fewer; of one pivot alone there is no share.
        if self.pivots in ("text", "model"):
            object.__setattr__(self, "steps_text", None)
        elif self.steps_text is None:
            object.__setattr__(self, "steps_text", max(1, round(SHARE * self.steps)))
        for name, choices in {
            "pivots": ("", *PIVOTS), "text_weights": TEXT_WEIGHTS, "model_weights": MODEL_WEIGHTS,
            "data": DATA,
        }.items():  # fmt: skip
            if getattr(self, name) not in choices:
                said = ", ".join(choice for choice in choices if choice)
                raise ValueError(f"No {name} {getattr(self, name)!r}; choose one of {said}.")
        for name in ("token", "class_word"):
            word = getattr(self, name)
            if not (word.strip() and word.isprintable() and len(word) <= WORD):
                raise ValueError(f"{name} must be a word of up to {WORD} letters, got {word!r}.")
        if not 1 <= self.rank <= MAX_RANK:
            raise ValueError(f"rank must be from 1 to {MAX_RANK}, got {self.rank}.")
        if not self.prior_weight >= 0:
            raise ValueError(f"prior_weight must be 0 or more, got {self.prior_weight}.")
        for name in ("accumulate", "class_pictures", "steps_text"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be 1 or more, got {value}.")

    @property
    def class_prompt(self) -> str:
        return f"a photo of a {self.class_word}"

    @property
    def prompt(self) -> str:
        return f"a photo of a {self.token} {self.class_word}"

    def pivots_of(self, unet: UNet, name: str = "this restorer") -> str:
        """Which of `PIVOTS` are trained on a U-Net; raises ValueError where it has no control network and one
        was asked for."""
        if unet.control_model is None and self.pivots in ("model", "both"):
            raise ValueError(
                f"The model pivot changes a control network, and {name} has none: load a DiffBIR restorer, "
                "or choose pivots: text."
            )
        return self.pivots or ("text" if unet.control_model is None else "both")

    def text_steps(self, pivots: str) -> int:
        """Steps after which the text pivot is done."""
        return {"text": self.steps, "model": 0}.get(pivots, min(self.steps, self.steps_text or 0))

    def rate(self, width: int, pivot: str = "text") -> float:
        kind = self.text_weights if pivot == "text" else self.model_weights
        return next(rate for least, rate in RATES[f"{pivot} {kind}"].items() if width >= least)

    def record(self) -> Mapping[str, Any]:
        """For the adapter's header: without a path, which is nobody's business."""
        return {name: value for name, value in asdict(self).items() if name != "pictures"}
