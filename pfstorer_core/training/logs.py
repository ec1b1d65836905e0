"""What a training writes down to be looked at: losses, and sheets of the samples that were held back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from ..checkpoints.files import atomic_write
from ..imaging.pictures import write_picture
from .data import Batch

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class LoggedObjective(Protocol):
    """An `Objective`, as a log sees it."""

    def __call__(self, batch: Batch) -> Tensor: ...
    def sheet(self, batch: Batch) -> Tensor: ...
    def figures(self, batch: Batch) -> dict[str, float]: ...


class Log:
    """`STAGE.csv` (step, loss, learning rate), `STAGE.held.csv` (step, figure, value),
    `sheets/STAGE-STEP.png`, and TensorBoard's logs in `tensorboard/STAGE` where that library is installed.

    Args:
        history: loss and rate of every step so far: what the file holds of others, or half of, is replaced.
        pictures: whether sheets are written, and shown to TensorBoard.
    """

    def __init__(
        self, folder: Path, stage: str, history: Sequence[tuple[float, float]], pictures: bool = True
    ) -> None:
        self.sheets, self.stage, self.pictures = folder / "sheets", stage, pictures
        self.figures = folder / f"{stage}.held.csv"
        path = folder / f"{stage}.csv"
        with atomic_write(path) as temporary:
            rows = [_row(step, *done) for step, done in enumerate(history, 1)]
            temporary.write_text("".join(["step,loss,lr\n", *rows]))
        self.losses = path.open("a", buffering=1)  # by line: what was done is written
        self.board = _tensorboard(folder / "tensorboard" / stage, len(history)) if pictures else None

    def step(self, step: int, loss: float, rate: float) -> None:
        self.losses.write(_row(step, loss, rate))
        if self.board is not None:
            self.board.add_scalar("loss", loss, step)
            self.board.add_scalar("lr", rate, step)

    @torch.no_grad()
    def look(self, step: int, objective: LoggedObjective, batch: Batch) -> Tensor:
        """Writes and returns the sheet; also writes the figures that there are."""
        sheet, figures = objective.sheet(batch), objective.figures(batch)
        for name, value in figures.items():
            self._note(step, name, value)
        if not self.pictures:
            return sheet
        loss = float(objective(batch))
        write_picture(sheet, self.sheets / f"{self.stage}-{step:07d}.png")
        if self.board is not None:
            self.board.add_scalar("held/loss", loss, step)
            self.board.add_image("held", sheet[0].float().cpu().clamp(0, 1), step)
        return sheet

    def _note(self, step: int, name: str, value: float) -> None:
        new = not self.figures.exists()
        with self.figures.open("a") as file:
            file.write(f"{'step,figure,value' + chr(10) if new else ''}{step},{name},{value:.6g}\n")
        if self.board is not None:
            self.board.add_scalar(f"held/{name}", value, step)

    def close(self) -> None:
        self.losses.close()
        if self.board is not None:
            self.board.close()


def _row(step: int, loss: float, rate: float) -> str:
    return f"{step},{loss!r},{rate:.6g}\n"


def _tensorboard(folder: Path, first: int) -> SummaryWriter | None:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=first + 1)


def rows_of(*columns: Tensor) -> Tensor:
    """Pictures [B, 3, H, W] each, side by side: a row a sample, [1, 3, B·H, columns·W]."""
    return torch.cat(
        [torch.cat([c.float() for c in columns], dim=-1)[i] for i in range(len(columns[0]))], dim=-2
    )[None]
