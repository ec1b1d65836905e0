"""Restoration in a real server: the shipped workflow over the API, and native nodes on our MODEL."""

import json
from io import BytesIO
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from harness import ROOT
from harness.client import ComfyClient, ExecutionFailed, ExecutionInterrupted
from harness.host import ComfyServer
from lab.people import draw_person, draw_shot, photograph
from pfstorer_core.degradation import Blur, Degradation, GaussianNoise, Jpeg, Resize, degrade
from pfstorer_core.restorers.convert import convert
from pfstorer_core.restorers.files import open_restorer

from .prompts import add_small_restorer

SHIPPED = json.loads((ROOT / "workflows" / "api" / "restore_and_upscale.json").read_text(encoding="utf-8"))
SAMPLER = next(name for name, node in SHIPPED.items() if node["class_type"] == "TiledSRSampler")
TINY = ROOT / "assets" / "pfstorer_tiny.safetensors"
TILE = open_restorer(TINY).header.image_size
SIZE = (11 * TILE // 32, 9 * TILE // 32)
"""Width and height of the bad picture."""
TILES = 4
"""Of it, enlarged four times."""


@pytest.fixture(scope="module")
def bad_picture() -> bytes:
    rng = np.random.default_rng(5)
    image = photograph(draw_person(rng), draw_shot(rng, yaw=5.0, fill=0.8), 4 * SIZE[0]).image
    tensor = torch.from_numpy(image[: 4 * SIZE[1]]).permute(2, 0, 1)[None]
    degradation = Degradation((Blur(1.0, 1.0), Resize(1 / 4), GaussianNoise(2.0, seed=0), Jpeg(90)))
    pixels = degrade(tensor, [degradation], keep_size=False)[0].permute(1, 2, 0).numpy()
    file = BytesIO()
    Image.fromarray((pixels * 255).round().astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def bad(client: ComfyClient, bad_picture: bytes) -> str:
    return client.upload_image(bad_picture, "bad.png")


def shipped(image: str, **settings: Any) -> dict[str, Any]:
    prompt = json.loads(json.dumps(SHIPPED))
    for node in prompt.values():
        if node["class_type"] == "LoadImage":
            node["inputs"]["image"] = image
    prompt[SAMPLER]["inputs"].update({"upscale": 4.0, "steps": 2, **settings})
    return prompt


def picture(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(data)).convert("RGB"))


def test_shipped_workflow_restores_over_the_api(client: ComfyClient, bad: str) -> None:
    events: list[str] = []
    execution = client.run(shipped(bad), lambda event: events.append(event["type"]))
    assert SAMPLER in execution.ran
    assert "progress" in events
    everything = 1 + 2 * TILES + 1
    assert execution.progress[-1] == (SAMPLER, everything, everything)
    assert execution.previews, "no latent preview while sampling"
    assert client.history(execution.prompt_id)["status"]["status_str"] == "success"
    [saved] = execution.images()
    assert Image.open(BytesIO(client.view(saved))).size == (4 * SIZE[0], 4 * SIZE[1])


def test_same_seed_same_bytes(client: ComfyClient, bad: str) -> None:
    def run(seed: int) -> np.ndarray:
        client.free()  # else the second run is answered from the cache
        execution = client.run(shipped(bad, seed=seed))
        assert SAMPLER in execution.ran
        assert SAMPLER not in execution.cached
        return picture(client.view(execution.images()[0]))

    first = run(3)
    assert (run(3) == first).all()
    assert (run(4) != first).any()


@pytest.mark.parametrize("settings", [{"fidelity": 0.7}, {"color_fix": "none"}, {"tile": 64}])
def test_settings_act(server: ComfyServer, client: ComfyClient, bad: str, settings: dict[str, Any]) -> None:
    """On a restorer with CFW, which the embedded one has not."""
    add_small_restorer(server, "with_cfw.safetensors")

    def restored(**given: Any) -> np.ndarray:
        prompt = shipped(bad, **given)
        (restorer,) = (made for made in prompt.values() if made["class_type"] == "LoadBaseRestorer")
        restorer["inputs"]["checkpoint"] = "with_cfw.safetensors"
        return picture(client.view(client.run(prompt).images()[0]))

    assert (restored() != restored(**settings)).any()


def test_the_embedded_restorer_says_that_it_has_no_fidelity(client: ComfyClient, bad: str) -> None:
    with pytest.raises(ExecutionFailed, match=r"fidelity 0\.5 needs .* CFW"):
        client.run(shipped(bad, fidelity=0.5))


def test_progress_moves_with_every_tile_and_cancelling_stops_there(client: ComfyClient, bad: str) -> None:
    execution = client.run(shipped(bad, tile_batch=1, seed=11))
    everything = 1 + 2 * TILES + 1
    done = {value for name, value, of in execution.progress if (name, of) == (SAMPLER, everything)}
    assert done >= set(range(1, everything + 1))
    seen: list[int] = []

    def stop(event: Any) -> None:
        if event["type"] == "progress":
            seen.append(event["data"]["value"])
            if len(seen) == 3:
                client.interrupt()

    with pytest.raises(ExecutionInterrupted):
        client.run(shipped(bad, tile_batch=1, seed=12, steps=100), stop)
    assert max(seen) < 100


def test_outside_the_mask_the_picture_is_only_enlarged(client: ComfyClient, bad: str) -> None:
    width, height = SIZE

    def run(**masks: Any) -> tuple[np.ndarray, np.ndarray]:
        prompt = shipped(bad, **({"mask": ["mask", 0]} if masks else {})) | masks
        prompt["mask picture"] = node("MaskToImage", mask=[SAMPLER, 2])
        prompt["save mask"] = node("SaveImage", images=["mask picture", 0], filename_prefix="mask")
        execution = client.run(prompt)
        (restored,) = (name for name in execution.outputs if name != "save mask")
        images = (execution.images(name)[0] for name in (restored, "save mask"))
        restored, shown = (picture(client.view(image)) for image in images)
        return restored, shown

    nothing = node("SolidMask", value=0.0, width=width, height=height)
    half = {
        "nothing": nothing,
        "left": node("SolidMask", value=1.0, width=width // 2, height=height),
        "mask": node(
            "MaskComposite", destination=["nothing", 0], source=["left", 0], x=0, y=0, operation="add"
        ),
    }
    speck = node("SolidMask", value=1.0, width=4, height=4)
    everywhere, whole = run()
    nowhere, _ = run(**half | {"left": speck})
    there, shown = run(**half)
    assert whole.min() == 255
    with pytest.raises(ExecutionFailed, match="input mask is empty"):
        run(mask=nothing)
    assert shown.shape == there.shape == everywhere.shape
    inside, outside = shown[..., 0] == 255, shown[..., 0] == 0
    assert min(inside.mean(), outside.mean()) > 0.4
    assert np.abs(there[inside].astype(int) - everywhere[inside]).max() <= 1, "tiles beside it are left out"
    assert (there[outside] == nowhere[outside]).all()
    assert (everywhere[outside] != nowhere[outside]).any()


def test_noise_may_be_the_same_for_a_batch(client: ComfyClient, bad: str) -> None:
    def run(fixed: bool) -> list[np.ndarray]:
        prompt = shipped(bad, fixed_noise=fixed)
        prompt[SAMPLER]["inputs"]["image"] = ["twice", 0]
        (image,) = (name for name, made in prompt.items() if made["class_type"] == "LoadImage")
        prompt["twice"] = node("RepeatImageBatch", image=[image, 0], amount=2)
        return [picture(client.view(one)) for one in client.run(prompt).images()]

    first, second = run(True)
    assert (first == second).all()
    first, second = run(False)
    assert (first != second).any()


def test_native_ksampler_on_our_model(client: ComfyClient, bad: str) -> None:
    prompt = {
        "image": node("LoadImage", image=bad),
        "large": node("ImageScaleBy", image=["image", 0], upscale_method="bicubic", scale_by=4.0),
        "restorer": node("LoadBaseRestorer", checkpoint="pfstorer_tiny.safetensors"),
        "lq": node("RestorationConditioning", model=["restorer", 0], vae=["restorer", 2], image=["large", 0]),
        "sample": node(
            "KSampler", model=["restorer", 0], positive=["lq", 0], negative=["lq", 1], latent_image=["lq", 2],
            seed=1, steps=8, cfg=1.0, sampler_name="dpmpp_2m", scheduler="karras", denoise=1.0,
        ),
        "picture": node("VAEDecode", samples=["sample", 0], vae=["restorer", 2]),
        "fixed": node(
            "RestorationColorFix", image=["picture", 0], reference=["image", 0], method="wavelet"
        ),
        "save": node("SaveImage", images=["fixed", 0], filename_prefix="native"),
        "bicubic": node("SaveImage", images=["large", 0], filename_prefix="bicubic"),
    }  # fmt: skip
    execution = client.run(prompt)
    restored, bicubic = (
        picture(client.view(execution.images(name)[0])).astype(float) for name in ("save", "bicubic")
    )
    assert restored.shape == bicubic.shape
    assert np.abs(restored - bicubic).mean() < 20, "another picture than the one that went in"
    assert sharpness(restored) > 1.1 * sharpness(bicubic)


def test_tiled_diffusion_lets_native_samplers_do_what_ours_does(client: ComfyClient, bad: str) -> None:
    prompt = shipped(bad, steps=3, seed=1, color_fix="none", sampler_name="euler")
    (image,) = (name for name, made in prompt.items() if made["class_type"] == "LoadImage")
    (restorer,) = (name for name, made in prompt.items() if made["class_type"] == "LoadBaseRestorer")
    prompt |= {
        "tiled": node("RestorationTiling", model=[restorer, 0], tile=0, overlap=-1),
        "large": node("ImageScaleBy", image=[image, 0], upscale_method="bicubic", scale_by=4.0),
        "lq": node("RestorationConditioning", model=["tiled", 0], vae=[restorer, 2], image=["large", 0]),
        "sample": node(
            "KSampler", model=["tiled", 0], positive=["lq", 0], negative=["lq", 1], latent_image=["lq", 2],
            seed=1, steps=3, cfg=1.0, sampler_name="euler", scheduler="normal", denoise=1.0,
        ),
        "picture": node("VAEDecode", samples=["sample", 0], vae=[restorer, 2]),
        "native": node("SaveImage", images=["picture", 0], filename_prefix="native_tiles"),
    }  # fmt: skip
    execution = client.run(prompt)
    (ours,) = (name for name in execution.outputs if name != "native")
    own, native = (picture(client.view(execution.images(name)[0])).astype(float) for name in (ours, "native"))
    assert own.shape == native.shape
    assert np.abs(own - native).mean() < 2, "only the enlargement differs, by its rounding"


@pytest.mark.parametrize("keep_size", [True, False])
def test_degrade_image(client: ComfyClient, bad: str, keep_size: bool) -> None:
    prompt = {
        "image": node("LoadImage", image=bad),
        "large": node("ImageScaleBy", image=["image", 0], upscale_method="bicubic", scale_by=4.0),
        "good": node("SaveImage", images=["large", 0], filename_prefix="good"),
    }
    for name, seed in {"first": 1, "again": 1, "other": 2}.items():
        prompt[name] = node(
            "DegradeImage", image=["large", 0], preset="severe", seed=seed, keep_size=keep_size
        )
        prompt[f"save {name}"] = node("SaveImage", images=[name, 0], filename_prefix=name)
    execution = client.run(prompt)
    good, first, again, other = (
        picture(client.view(execution.images(name)[0])).astype(float)
        for name in ("good", "save first", "save again", "save other")
    )
    assert (first == again).all()
    if keep_size:
        assert first.shape == other.shape == good.shape
        assert 2 < np.abs(first - good).mean() < 60
        assert (first != other).any()
    else:
        assert first.shape[0] * 8 <= good.shape[0] + 8


def test_a_prompt_of_one_s_own_acts(client: ComfyClient, bad: str) -> None:
    prompt = shipped(bad)
    restorer = next(name for name, n in prompt.items() if n["class_type"] == "LoadBaseRestorer")
    prompt["text"] = node("CLIPTextEncode", clip=[restorer, 1], text="a photo of a person with red hair")
    prompt[SAMPLER]["inputs"]["positive"] = ["text", 0]
    own, empty = (picture(client.view(client.run(p).images()[0])) for p in (prompt, shipped(bad)))
    assert (own != empty).any()


def test_a_prompt_without_a_text_tower_says_what_to_do(server: ComfyServer, client: ComfyClient) -> None:
    folder = server.base / "models" / "restorers"
    folder.mkdir(parents=True, exist_ok=True)
    convert(folder / "silent.safetensors", TINY, text=False)
    prompt = {
        "restorer": node("LoadBaseRestorer", checkpoint="silent.safetensors"),
        "text": node("CLIPTextEncode", clip=["restorer", 1], text="a face"),
        "show": node("PreviewAny", source=["text", 0]),
    }
    with pytest.raises(ExecutionFailed, match="no text tower"):
        client.run(prompt)


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


def sharpness(image: np.ndarray) -> float:
    return float(np.abs(np.diff(image, axis=0)).mean() + np.abs(np.diff(image, axis=1)).mean())


def test_several_pictures_in_one_call(client: ComfyClient, bad: str) -> None:
    prompt = shipped(bad, tile_batch=8)
    source = prompt[SAMPLER]["inputs"]["image"]
    prompt["twice"] = node("RepeatImageBatch", image=source, amount=2)
    prompt[SAMPLER]["inputs"]["image"] = ["twice", 0]
    execution = client.run(prompt)
    first, second = (picture(client.view(image)) for image in execution.images())
    assert first.shape == second.shape == (4 * SIZE[1], 4 * SIZE[0], 3)
    assert (first != second).any(), "the pictures of a batch have noise of their own"
