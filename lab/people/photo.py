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
from .face import Face
from .features import paint_face
from .fields import Field, spread, step
from .glasses import draw_glasses
from .hair import HANGS, Hair, grow
from .head import Head, build_head
from .landmarks import LANDMARKS, pixels_of, places
from .light import Lamps, encode, openness, shade_matte, shine, shine_hair
from .person import Person
from .scenery import background
from .shot import Shot


@dataclass(frozen=True, eq=False)
class Photo:
    """A picture and what is known of it.

    Attributes:
        image: float32 sRGB [H,W,3] in [0, 1].
        landmarks: float32 [K,2] pixels (x, y), in the order of LANDMARKS; known when hidden too.
        visible: bool [K]: in the frame, and not turned away, behind the head, hair or a lid.
        marks: float32 [M,2] pixels of the person's moles in their order, then of its scar's middle.
        marks_visible: bool [M], as `visible`.
        face_mask: float32 [H,W] in [0, 1]: skin, eyes and mouth, without hair and neck.
    """

    image: NDArray[Any]
    landmarks: NDArray[Any]
    visible: NDArray[np.bool_]
    marks: NDArray[Any]
    marks_visible: NDArray[np.bool_]
    face_mask: Field


def _window(head: Head, radius: Field, turn: NDArray[Any], camera: Camera, size: int) -> tuple[slice, slice]:
    """Rows and columns of the frame that the turned surface `radius` can cover."""
    points = (head.grid.direction[:, ::12, ::12] * radius[::12, ::12]).reshape(3, -1).T
    spots = camera.pixels(points @ turn.T)
    margin = 0.04 * camera.focal / camera.distance + 2
    low = np.clip(spots.min(0) - margin, 0, size - 8).astype(int)
    high = np.clip(spots.max(0) + margin, low + 8, size).astype(int)
    return slice(int(low[1]), int(high[1])), slice(int(low[0]), int(high[0]))


def _surface(head: Head, face: Face, hair: Hair, lamps: Lamps) -> tuple[Field, list[Field]]:
    """The whole radius [S,S] and the photo's maps [S,S]: 3 of albedo with hair, 3 of the normal,
    hair's cover, gloss, ambient openness, unshadowedness, strands, and how far to the front."""
    radius = face.radius + hair.thick
    cover = hair.cover
    bare = 1 - cover
    ambient, clear = openness(radius, lamps.key)
    relief = face.bump * bare
    relief += radius
    relief += hair.relief
    normal = normals(head.grid, relief)
    for where, inside, ball in face.balls:
        part = normal[(slice(None), *where)]
        part += (inside * bare[where]) * (ball - part)
    albedo = [skin + cover * (tint - skin) for skin, tint in zip(face.albedo, hair.colour, strict=True)]
    # Strands lie over each other: the dark ones are the deep ones.
    ambient *= 1 - 0.25 * cover * step(0.3, -1.2, hair.strand)
    return radius, [*albedo, *normal, cover, face.gloss * bare, ambient, clear, hair.strand, head.z]


def _shade_head(
    maps: list[Field], hit: Hit, texels: float, ray: NDArray[Any], lamps: Lamps, crown: NDArray[Any]
) -> tuple[NDArray[Any], Field]:
    """Linear light [H,W,3] off the head, and how far each pixel is bare skin [H,W].

    `texels` is how many of the maps' a pixel takes; maps much finer than it are shrunk first.
    """
    u, v = hit.u, hit.v
    if texels > 1.7:
        half = (maps[0].shape[1] // 2, maps[0].shape[0] // 2)
        maps = [cv2.resize(image, half, interpolation=cv2.INTER_AREA) for image in maps]
        u, v = u * np.float32(0.5) - np.float32(0.25), v * np.float32(0.5) - np.float32(0.25)
    u, v = cv2.convertMaps(u, v, cv2.CV_16SC2)
    *albedo, nx, ny, nz, cover, gloss, ambient, clear, strand, front = (read(image, u, v) for image in maps)
    normal = np.stack((nx, ny, nz))
    view = -ray
    # Normals that turn away from the eye through interpolation are bent back to the silhouette.
    away = normal[0] * view[0] + normal[1] * view[1] + normal[2] * view[2]
    np.minimum(away, 0, out=away)
    normal -= away * view
    normal /= np.sqrt(normal[0] ** 2 + normal[1] ** 2 + normal[2] ** 2) + np.float32(1e-6)
    light = shade_matte(albedo, normal, lamps, ambient, clear)
    gleam = shine(normal, view, lamps, gloss, clear)
    band = shine_hair(normal, view, lamps, crown, strand, clear) * cover * ambient
    for k in range(3):
        light[k] += gleam[k]
        light[k] += band * (0.14 + 1.8 * albedo[k]) * lamps.key_colour[k]
    return cv2.merge(light), (1 - cover) * step(-0.05, 0.15, front)


def photograph(person: Person, shot: Shot, size: int = 256) -> Photo:
    """The picture of `person` in `shot`, `size` x `size` pixels. Equal inputs give equal pictures.

    Raises:
        ValueError: `size` below 32.
    """
    if size < 32:
        raise ValueError(f"photograph: size {size} is too small; ask for 32 or more")
    scale = 2.0 if size < 160 else 1.5 if size < 224 else 1.25
    inner = round(size * scale)
    # Enough texels for more than one to a pixel of the picture when the head fills the frame.
    texels = next((t for t in (192, 256, 320, 448, 640) if t >= 1.25 * size), 896)
    head = build_head(person, texels)
    camera = Camera.of(shot, inner)
    turn = rotation(shot.yaw, shot.pitch, shot.roll)
    rng = np.random.default_rng((shot.seed, 1))
    scene = background(rng, shot.background, size, size, shot.background_blur)
    lamps = Lamps.of(shot, scene.mean((0, 1)))
    planes = np.stack(cv2.split(scene))
    draw_body(planes, person, shot, Camera.of(shot, size), turn, lamps, texels)
    image = cv2.resize(cv2.merge(list(planes)), (inner, inner), interpolation=cv2.INTER_LINEAR)

    local = lamps.turned(turn)
    face = paint_face(head, person, shot)
    hair = grow(head, person, shot)
    radius, maps = _surface(head, face, hair, local)
    rows, columns = _window(head, radius, turn, camera, inner)
    ray = (turn.T @ camera.rays(rows, columns).reshape(3, -1)).reshape(
        3, rows.stop - rows.start, columns.stop - columns.start
    )
    origin = turn.T @ np.array((0, 0, camera.distance), np.float32)
    pixel = camera.distance / camera.focal
    hit = meet_head(radius, origin, ray, pixel)
    light, bare = _shade_head(maps, hit, head.grid.density * pixel, ray, local, hair.crown)
    part = image[rows, columns]
    part += spread(hit.cover) * (light - part)
    depth = np.full((inner, inner), np.inf, np.float32)
    np.copyto(depth[rows, columns], hit.t, where=hit.cover > 0.5)
    mask = np.zeros((inner, inner), np.float32)
    mask[rows, columns] = hit.cover * bare
    if person.glasses:
        ends = 0.12 if shot.hair_length > HANGS else -0.10
        draw_glasses(image, person, camera, turn, depth, 0.5 * shot.light_strength + shot.ambient, ends)

    image = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)
    image = encode(image, shot.exposure, shot.contrast)
    mask = np.clip(cv2.resize(mask, (size, size), interpolation=cv2.INTER_AREA), 0, 1)
    at = places(head, person, face)
    pixels, seen = pixels_of(head, face, at, hair.cover, turn, camera, depth)
    seen[[k for k, name in enumerate(LANDMARKS) if name in face.shut]] = False
    pixels = (pixels * np.float32(size / inner)).astype(np.float32)
    count = len(LANDMARKS)
    return Photo(image, pixels[:count], seen[:count], pixels[count:], seen[count:], mask)
