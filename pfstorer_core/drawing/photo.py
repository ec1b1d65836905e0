"""Photograph: a person in a shot becomes a picture, with its landmarks and its face mask."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from .atlas import normals, read
from .body import draw_body
from .camera import Camera, Hit, meet_head, rotation
from .features import Face, paint_face
from .fields import Field, step
from .glasses import draw_glasses
from .hair import grow
from .head import NOSE_TOP, Head, build_head
from .light import Lamps, encode, openness, shade_matte, shine, shine_hair
from .person import Person
from .scenery import background
from .shot import Shot

# "left" and "right" are the picture's.
LANDMARKS: tuple[str, ...] = (
    "left_eye_outer", "left_eye_inner", "left_pupil",
    "right_eye_inner", "right_eye_outer", "right_pupil",
    "left_brow", "right_brow", "nose_bridge", "nose_tip", "nose_base",
    "left_mouth", "right_mouth", "upper_lip", "lower_lip",
    "left_jaw", "right_jaw", "chin",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Photo:
    """`image` float32 sRGB [H,W,3] in [0, 1]; `landmarks` float32 [K,2] pixels (x, y), in the
    order of LANDMARKS; `visible` bool [K]: in the frame and not turned away or covered by the
    head; `face_mask` float32 [H,W] in [0, 1]: skin, eyes and mouth, without hair and neck.
    """

    image: NDArray[Any]
    landmarks: NDArray[Any]
    visible: NDArray[np.bool_]
    face_mask: Field


def _points(head: Head, person: Person, face: Face) -> NDArray[Any]:
    """The LANDMARKS in the head's frame, [K,3]."""
    tip = NOSE_TOP - person.nose_length - 0.03
    jaw = 0.70 * person.head_width
    named = {
        **face.points,
        "nose_bridge": (person.skew, NOSE_TOP),
        "nose_tip": (person.skew, tip + 0.01),
        "nose_base": (person.skew, tip - 0.11),
        "left_jaw": (-jaw, -0.62),
        "right_jaw": (jaw, -0.62),
        "chin": (0.0, -0.93 * person.chin_length),
    }
    points = []
    for name in LANDMARKS:
        column, row = head.column_row(*named[name])
        at = int(row), int(column)
        points.append(head.grid.direction[:, at[0], at[1]] * face.radius[at])
    return np.array(points, np.float32)


def _window(head: Head, radius: Field, turn: NDArray[Any], camera: Camera, size: int) -> tuple[slice, slice]:
    """Rows and columns of the frame that the turned surface `radius` can cover."""
    sparse = np.s_[::12, ::12]
    points = (head.grid.direction[:, ::12, ::12] * radius[sparse]).reshape(3, -1).T
    spots = camera.pixels(points @ turn.T)
    margin = 0.04 * camera.focal / camera.distance + 2
    low = np.clip(spots.min(0) - margin, 0, size - 8).astype(int)
    high = np.clip(spots.max(0) + margin, low + 8, size).astype(int)
    return slice(int(low[1]), int(high[1])), slice(int(low[0]), int(high[0]))


def _surface(
    head: Head, person: Person, shot: Shot, lamps: Lamps
) -> tuple[Face, Field, list[NDArray[Any]], NDArray[Any]]:
    """The photo's maps: face, whole radius, [albedo+hair, normal+gloss, light], hair's crown."""
    face = paint_face(head, person, shot)
    hair = grow(head, person, shot)
    radius = face.radius + hair.thick
    cover = hair.cover
    ambient, clear = openness(head.grid, radius, lamps.key)
    relief = radius + face.bump * (1 - cover) + hair.relief
    normal = normals(head.grid, relief)
    length = np.sqrt(np.einsum("ijk,ijk->ij", normal, normal))
    normal /= length[..., None]
    ball = (face.ball_mask * (1 - cover))[..., None]
    normal += ball * (face.ball - normal)
    weight = cover[..., None]
    albedo = face.albedo + weight * (hair.colour - face.albedo)
    # Strands lie over each other: the dark ones are the deep ones.
    ambient = ambient * (1 - 0.25 * cover * step(0.3, -1.2, hair.strand))
    first = cv2.merge([*cv2.split(albedo), cover])
    second = cv2.merge([*cv2.split(normal), face.gloss])
    third = cv2.merge([ambient.astype(np.float32), clear, hair.strand])
    return face, radius, [first, second, third], hair.crown


def _shade_head(
    maps: list[NDArray[Any]],
    hit: Hit,
    ray: NDArray[Any],
    lamps: Lamps,
    crown: NDArray[Any],
) -> tuple[NDArray[Any], Field]:
    """Linear light [H,W,3] off the head, and the hair's cover [H,W]."""
    first, second, third = (read(image, hit.u, hit.v) for image in maps)
    cover = first[..., 3]
    normal = np.ascontiguousarray(second[..., :3].transpose(2, 0, 1))
    view = -ray
    # Normals that turn away from the eye through interpolation are bent back to the silhouette.
    normal -= np.minimum((normal * view).sum(0), 0) * view
    normal /= np.sqrt((normal * normal).sum(0)) + np.float32(1e-6)
    ambient, clear, strand = (third[..., k] for k in range(3))
    light = shade_matte(first[..., :3], normal, lamps, ambient, clear)
    light += shine(normal, view, lamps, second[..., 3] * (1 - cover), clear)
    band = shine_hair(normal, view, lamps, crown, strand, clear) * cover * ambient
    return light + band[..., None] * (0.14 + 1.8 * first[..., :3]) * lamps.key_colour, cover


def photograph(person: Person, shot: Shot, size: int = 256) -> Photo:
    """The picture of `person` in `shot`, `size` x `size` pixels. Equal inputs give equal pictures.

    Raises:
        ValueError: `size` below 32.
    """
    if size < 32:
        raise ValueError(f"photograph: size {size} is too small; ask for 32 or more")
    scale = 2.0 if size < 192 else 1.5 if size < 448 else 1.25
    inner = round(size * scale)
    # Enough texels for about one to a pixel of the inner picture when the head fills the frame.
    texels = next((t for t in (384, 512, 768) if t >= 1.5 * size), 1024)
    head = build_head(person, texels)
    camera = Camera.of(shot, inner)
    rng = np.random.default_rng((shot.seed, 1))
    scene = background(rng, shot.background, size, size, shot.background_blur)
    lamps = Lamps.of(shot, scene.mean((0, 1)))
    draw_body(scene, person, shot, Camera.of(shot, size), lamps, texels)
    image = cv2.resize(scene, (inner, inner), interpolation=cv2.INTER_LINEAR)

    turn = rotation(shot.yaw, shot.pitch, shot.roll)
    local = lamps.turned(turn)
    face, radius, maps, crown = _surface(head, person, shot, local)
    rows, columns = _window(head, radius, turn, camera, inner)
    world_ray = camera.rays(rows, columns)
    ray = np.tensordot(turn.T, world_ray, 1)
    origin = turn.T @ np.array((0, 0, camera.distance), np.float32)
    pixel = camera.distance / camera.focal
    hit = meet_head(radius, origin, ray, pixel)
    light, cover = _shade_head(maps, hit, ray, local, crown)
    part = image[rows, columns]
    part += hit.cover[..., None] * (light - part)
    depth = np.full((inner, inner), np.inf, np.float32)
    depth[rows, columns] = np.where(hit.cover > 0.5, hit.t, np.inf)
    mask = np.zeros((inner, inner), np.float32)
    frontal = step(-0.05, 0.15, hit_front(hit, head))
    mask[rows, columns] = hit.cover * (1 - cover) * frontal
    if person.glasses:
        draw_glasses(image, person, camera, turn, depth, 0.5 * shot.light_strength + shot.ambient)

    image = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)
    image = encode(image * np.float32(shot.exposure))
    image = np.clip((image - 0.45) * np.float32(shot.contrast) + 0.45, 0, 1).astype(np.float32)
    mask = cv2.resize(mask, (size, size), interpolation=cv2.INTER_AREA)

    points = _points(head, person, face) @ turn.T
    pixels = camera.pixels(points)
    at = np.clip(pixels.astype(int), 0, inner - 1)
    away = np.linalg.norm(points - np.array((0, 0, camera.distance), np.float32), axis=1)
    seen = depth[at[:, 1], at[:, 0]] > away - 0.06
    inside = ((pixels >= 0) & (pixels < inner)).all(1)
    landmarks = (pixels * np.float32(size / inner)).astype(np.float32)
    return Photo(image, landmarks, seen & inside, np.clip(mask, 0, 1).astype(np.float32))


def hit_front(hit: Hit, head: Head) -> Field:
    """How far to the front of the skull each hit lies, [H,W]."""
    return read(head.z, hit.u, hit.v)
