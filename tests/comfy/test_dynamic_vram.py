"""Pictures of a server whose weights are streamed (DynamicVRAM, ComfyUI's default on NVIDIA) are the same."""

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from harness.drawn import DRAWN_PERSON, bad_picture, case
from harness.host import ComfyServer
from harness.picture import encode

from .prompts import add_small_diffbir, add_small_restorer, node

PACK = Path(__file__).parent / "dynamic_vram"
"""Switches DynamicVRAM on, as far as a CPU goes."""
SMALL, DIFFBIR = "small.safetensors", "small_diffbir.safetensors"
SIDE = 64
"""Pixels along a side of the bad picture: the small restorers see 32 at once."""


@pytest.fixture(scope="module")
def streaming() -> Iterator[ComfyServer]:
    with ComfyServer(threads=1, packs=[PACK]) as server:
        yield server
        assert "prepared for dynamic VRAM loading" in server.log.read_text(), "nothing was streamed"


def sampled(model: list[Any], **settings: Any) -> dict[str, Any]:
    return node(
        "TiledSRSampler", model=model, vae=["restorer", 2], image=["image", 0], upscale=2.0, steps=2,
        cfg=1.0, sampler_name="euler", scheduler="normal", seed=0, **settings,
    )  # fmt: skip


def graph(picture: str) -> dict[str, Any]:
    """Tiles, fidelity, a prompt, the native sampler, a known person, two learned there and then, photos that
    are looked at, and guidance, which needs gradients."""
    model, vae = ["restorer", 0], ["restorer", 2]
    learning = {"lr": 0.01, "gamma_lr": 0.3, "steps": 3, "seed": 0, "batch": 1}
    prompt = {
        "image": node("LoadImage", image=picture),
        "restorer": node("LoadBaseRestorer", checkpoint="pfstorer_tiny.safetensors"),
        "tiles": sampled(model),
        "text": node("CLIPTextEncode", clip=["restorer", 1], text="an old photo"),
        "prompted": sampled(model, positive=["text", 0]),
        "lq": node("RestorationConditioning", model=model, vae=vae, image=["image", 0]),
        "sampler": node("KSampler", model=model, positive=["lq", 0], negative=["lq", 1],
                        latent_image=["lq", 2], seed=0, steps=2, cfg=1.0, sampler_name="euler",
                        scheduler="normal", denoise=1.0),
        "native": node("VAEDecode", samples=["sampler", 0], vae=vae),
        "person": node("LoadIdentityAdapter", name=f"{DRAWN_PERSON}.safetensors"),
        "applied": node("ApplyPersonalization", model=model, identity_adapter=["person", 0], gamma=1.0),
        "personal": sampled(["applied", 0]),
        "small": node("LoadBaseRestorer", checkpoint=SMALL),
        "train": node("TrainIdentityAdapter", model=["small", 0], clip=["small", 1], vae=["small", 2],
                      name="streamed", **{"photos.photo_0": ["image", 0]}, **learning),
        "diffbir": node("LoadBaseRestorer", checkpoint=DIFFBIR),
        "pivots": node("TrainDualPivot", model=["diffbir", 0], clip=["diffbir", 1], vae=["diffbir", 2],
                       name="streamed pivots", class_word="woman", text_steps=1, model_steps=1, seed=0,
                       class_pictures=1, lr=0.01, lr_model=0.01, preview_every=1000,
                       **{"photos.photo_0": ["image", 0]}),
        "learned": node("ApplyPersonalization", model=["small", 0], identity_adapter=["train", 0], gamma=1.0),
        "looking": node("ReferenceAttention", model=["small", 0], vae=["small", 2], strength=0.8, cfg=1.5,
                        **{"photos.photo_0": ["image", 0]}),
    }  # fmt: skip
    prompt["met"] = sampled(["learned", 0])
    prompt["seen"] = sampled(["looking", 0])
    prompt["faithful"] = sampled(["small", 0], fidelity=0.5)
    for name in ("met", "seen", "faithful"):
        prompt[name]["inputs"]["vae"] = ["small", 2]
    for name in ("small", "diffbir"):
        prompt[f"pulled {name}"] = node(
            "RestorationGuidance", model=[name, 0], scale=0.05, space="rgb", vae=[name, 2]
        )
        prompt[f"guided {name}"] = sampled([f"pulled {name}", 0])
        prompt[f"guided {name}"]["inputs"]["vae"] = [name, 2]
    prompt["file"] = node(
        "CheckpointSave", filename_prefix="streamed", model=model, clip=["restorer", 1], vae=vae
    )
    names = ("tiles", "prompted", "native", "personal", "met", "seen", "faithful")
    for name in (*names, "guided small", "guided diffbir"):
        prompt[f"save {name}"] = node("SaveImage", images=[name, 0], filename_prefix=name)
    prompt["save pivots"] = node("SaveImage", images=["pivots", 2], filename_prefix="pivots")
    return prompt


def test_pictures_are_the_same(server: ComfyServer, streaming: ComfyServer) -> None:
    results = []
    bases = (server.base, streaming.base)
    for running in (server, streaming):
        add_small_restorer(running, SMALL)
        add_small_diffbir(running, DIFFBIR)
        connected = running.client()
        connected.free()
        prompt = graph(connected.upload_image(encode(bad_picture(case()).resize((SIDE, SIDE))), "bad.png"))
        execution = connected.run(prompt)
        results.append(
            {
                name: np.asarray(Image.open(BytesIO(connected.view(execution.images(name)[0])))).astype(int)
                for name in prompt
                if name.startswith("save ")
            }
        )
    first, second = (load_file(next(base.glob("output/streamed*.safetensors"))) for base in bases)
    assert set(first) == set(second)
    unlike = [key for key in first if not torch.equal(first[key].float(), second[key].float())]
    assert not unlike
    static, streamed = results
    assert len(static) == 10
    for name, picture in static.items():
        assert picture.std() > 2, f"{name} shows nothing"
        assert np.abs(picture - streamed[name]).max() <= 1, name
