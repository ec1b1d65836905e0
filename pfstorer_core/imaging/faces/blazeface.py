"""The built-in face detector: BlazeFace, which sees 128 pixels at once, led through a whole picture.

The network is convolutional, so that it looks through pictures of any size and finds the faces that have
20 to 80 pixels there; in copies of the picture, each half as large, every size of face comes by. What it
takes for a face is then looked at again, upright and in the middle of the 128 pixels that it was made for:
that puts the place right, and tells faces from what only looked like one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from ...models.blazeface import SIDE, BlazeFace
from ..canvas import resize
from .detections import Detections, detections_of, weighted_nms
from .face import Box, Face

WEIGHTS = Path(__file__).resolve().parent / "data" / "blazeface.safetensors"

LEAST_SIDE = 22
"""Pixels of the smallest face that is found for sure."""
MOST_SIDE = 80
"""Pixels of the largest face that is looked for where a smaller copy of the picture follows."""
LONGEST = 2048
"""Side of the largest picture that is looked through: larger ones are reduced first."""
TILE, OVERLAP = 640, 96
"""Largest side of the parts that a picture is looked through in, for the memory's sake, and what they share:
more than any face has that is looked for."""
CANDIDATE_SCORE = 0.5
"""Score from which something is looked at again; MediaPipe's for a face."""
FACE_SCORE = 0.74
"""Mean of the scores from which it is a face. In good photographs, faces of 24 pixels and more have 0.8 at
the least, and what is none has 0.71 at most."""
VIEWS = (2.2, 3.0, 4.0, 5.0)
"""Sides of what is looked at again, in sides of the face."""
TURNS = (0, 2, 1, 3)
"""Quarters by which a picture is turned until there is a face."""
WIDE, ABOVE, BELOW = 1.0, 0.65, 0.55
"""Of a face from forehead to chin, about BlazeFace's square, which begins at the brows."""


@dataclass(frozen=True)
class Level:
    """A copy of a picture [3, h, w] in [-1, 1], `scale` times as large."""

    scale: float
    pixels: Tensor


def load_blazeface(path: Path = WEIGHTS) -> BlazeFace:
    """The network with its weights, in fp32 on the CPU.

    Raises:
        FileNotFoundError: the file is not beside this module.
    """
    if not path.exists():
        raise FileNotFoundError(
            f"The built-in face detector is missing: there is no {path}. Install PFStorer again, or "
            "choose a file of YuNet's."
        )
    with torch.device("meta"):
        network = BlazeFace()
    network.load_state_dict({name: value.float() for name, value in load_file(path).items()}, assign=True)
    return network.eval().requires_grad_(False)


@torch.no_grad()
def detect(
    network: BlazeFace,
    image: Tensor,
    smallest: float = 0,
    largest: float = 0,
    on_tick: Callable[[], object] = lambda: None,
) -> list[Face]:
    """The faces in a picture [3, H, W] in [0, 1], each once, in no order.

    A picture without a face is turned by 180, 90 and 270 degrees until there is one; one whose faces lie on
    the side is looked through upright, too.

    Args:
        smallest: pixels of the smallest face that is looked for; 0: what can be found.
        largest: pixels of the largest one; 0: no limit.
        on_tick: called again and again; raise in it to stop.
    """
    image = image.detach().cpu().float().clamp(0, 1)
    found, turned = Detections.none(), 0
    for turned in TURNS:
        found = _find(network, image.rot90(turned, (1, 2)), smallest, largest, on_tick)
        if len(found):
            break
    further = (turned + _quarters(found)) % 4
    if len(found) and further != turned:
        again = _find(network, image.rot90(further, (1, 2)), smallest, largest, on_tick)
        if again.scores.sum() > found.scores.sum():
            found, turned = again, further
    return _faces(found, turned, (image.shape[-2], image.shape[-1]))


def _find(
    network: BlazeFace, image: Tensor, smallest: float, largest: float, on_tick: Callable[[], object]
) -> Detections:
    """The faces in a picture that are not upside down."""
    levels = _levels(image, smallest, largest)
    scanned = [_scan(network, level, level is levels[-1], on_tick) for level in levels]
    candidates = weighted_nms(Detections.joined(scanned))
    refined = _refined(network, levels, candidates, on_tick)
    faces = weighted_nms(Detections.joined([Detections.none(), *refined]))
    sizes = faces.sides * max(WIDE, ABOVE + BELOW)
    chosen = (faces.scores >= FACE_SCORE) & (sizes >= smallest) & (sizes <= (largest or math.inf))
    return faces[chosen]


def _levels(image: Tensor, smallest: float, largest: float) -> list[Level]:
    """The picture at every scale, the largest first."""
    height, width = image.shape[-2:]
    long = max(height, width)
    scale = max(SIDE / long, min(1.0, LONGEST / long, LEAST_SIDE / (smallest or LEAST_SIDE)))
    levels, picture = list[Level](), image[None]
    while True:
        picture = resize(picture, (max(1, round(height * scale)), max(1, round(width * scale))))
        levels.append(Level(scale, picture[0] * 2 - 1))
        if scale * long <= SIDE / 2 or 0 < largest * scale <= MOST_SIDE:
            return levels
        scale /= 2


def _scan(network: BlazeFace, level: Level, last: bool, on_tick: Callable[[], object]) -> Detections:
    """What may be a face in a level, in pixels of the picture."""
    height, width = level.pixels.shape[-2:]
    (tall, tops), (wide, lefts) = _tiles(height), _tiles(width)
    padded = F.pad(level.pixels, (0, lefts[-1] + wide - width, 0, tops[-1] + tall - height))
    found = []
    for top in tops:
        on_tick()
        tiles = torch.stack([padded[:, top : top + tall, left : left + wide] for left in lefts])
        for left, detections in zip(lefts, detections_of(network, tiles), strict=True):
            likely = (detections.scores >= CANDIDATE_SCORE) & (
                detections.sides <= (math.inf if last else MOST_SIDE)
            )
            found.append(detections[likely].moved(1, left, top).moved(1 / level.scale))
    return Detections.joined(found)


def _tiles(length: int) -> tuple[int, list[int]]:
    """Side of tiles that cover a length, a multiple of the network's 16 pixels, and where they begin."""
    count = max(1, math.ceil((length - OVERLAP) / (TILE - OVERLAP)))
    side = max(SIDE, 16 * math.ceil((length + (count - 1) * OVERLAP) / count / 16))
    return side, [n * (side - OVERLAP) for n in range(count)]


def _refined(
    network: BlazeFace, levels: Sequence[Level], likely: Detections, on_tick: Callable[[], object]
) -> list[Detections]:
    """The same faces, each by itself, upright, in `VIEWS` and mirrored: means of all that was detected."""
    refined = []
    eyes = likely.landmarks[:, 1] - likely.landmarks[:, 0]
    for n, (x, y) in enumerate(F.normalize(eyes, dim=1)):
        on_tick()
        one = likely[torch.tensor([n])]
        turn = torch.stack([torch.stack([x, y]), torch.stack([-y, x])])
        steps = [one.sides[0] * view / SIDE for view in VIEWS]
        views = torch.stack([_view(levels, one.centres[0], turn * step, float(step)) for step in steps])
        seen = [one]
        detections = detections_of(network, torch.cat([views, views.flip(-1)]))
        for k, (view, step) in enumerate(zip(VIEWS * 2, steps * 2, strict=True)):
            face = _central(detections[k], SIDE / view, mirrored=k >= len(VIEWS))
            centre, landmarks = (
                (points - SIDE / 2) @ (turn * step) + one.centres[0]
                for points in (face.centres, face.landmarks)
            )
            seen.append(Detections(face.scores, centre, face.sides * step, landmarks))
        every = Detections.joined(seen)
        # The place is what was seen upright; the first look counts for the score.
        found = every[torch.arange(1, len(every))].mean()
        refined.append(Detections(every.scores.mean()[None], found.centres, found.sides, found.landmarks))
    return refined


def _view(levels: Sequence[Level], centre: Tensor, axes: Tensor, step: float) -> Tensor:
    """[3, 128, 128] about a point; the rows of `axes` are the steps (x, y) from pixel to pixel to the right
    and downwards."""
    # The smallest copy that is not enlarged for it: others would be seen through a sieve.
    level = next((level for level in reversed(levels) if level.scale * step >= 1), levels[0])
    # kornia's warp_affine would need the inverse of this, and takes 2.5 times as long.
    offsets = torch.arange(SIDE) + 0.5 - SIDE / 2
    points = centre + offsets[None, :, None] * axes[0] + offsets[:, None, None] * axes[1]
    grid = points * level.scale * 2 / torch.tensor(level.pixels.shape[:0:-1]) - 1
    return F.grid_sample(level.pixels[None], grid[None], align_corners=False)[0]


def _central(detections: Detections, side: float, mirrored: bool) -> Detections:
    """The face of that side in the centre of a view, as it would be without the mirror."""
    near = (detections.centres - SIDE / 2).norm(dim=1) < side / 2
    near &= (detections.sides > 0.6 * side) & (detections.sides < 1.6 * side)
    if not near.any():
        nothing = torch.zeros(1)
        return Detections(
            nothing, torch.full((1, 2), SIDE / 2), nothing + side, torch.full((1, 6, 2), SIDE / 2)
        )
    detections = detections[near]
    best = detections[detections.scores >= 0.9 * detections.scores.max()].mean()
    if not mirrored:
        return best
    centres, landmarks = (
        torch.stack([SIDE - points[..., 0], points[..., 1]], -1) for points in (best.centres, best.landmarks)
    )
    return Detections(best.scores, centres, best.sides, landmarks[:, [1, 0, 2, 3, 5, 4]])


def _quarters(found: Detections) -> int:
    """Quarters by which a picture has to be turned for its faces to stand."""
    x, y = F.normalize(found.landmarks[:, 1] - found.landmarks[:, 0], dim=1).sum(0).tolist()
    return round(math.atan2(y, x) / (math.pi / 2)) % 4


def _faces(found: Detections, turned: int, size: tuple[int, int]) -> list[Face]:
    """In the picture of that size (height, width), which was turned by so many quarters."""
    faces = []
    height, width = size if turned % 2 == 0 else size[::-1]
    # From a turned picture's (x, y) to the picture's.
    across, down, start = {
        0: ((1, 0), (0, 1), (0, 0)),
        1: ((0, 1), (-1, 0), (height, 0)),
        2: ((-1, 0), (0, -1), (width, height)),
        3: ((0, -1), (1, 0), (0, width)),
    }[turned]
    rotation, origin = torch.tensor([across, down]).float(), torch.tensor(start)
    for score, centre, side, landmarks in zip(
        found.scores,
        found.centres @ rotation + origin,
        found.sides,
        found.landmarks @ rotation + origin,
        strict=True,
    ):
        box = _box(centre, float(side), landmarks, size)
        if box[0] < box[2] and box[1] < box[3]:
            faces.append(Face(box, landmarks, float(score)))
    return faces


def _box(centre: Tensor, side: float, landmarks: Tensor, size: tuple[int, int]) -> Box:
    """About the ellipse of a face, inclined as its eyes are."""
    cos, sin = F.normalize(landmarks[1] - landmarks[0], dim=0).tolist()
    across, along = side * WIDE / 2, side * (ABOVE + BELOW) / 2
    lower = side * (BELOW - ABOVE) / 2
    x, y = float(centre[0]) - sin * lower, float(centre[1]) + cos * lower
    half_x, half_y = math.hypot(across * cos, along * sin), math.hypot(across * sin, along * cos)
    bottom, right = min(float(size[0]), y + half_y), min(float(size[1]), x + half_x)
    return max(0.0, x - half_x), max(0.0, y - half_y), right, bottom
