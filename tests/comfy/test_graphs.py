"""Our MODEL in other people's graphs: what the host offers for its own models works on it, over the API."""

from io import BytesIO
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from harness.client import ComfyClient
from harness.host import ComfyServer
from harness.picture import decode
from harness.stand_in_adapter import stand_in_adapter
from pfstorer_core.checkpoints import parts

from ..unit.small import small_restorer
from .prompts import add_small_restorer, node, png

RESTORER, SIZE = "small_graphs.safetensors", 64
UNET = parts.UNET.prefix
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


def test_native_samplers_show_previews(client: ComfyClient, graph: dict[str, Any]) -> None:
    execution = client.run(graph | {"one": sampler(["restorer", 0]), **shown("one")})
    assert len(execution.previews) >= 3


def test_what_model_save_writes_has_the_published_names(
    server: ComfyServer, client: ComfyClient, graph: dict[str, Any]
) -> None:
    client.run(graph | {"keep": node("ModelSave", model=["restorer", 0], filename_prefix="kept/unet")})
    (file,) = (server.base / "output" / "kept").glob("unet*.safetensors")
    saved, own = (
        {key: value for key, value in load_file(path).items() if key.startswith(UNET)}
        for path in (file, server.base / "models" / "restorers" / RESTORER)
    )
    assert set(saved) == set(own)
    assert all(torch.equal(saved[key].float(), own[key].float()) for key in own)


@pytest.mark.parametrize("tile", [0, 64])
def test_a_prompt_for_an_area_acts_there(client: ComfyClient, graph: dict[str, Any], tile: int) -> None:
    """Without tiles, and with some that the area lies across."""
    half = SIZE // 2
    model = ["tiled", 0] if tile else ["restorer", 0]
    graph |= {
        "tiled": node("RestorationTiling", model=["restorer", 0], tile=64, overlap=32),
        "wide": node("ImageScale", image=["image", 0], upscale_method="bicubic", width=2 * SIZE, height=SIZE,
                     crop="disabled"),
        "words": node("CLIPTextEncode", clip=["restorer", 1], text="a portrait of a woman"),
        "wide lq": node(
            "RestorationConditioning", model=model, vae=["restorer", 2], image=["wide", 0],
            positive=["words", 0],
        ),
        "plain lq": node("RestorationConditioning", model=model, vae=["restorer", 2], image=["wide", 0]),
        # The host counts eight pixels a cell of the latent, this restorer four.
        "area": node("ConditioningSetArea", conditioning=["wide lq", 0], width=2 * half, height=2 * SIZE, x=0,
                     y=0, strength=4.0),
        "both": node("ConditioningCombine", conditioning_1=["plain lq", 0], conditioning_2=["area", 0]),
        "plain": sampler(model, positive=["plain lq", 0], negative=["plain lq", 1],
                         latent_image=["plain lq", 2], steps=1),
        "changed": sampler(model, positive=["both", 0], negative=["plain lq", 1],
                           latent_image=["plain lq", 2], steps=1),
        **shown("plain"), **shown("changed"),
    }  # fmt: skip
    plain, changed = pictures(client, graph, "plain", "changed")
    difference = np.abs(plain - changed).mean((0, 2))
    assert difference[:half].mean() > 4 * difference[-half:].mean() > 0


@pytest.mark.full  # compiling takes minutes on a CPU
def test_compiled_models_know_a_person_and_forget_them(
    server: ComfyServer, client: ComfyClient, graph: dict[str, Any]
) -> None:
    restorer = small_restorer()
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    folder = server.base / "models" / "identity_adapters"
    folder.mkdir(parents=True, exist_ok=True)
    stand_in_adapter(restorer, latents, gamma=0.5).save(folder / "compiled.safetensors")
    graph["person"] = node("LoadIdentityAdapter", name="compiled.safetensors")
    names = []
    for gamma in (1.0, 0.0):
        graph[f"apply {gamma}"] = node(
            "ApplyPersonalization", model=["restorer", 0], identity_adapter=["person", 0], gamma=gamma
        )
    for name in ("apply 1.0", "apply 0.0", "restorer"):
        graph[f"fast {name}"] = node("TorchCompileModel", model=[name, 0], backend="inductor")
        for kind, model in {f"plain {name}": name, f"compiled {name}": f"fast {name}"}.items():
            graph |= {kind: sampler([model, 0], steps=2), **shown(kind)}
            names.append(kind)
    execution = client.run(graph, timeout=3600)
    found = {name: decode(client.view(execution.images(f"{name} saved")[0])) for name in names}
    arrays = {name: np.asarray(image).astype(int) for name, image in found.items()}
    for name in ("apply 1.0", "apply 0.0", "restorer"):
        assert np.abs(arrays[f"compiled {name}"] - arrays[f"plain {name}"]).max() <= 2
    assert (arrays["plain apply 0.0"] == arrays["plain restorer"]).all()
    assert np.abs(arrays["compiled apply 1.0"] - arrays["compiled restorer"]).mean() > 1
