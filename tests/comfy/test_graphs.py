"""Our MODEL in other people's graphs: what the host offers for its own models works on it, over the API."""

from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

from harness.client import ComfyClient
from harness.host import ComfyServer

from .prompts import add_small_restorer, node, png

RESTORER, SIZE = "small_graphs.safetensors", 64
SAMPLING = {"sampler_name": "euler", "scheduler": "normal"}


@pytest.fixture(scope="module", autouse=True)
def restorer(server: ComfyServer) -> None:
    add_small_restorer(server, RESTORER)


@pytest.fixture
def graph(client: ComfyClient) -> dict[str, Any]:
    """A picture and its conditioning; `sample` and `save` are for the tests to add."""
    pixels = np.random.default_rng(0).integers(0, 255, (SIZE, SIZE, 3), np.uint8)
    return {
        "image": node("LoadImage", image=client.upload_image(png(pixels), "graph.png")),
        "restorer": node("LoadBaseRestorer", checkpoint=RESTORER, dtype="fp32"),
        "lq": node("RestorationConditioning", model=["restorer", 0], vae=["restorer", 2], image=["image", 0]),
    }


def sampler(model: list[Any], **changes: Any) -> dict[str, Any]:
    given = {
        "positive": ["lq", 0], "negative": ["lq", 1], "latent_image": ["lq", 2], "seed": 1, "steps": 4,
        "cfg": 1.0, "denoise": 1.0, **SAMPLING, **changes,
    }  # fmt: skip
    return node("KSampler", model=model, **given)


def shown(name: str) -> dict[str, Any]:
    """Nodes that decode and save what a sampler made."""
    return {
        f"{name} decoded": node("VAEDecode", samples=[name, 0], vae=["restorer", 2]),
        f"{name} saved": node("SaveImage", images=[f"{name} decoded", 0], filename_prefix="graph"),
    }


def pictures(client: ComfyClient, prompt: dict[str, Any], *names: str) -> list[np.ndarray]:
    """What these nodes saved, or what was saved of these samplers."""
    execution = client.run(prompt)
    found = []
    for name in names:
        saved = name if prompt[name]["class_type"] == "SaveImage" else f"{name} saved"
        found.append(np.asarray(Image.open(BytesIO(client.view(execution.images(saved)[0])))).astype(int))
    return found


def test_samplers_of_all_kinds_agree(client: ComfyClient, graph: dict[str, Any]) -> None:
    """KSampler, KSamplerAdvanced in two halves, and SamplerCustomAdvanced."""
    graph |= {
        "plain": sampler(["restorer", 0]),
        "first": node(
            "KSamplerAdvanced", model=["restorer", 0], positive=["lq", 0], negative=["lq", 1],
            latent_image=["lq", 2], add_noise="enable", noise_seed=1, steps=4, cfg=1.0, start_at_step=0,
            end_at_step=2, return_with_leftover_noise="enable", **SAMPLING,
        ),
        "halves": node(
            "KSamplerAdvanced", model=["restorer", 0], positive=["lq", 0], negative=["lq", 1],
            latent_image=["first", 0], add_noise="disable", noise_seed=1, steps=4, cfg=1.0, start_at_step=2,
            end_at_step=10000, return_with_leftover_noise="disable", **SAMPLING,
        ),
        "noise": node("RandomNoise", noise_seed=1),
        "guider": node("BasicGuider", model=["restorer", 0], conditioning=["lq", 0]),
        "euler": node("KSamplerSelect", sampler_name="euler"),
        "sigmas": node("BasicScheduler", model=["restorer", 0], scheduler="normal", steps=4, denoise=1.0),
        "custom": node(
            "SamplerCustomAdvanced", noise=["noise", 0], guider=["guider", 0], sampler=["euler", 0],
            sigmas=["sigmas", 0], latent_image=["lq", 2],
        ),
        **shown("plain"), **shown("halves"), **shown("custom"),
    }  # fmt: skip
    plain, halves, custom = pictures(client, graph, "plain", "halves", "custom")
    assert plain.std() > 1
    assert np.abs(plain - halves).max() <= 1
    assert np.abs(plain - custom).max() <= 1


def test_prompts_with_guidance(client: ComfyClient, graph: dict[str, Any]) -> None:
    graph |= {
        "words": node("CLIPTextEncode", clip=["restorer", 1], text="a portrait of a woman"),
        "bad words": node("CLIPTextEncode", clip=["restorer", 1], text="blurry"),
        "guided lq": node(
            "RestorationConditioning", model=["restorer", 0], vae=["restorer", 2], image=["image", 0],
            positive=["words", 0], negative=["bad words", 0],
        ),
        "plain": sampler(["restorer", 0]),
        "guided": sampler(["restorer", 0], positive=["guided lq", 0], negative=["guided lq", 1], cfg=4.0),
        **shown("plain"), **shown("guided"),
    }  # fmt: skip
    plain, guided = pictures(client, graph, "plain", "guided")
    assert (plain != guided).any()


def test_outside_of_an_inpainting_mask_nothing_changes(
    server: ComfyServer, client: ComfyClient, graph: dict[str, Any]
) -> None:
    half = SIZE // 2
    graph |= {
        "nothing": node("SolidMask", value=0.0, width=SIZE, height=SIZE),
        "left": node("SolidMask", value=1.0, width=half, height=SIZE),
        "mask": node(
            "MaskComposite", destination=["nothing", 0], source=["left", 0], x=0, y=0, operation="add"
        ),
        "masked": node("SetLatentNoiseMask", samples=["lq", 2], mask=["mask", 0]),
        "kept": sampler(["restorer", 0], latent_image=["masked", 0]),
        "free": sampler(["restorer", 0]),
        "before": node("SaveLatent", samples=["lq", 2], filename_prefix="before"),
        "decoded": node("VAEDecode", samples=["kept", 0], vae=["restorer", 2]),
        "whole": node(
            "ImageCompositeMasked", destination=["image", 0], source=["decoded", 0], x=0, y=0,
            resize_source=False, mask=["mask", 0],
        ),
        "given": node("SaveImage", images=["image", 0], filename_prefix="given"),
        "composed": node("SaveImage", images=["whole", 0], filename_prefix="composed"),
        "kept latent": node("SaveLatent", samples=["kept", 0], filename_prefix="kept"),
        "free latent": node("SaveLatent", samples=["free", 0], filename_prefix="free"),
    }  # fmt: skip
    given, composed = pictures(client, graph, "given", "composed")
    assert (composed[:, half:] == given[:, half:]).all(), "byte for byte after compositing"
    assert (composed[:, :half] != given[:, :half]).any()
    before, kept, free = (
        load_file(next((server.base / "output").glob(f"{name}_*.latent")))["latent_tensor"]
        for name in ("before", "kept", "free")
    )
    outside = slice(before.shape[-1] // 2, None)
    assert (kept - before)[..., outside].abs().max() <= 1e-4
    assert (free - before)[..., outside].abs().max() > 0.1
    assert (kept - before)[..., : outside.start].abs().max() > 0.1


def test_a_lora_that_the_host_trains_on_our_model(client: ComfyClient, graph: dict[str, Any]) -> None:
    graph |= {
        "words": node("CLIPTextEncode", clip=["restorer", 1], text="a face"),
        "learn": node(
            "TrainLoraNode", model=["restorer", 0], latents=["lq", 2], positive=["words", 0], batch_size=1,
            grad_accumulation_steps=1, steps=4, learning_rate=0.01, rank=4, optimizer="AdamW",
            loss_function="MSE", seed=0, training_dtype="fp32", lora_dtype="fp32", quantized_backward=False,
            algorithm="LoRA", gradient_checkpointing=False, checkpoint_depth=1, offloading=False,
            existing_lora="[None]", bucket_mode=False, bypass_mode=False,
        ),
        "with lora": node(
            "LoraModelLoader", model=["restorer", 0], lora=["learn", 0], strength_model=1.0, bypass=False
        ),
        "plain": sampler(["restorer", 0]),
        "changed": sampler(["with lora", 0]),
        **shown("plain"), **shown("changed"),
    }  # fmt: skip
    plain, changed = pictures(client, graph, "plain", "changed")
    assert (plain != changed).any()


def test_two_restorers_and_one_model_used_twice(
    server: ComfyServer, client: ComfyClient, graph: dict[str, Any]
) -> None:
    graph |= {
        "other": node("LoadBaseRestorer", checkpoint="pfstorer_tiny.safetensors"),
        "other lq": node(
            "RestorationConditioning", model=["other", 0], vae=["other", 2], image=["image", 0]
        ),
        "one": sampler(["restorer", 0]),
        "between": sampler(
            ["other", 0], positive=["other lq", 0], negative=["other lq", 1], latent_image=["other lq", 2]
        ),
        "again": sampler(["restorer", 0], seed=2),
        "once more": sampler(["restorer", 0], steps=5),
        **shown("one"), **shown("again"), **shown("once more"),
        "between decoded": node("VAEDecode", samples=["between", 0], vae=["other", 2]),
        "between saved": node("SaveImage", images=["between decoded", 0], filename_prefix="graph"),
    }  # fmt: skip
    one, between, again, more = pictures(client, graph, "one", "between", "again", "once more")
    assert (one != again).any()
    assert (one != more).any()
    assert between.std() > 1
    alone = {name: made for name, made in graph.items() if name in ("image", "restorer", "lq")}
    alone |= {"one": sampler(["restorer", 0]), **shown("one")}
    client.free()
    assert (pictures(client, alone, "one")[0] == one).all()
