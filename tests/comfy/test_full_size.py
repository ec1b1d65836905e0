"""A stand-in of StableSR's full checkpoint, keys and shapes as published, in a real server in true bf16."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from harness import ROOT
from harness.client import ComfyClient
from harness.host import ComfyServer

MANIFEST = ROOT / "tests" / "golden" / "data" / "manifests" / "stablesr_full.json"
NAME = "stablesr_stand_in.safetensors"
SIDE = 256


def stand_in(path: Path) -> None:
    """Random weights of a size that lets activations live, in fp16: 2.7 GB."""
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for key, (shape, _) in json.loads(MANIFEST.read_text(encoding="utf-8")).items():
        if len(shape) < 2:
            tensors[key] = torch.full(shape, float(key.endswith("weight")), dtype=torch.float16)
        else:
            spread = (shape[1:] and torch.Size(shape[1:]).numel()) ** -0.5
            tensors[key] = torch.randn(shape, generator=generator, dtype=torch.float16) * spread
    save_file(tensors, path)


@pytest.fixture
def checkpoint(server: ComfyServer) -> Any:
    path = server.base / "models" / "checkpoints" / NAME
    path.parent.mkdir(parents=True, exist_ok=True)
    stand_in(path)
    yield NAME
    path.unlink()


@pytest.mark.full
def test_a_full_checkpoint_restores_in_the_host(
    server: ComfyServer, client: ComfyClient, checkpoint: str, tmp_path: Path
) -> None:
    Image.linear_gradient("L").convert("RGB").save(tmp_path / "bad.png")
    image = client.upload_image(tmp_path / "bad.png", "bad.png")

    def node(class_type: str, **inputs: Any) -> dict[str, Any]:
        return {"class_type": class_type, "inputs": inputs}

    prompt = {
        "image": node("LoadImage", image=image),
        "large": node(
            "ImageScale", image=["image", 0], upscale_method="bicubic", width=SIDE, height=SIDE, crop="center"
        ),
        "restorer": node("LoadBaseRestorer", checkpoint=checkpoint, dtype="bf16"),
        "text": node("CLIPTextEncode", clip=["restorer", 1], text="a face"),
        "lq": node(
            "RestorationConditioning", model=["restorer", 0], vae=["restorer", 2], image=["large", 0],
            positive=["text", 0],
        ),
        "sample": node(
            "KSampler", model=["restorer", 0], positive=["lq", 0], negative=["lq", 1], latent_image=["lq", 2],
            seed=1, steps=2, cfg=2.0, sampler_name="ddpm", scheduler="normal", denoise=1.0,
        ),
        "picture": node("VAEDecode", samples=["sample", 0], vae=["restorer", 2]),
        "save": node("SaveImage", images=["picture", 0], filename_prefix="full"),
    }  # fmt: skip
    execution = client.run(prompt, timeout=900)
    (tmp_path / "full.png").write_bytes(client.view(execution.images()[0]))
    assert Image.open(tmp_path / "full.png").size == (SIDE, SIDE)
    assert "model weight dtype torch.bfloat16, manual cast: None" in server.log.read_text()
    assert "missing" not in server.log_tail(40).lower()
