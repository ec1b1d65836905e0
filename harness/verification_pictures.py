"""`python -m harness.verification_pictures`: the two pictures that `python -m pfstorer_core verify` restores.

They show drawn people, so that they are nobody's; aligned as in FFHQ, since some restorers know no others.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from lab.evaluation.align import FIVE
from lab.people import LANDMARKS, draw_person, draw_shot, photograph
from pfstorer_core.degradation import Blur, Degradation, GaussianNoise, Jpeg, Resize, degrade
from pfstorer_core.imaging.alignment import aligned_face
from pfstorer_core.imaging.pictures import write_picture

from . import ROOT
from .console import run_main, say

FOLDER = ROOT / "pfstorer_core" / "verification" / "data"
STREAM = 0x766572
"""First word of the seeds: nothing else draws these people."""
GOOD, BAD = 28, 24
"""Two people who are told apart from afar: one pale before the dark, one brown before the light."""
DRAWN = 896
"""Side in pixels at which they are drawn, so that the aligned face lies inside of the picture."""
DAMAGE = Degradation((Blur(1.2, 1.2), Resize(1 / 4), GaussianNoise(4, seed=0), Jpeg(60)))


def main() -> None:
    write_picture(face(GOOD), FOLDER / "good.jpg")
    write_picture(degrade(face(BAD), [DAMAGE], keep_size=False), FOLDER / "bad.png")
    for path in (FOLDER / "good.jpg", FOLDER / "bad.png"):
        say(f"{path}: {path.stat().st_size / 1e3:.0f} kB")


def face(who: int) -> Tensor:
    """[1, 3, SIZE, SIZE] in [0, 1]."""
    rng = np.random.default_rng([STREAM, who])
    person = draw_person(rng)
    shot = draw_shot(
        rng, yaw=float(rng.uniform(-10, 10)), pitch=0.0, roll=0.0, fill=0.5, shift=(0.0, 0.0), eyes_open=1.0
    )
    photo = photograph(person, shot, DRAWN)
    picture = torch.from_numpy(photo.image).permute(2, 0, 1)[None].float().clamp(0, 1)
    five = torch.from_numpy(photo.landmarks[[LANDMARKS.index(name) for name in FIVE]]).float()
    landmarks = torch.stack([five[0], five[1], five[2], five[3:].mean(0)])
    return aligned_face(picture, landmarks)[0]


if __name__ == "__main__":
    run_main(main)
