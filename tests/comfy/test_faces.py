"""Faces of a group photo in a real server: cut out, restored and put back, the rest untouched."""

import json
from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image
from skimage import data

from harness import ROOT
from harness.client import ComfyClient, ExecutionFailed
from harness.drawn import DRAWN_PERSON
from harness.host import ComfyServer
from harness.picture import decode
from harness.shipped.group import PEOPLE, RESTORE_A_GROUP
from pfstorer_core.imaging.faces import find_faces
from pfstorer_core.imaging.pictures import read_picture
from pfstorer_core.restorers.files import save_restorer

from ..unit.small import small_restorer
from ..unit.yunet import FACE, write_yunet
from .prompts import node, png

WIDTH, HEIGHT = 150, 90
FACES = {"left": (10, 20, 40, 50), "right": (100, 30, 130, 66)}


@pytest.fixture(scope="module")
def with_opencv() -> Iterator[ComfyServer]:
    """A server that sees all installed packages: YuNet is run by OpenCV, which a stock ComfyUI lacks."""
    with ComfyServer(threads=1) as running:
        yield running


@pytest.fixture
def group(client: ComfyClient) -> str:
    pixels = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
    return client.upload_image(png(pixels), "group.png")


def mask(name: str) -> dict[str, Any]:
    """Nodes that draw the mask of a face."""
    left, top, right, bottom = FACES[name]
    return {
        f"nothing {name}": node("SolidMask", value=0.0, width=WIDTH, height=HEIGHT),
        f"all {name}": node("SolidMask", value=1.0, width=right - left, height=bottom - top),
        f"mask {name}": node(
            "MaskComposite", destination=[f"nothing {name}", 0], source=[f"all {name}", 0], x=left, y=top,
            operation="add",
        ),
    }  # fmt: skip


def test_two_faces_are_restored_and_the_rest_stays_as_it_is(client: ComfyClient, group: str) -> None:
    prompt = {
        "image": node("LoadImage", image=group),
        "restorer": node("LoadBaseRestorer", checkpoint="pfstorer_tiny.safetensors"),
        "save image": node("SaveImage", images=["image", 0], filename_prefix="group"),
    }
    before = "image"
    for name in FACES:
        prompt |= mask(name)
        prompt |= {
            f"crop {name}": node(
                "RestorationCropFace", image=["image", 0], face=1, context=0.2, masks=[f"mask {name}", 0]
            ),
            f"restore {name}": node(
                "TiledSRSampler", model=["restorer", 0], vae=["restorer", 2], image=[f"crop {name}", 0],
                upscale=2.0, steps=2, cfg=1.0, sampler_name="euler", scheduler="normal", seed=0,
            ),
            f"paste {name}": node(
                "RestorationPasteFace", image=[before, 0], face=[f"restore {name}", 0],
                face_crop=[f"crop {name}", 1], feather=0.1,
            ),
        }  # fmt: skip
        before = f"paste {name}"
    prompt["save"] = node("SaveImage", images=[before, 0], filename_prefix="faces")
    execution = client.run(prompt)
    whole, restored = (
        np.asarray(Image.open(BytesIO(client.view(execution.images(name)[0]))).convert("RGB")).astype(int)
        for name in ("save image", "save")
    )
    changed = (whole != restored).any(-1)
    near = np.zeros_like(changed)
    for left, top, right, bottom in FACES.values():
        side = round(1.2 * max(right - left, bottom - top)) // 2 + 1
        x, y = (left + right) // 2, (top + bottom) // 2
        near[max(0, y - side) : y + side, max(0, x - side) : x + side] = True
        assert changed[top + 5 : bottom - 5, left + 5 : right - 5].mean() > 0.9
    assert not changed[~near].any()


def test_three_people_by_three_adapters_and_the_rest_byte_for_byte(client: ComfyClient) -> None:
    """The shipped workflow for groups, on its own picture; then with a stranger's adapter."""
    prompt = json.loads((ROOT / "workflows" / "api" / f"{RESTORE_A_GROUP.api}.json").read_text())
    adapters = [made["inputs"] for made in prompt.values() if made["class_type"] == "LoadIdentityAdapter"]
    (large,) = (name for name, made in prompt.items() if made["class_type"] == "ImageScaleBy")
    (sampler,) = (made for made in prompt.values() if made["class_type"] == "TiledSRSampler")
    sampler["inputs"]["steps"] = 2
    prompt["before"] = node("SaveImage", images=[large, 0], filename_prefix="before")
    (save,) = (n for n, made in prompt.items() if made["class_type"] == "SaveImage" and n != "before")

    def run() -> tuple[np.ndarray, np.ndarray]:
        execution = client.run(prompt)
        before, after = (decode(client.view(execution.images(n)[0])) for n in ("before", save))
        return np.asarray(before).astype(int), np.asarray(after).astype(int)

    whole, restored = run()
    stranger = adapters[PEOPLE.index("P008")]
    stranger["name"] = f"{DRAWN_PERSON}.safetensors"
    _, without = run()
    boxes = [face.box for face in find_faces(read_picture(ROOT / "assets" / "examples" / "group_bad.png")[0])]
    assert len(boxes) == len(PEOPLE)
    near, other = np.zeros(whole.shape[:2], bool), 0
    for left, top, right, bottom in (tuple(round(2 * side) for side in box) for box in boxes):
        width, height = right - left, bottom - top
        near[max(0, top - height) : bottom + height, max(0, left - width) : right + width] = True
        inner = slice(top + 8, bottom - 8), slice(left + 8, right - 8)
        assert (restored[inner] != whole[inner]).any(-1).mean() > 0.9, "a face was not restored"
        other += (restored[inner] != without[inner]).any(-1).mean() > 0.9
    assert other == 1, "one face was known, and is nobody's now"
    assert not (restored != whole).any(-1)[~near].any()


def test_faces_that_yunet_finds_are_cut_out(with_opencv: ComfyServer) -> None:
    server, client = with_opencv, with_opencv.client()
    pixels = np.full((96, 160, 3), 40, np.uint8)
    pixels[32 : 32 + FACE, 96 : 96 + FACE] = (255, 0, 0)
    write_yunet(server.base / "models" / "face_detection" / "yunet.onnx")
    prompt = {
        "image": node("LoadImage", image=client.upload_image(png(pixels), "one_face.png")),
        "find": node("RestorationFindFaces", image=["image", 0], detector="yunet.onnx"),
        "crop": node("RestorationCropFace", image=["image", 0], face=1, context=0.0, bboxes=["find", 0]),
        "masks": node("MaskToImage", mask=["find", 1]),
        "save face": node("SaveImage", images=["crop", 0], filename_prefix="face"),
        "save mask": node("SaveImage", images=["masks", 0], filename_prefix="mask"),
    }
    execution = client.run(prompt)
    face, mask = (
        np.asarray(decode(client.view(execution.images(f"save {name}")[0]))) for name in ("face", "mask")
    )
    assert face.shape[:2] == (FACE, FACE)
    assert (face == (255, 0, 0)).all()
    assert ((mask[..., 0] > 0) == (pixels[..., 0] == 255)).all()


def test_a_face_that_moves_is_followed_through_a_film(with_opencv: ComfyServer) -> None:
    """Found, cut and put back where it is in each frame; a frame without it stays as it is."""
    server, client = with_opencv, with_opencv.client()
    write_yunet(server.base / "models" / "face_detection" / "yunet.onnx")
    frames = np.full((4, 192, 192, 3), 40, np.uint8)
    for frame, (x, y) in zip(frames[1:], [(32, 32), (96, 64), (128, 128)], strict=True):
        frame[y : y + FACE, x : x + FACE] = (255, 0, 0)
    film = BytesIO()
    first, *others = [Image.fromarray(frame) for frame in frames]
    first.save(film, "WEBP", save_all=True, append_images=others, lossless=True)
    (server.base / "input" / "film.webp").write_bytes(film.getvalue())
    prompt = {
        "film": node("LoadImage", image="film.webp"),
        "find": node("RestorationFindFaces", image=["film", 0], detector="yunet.onnx"),
        "crop": node("RestorationCropFace", image=["film", 0], face=1, context=0.5, bboxes=["find", 0]),
        "paste": node(
            "RestorationPasteFace", image=["film", 0], face=["invert", 0], face_crop=["crop", 1], feather=0.0
        ),
        "invert": node("ImageInvert", image=["crop", 0]),
        "save crops": node("SaveImage", images=["crop", 0], filename_prefix="crops"),
        "save": node("SaveImage", images=["paste", 0], filename_prefix="followed"),
        "by mask": node(
            "RestorationCropFace", image=["film", 0], face=1, context=0.5, masks=["find", 1]
        ),
        "save by mask": node("SaveImage", images=["by mask", 0], filename_prefix="by_mask"),
    }  # fmt: skip
    execution = client.run(prompt)
    for name in ("save crops", "save by mask"):
        crops = [np.asarray(decode(client.view(image))) for image in execution.images(name)]
        assert [crop.shape for crop in crops] == [(48, 48, 3)] * 3
        assert [int((crop == (255, 0, 0)).all(-1).sum()) for crop in crops] == [FACE * FACE] * 3
    pasted = np.stack([np.asarray(decode(client.view(image))) for image in execution.images("save")])
    changed = (pasted != frames).any(-1)
    assert [int(frame.sum()) for frame in changed] == [0, 48 * 48, 48 * 48, 48 * 48]


def test_neighbours_are_aligned_as_the_model_says_and_go_back_byte_for_byte(
    server: ComfyServer, client: ComfyClient
) -> None:
    """A tilted photo of two: found, aligned, inverted and put back, without the part that is to be kept."""
    restorer = small_restorer()
    header = replace(restorer.header, aligned="FFHQ", image_size=64)
    folder = server.base / "models" / "restorers"
    folder.mkdir(parents=True, exist_ok=True)
    save_restorer(replace(restorer, header=header), folder / "of_aligned_faces.safetensors")
    face = data.astronaut()[30:230, 150:300]
    two = Image.fromarray(np.concatenate([face, face[:, ::-1]], 1)).rotate(20, expand=True)
    pixels = np.asarray(two)
    prompt = {
        "image": node("LoadImage", image=client.upload_image(png(pixels), "two.png")),
        "restorer": node("LoadBaseRestorer", checkpoint="of_aligned_faces.safetensors"),
        "find": node("RestorationFindFaces", image=["image", 0], detector="blazeface"),
        "nothing": node("SolidMask", value=0.0, width=pixels.shape[1], height=pixels.shape[0]),
        "upper half": node("SolidMask", value=1.0, width=pixels.shape[1], height=pixels.shape[0] // 2),
        "keep": node("MaskComposite", destination=["nothing", 0], source=["upper half", 0], x=0, y=0,
                     operation="add"),
    }  # fmt: skip
    before = "image"
    for face in (1, 2):
        prompt |= {
            f"crop {face}": node(
                "RestorationCropFace", image=["image", 0], face=face, context=0.6, bboxes=["find", 0],
                align="auto", model=["restorer", 0],
            ),
            f"invert {face}": node("ImageInvert", image=[f"crop {face}", 0]),
            f"paste {face}": node(
                "RestorationPasteFace", image=[before, 0], face=[f"invert {face}", 0],
                face_crop=[f"crop {face}", 1], feather=0.1, strength=1.0, keep=["keep", 0],
            ),
            f"save {face}": node("SaveImage", images=[f"crop {face}", 0], filename_prefix="aligned"),
        }  # fmt: skip
        before = f"paste {face}"
    prompt["save"] = node("SaveImage", images=[before, 0], filename_prefix="two")
    execution = client.run(prompt)
    crops = [np.asarray(decode(client.view(execution.images(f"save {n}")[0]))).astype(int) for n in (1, 2)]
    assert [crop.shape for crop in crops] == [(64, 64, 3)] * 2
    assert np.abs(crops[0][16:52, 16:48] - crops[1][16:52, 16:48][:, ::-1]).mean() < 25, "both are upright"
    changed = (np.asarray(decode(client.view(execution.images("save")[0]))) != pixels).any(-1)
    half = pixels.shape[0] // 2
    assert not changed[:half].any()
    assert 0.05 < changed[half:].mean() < 0.8
    assert not changed[:, :20].any()
    assert not changed[:, -20:].any()


def test_a_face_that_is_not_there_is_named(client: ComfyClient, group: str) -> None:
    prompt = {"image": node("LoadImage", image=group), **mask("left")}
    masks = ["mask left", 0]
    prompt["crop"] = node("RestorationCropFace", image=["image", 0], face=2, context=0.2, masks=masks)
    prompt["save"] = node("SaveImage", images=["crop", 0], filename_prefix="faces")
    with pytest.raises(ExecutionFailed, match="There is no face 2"):
        client.run(prompt)


def test_the_host_s_boxes_are_taken(client: ComfyClient, group: str) -> None:
    box = {"x": 100, "y": 30, "width": 30, "height": 36}
    prompt = {
        "image": node("LoadImage", image=group),
        "box": node("PrimitiveBoundingBox", **box),
        "crop": node("RestorationCropFace", image=["image", 0], face=1, context=0.0, bboxes=["box", 0]),
        "save": node("SaveImage", images=["crop", 0], filename_prefix="faces"),
    }
    [saved] = client.run(prompt).images()
    assert Image.open(BytesIO(client.view(saved))).size == (36, 36)
