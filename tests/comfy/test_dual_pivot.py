"""Dual-Pivot in a real server, over the API: learned by its node on a small DiffBIR, and restored."""

from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image

from harness.client import ComfyClient, ExecutionFailed, ExecutionInterrupted
from harness.host import ComfyServer
from pfstorer_core.personalization.dual_pivot.adapter import DualPivotAdapter
from pfstorer_core.personalization.registry import load_identity_adapter

from .prompts import add_small_diffbir, add_small_restorer, node, png

DIFFBIR, STABLESR = "small_diffbir.safetensors", "small_stablesr.safetensors"
TEXT, MODEL = 3, 2
"""Steps of the two pivots."""
PROMPT = "a photo of a sks woman"
SAMPLING = {"seed": 0, "steps": 2, "cfg": 1.0, "sampler_name": "euler", "scheduler": "normal"}


@pytest.fixture(scope="module", autouse=True)
def restorers(server: ComfyServer) -> None:
    add_small_diffbir(server, DIFFBIR)
    add_small_restorer(server, STABLESR)


@pytest.fixture
def photos(client: ComfyClient) -> list[str]:
    rng = np.random.default_rng(0)
    sizes = [(40, 40), (40, 48)]
    return [
        client.upload_image(png(rng.integers(0, 255, (*size, 3), np.uint8)), f"pivot{n}.png")
        for n, size in enumerate(sizes)
    ]


def learning(photos: list[str], name: str, restorer: str = DIFFBIR, **settings: Any) -> dict[str, Any]:
    grown = {f"photos.photo_{n}": [f"photo{n}", 0] for n in range(len(photos))}
    given = {
        "class_word": "woman", "text_steps": TEXT, "model_steps": MODEL, "class_pictures": 1, "seed": 0,
        "lr": 0.01, "lr_model": 0.01, "rank": 4, **settings,
    }  # fmt: skip
    return {
        **{f"photo{n}": node("LoadImage", image=photo) for n, photo in enumerate(photos)},
        "restorer": node("LoadBaseRestorer", checkpoint=restorer),
        "train": node(
            "TrainDualPivot", model=["restorer", 0], clip=["restorer", 1], vae=["restorer", 2], name=name,
            **grown, **given,
        ),
        "loss": node("LossGraphNode", loss=["train", 1], filename_prefix="loss"),
        "preview": node("SaveImage", images=["train", 2], filename_prefix="preview"),
    }  # fmt: skip


def restoring(photo: str, person: list[Any], gammas: list[float]) -> dict[str, Any]:
    """By the tiled sampler and the native one, with prompts and without."""
    model, vae = ["restorer", 0], ["restorer", 2]
    prompt = {
        "image": node("LoadImage", image=photo),
        "restorer": node("LoadBaseRestorer", checkpoint=DIFFBIR),
        "name": node("CLIPTextEncode", clip=["restorer", 1], text=PROMPT),
        "edit": node("CLIPTextEncode", clip=["restorer", 1], text=f"{PROMPT}, smiling"),
        "base": sampled(model),
    }
    for gamma in gammas:
        prompt[f"known {gamma}"] = node(
            "ApplyPersonalization", model=model, identity_adapter=person, gamma=gamma
        )
        prompt[f"gamma {gamma}"] = sampled([f"known {gamma}", 0])
    known = ["known 1.0", 0]
    prompt |= {
        "called": sampled(known, positive=["name", 0]),
        "edited": sampled(known, positive=["edit", 0]),
        "square": node("ImageScale", image=["image", 0], upscale_method="bicubic", width=32, height=32,
                       crop="center"),
        "lq": node("RestorationConditioning", model=known, vae=vae, image=["square", 0]),
        "named lq": node("RestorationConditioning", model=known, vae=vae, image=["square", 0],
                         positive=["edit", 0]),
    }  # fmt: skip
    for name, lq in (("native", "lq"), ("native edited", "named lq")):
        prompt[f"{name} sampler"] = node(
            "KSampler", model=known, positive=[lq, 0], negative=[lq, 1], latent_image=[lq, 2], denoise=1.0,
            **SAMPLING,
        )  # fmt: skip
        prompt[name] = node("VAEDecode", samples=[f"{name} sampler", 0], vae=vae)
    for name in shown(gammas):
        prompt[f"save {name}"] = node("SaveImage", images=[name, 0], filename_prefix="pivot")
    return prompt


def shown(gammas: list[float]) -> list[str]:
    pictures = ["base", "called", "edited", "native", "native edited"]
    return [*pictures, *(f"gamma {gamma}" for gamma in gammas)]


def sampled(model: list[Any], **settings: Any) -> dict[str, Any]:
    return node("TiledSRSampler", model=model, vae=["restorer", 2], image=["image", 0], upscale=1.0,
                **SAMPLING, **settings)  # fmt: skip


def pixels(client: ComfyClient, execution: Any, name: str) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(client.view(execution.images(name)[0])))).astype(int)


def test_learn_once_and_restore(server: ComfyServer, client: ComfyClient, photos: list[str]) -> None:
    execution = client.run(learning(photos, "eve"))
    steps = TEXT + MODEL
    assert [step for name, step, _ in execution.progress if name == "train"][-1] == steps
    said = [text for name, text in execution.texts if name == "train"]
    assert said[0] == "1 of 1 class pictures"
    assert said[1].startswith(f"Text pivot: 0 of {steps} steps, about ")
    assert any(text.startswith(f"Model pivot: {steps} of {steps} steps") for text in said)
    assert "Saved as eve.safetensors in " in said[-1]
    file = server.base / "models" / "identity_adapters" / "eve.safetensors"
    adapter = load_identity_adapter(file)
    assert isinstance(adapter, DualPivotAdapter)
    header = adapter.header
    assert (header.pivots, header.steps_text, len(header.losses)) == ("both", TEXT, steps)
    assert header.prompt == PROMPT
    assert execution.images("loss")
    preview = pixels(client, execution, "preview")
    assert preview.shape == (2 * 32, 4 * 32, 3), "a row of crops above the preview"
    left = {path.name for path in file.parent.glob(".unfinished/*")}
    assert left == {"class_pictures"}, "what is finished leaves no scratch of a person behind"

    before = file.stat().st_mtime_ns
    client.free()
    again = client.run(learning(photos, "eve"))
    assert not [step for name, step, _ in again.progress if name == "train"], "it was learned twice"
    assert np.abs(pixels(client, again, "preview") - preview).max() <= 1
    assert file.stat().st_mtime_ns == before
    client.free()
    longer = client.run(learning(photos, "eve", model_steps=MODEL + 1))
    assert "It went on from the 5 steps" in longer.texts[-1][1]

    gammas = [0.0, 0.5, 1.0, 2.0]
    prompt = {**restoring(photos[0], ["person", 0], gammas)}
    prompt["person"] = node("LoadIdentityAdapter", name="eve.safetensors")
    prompt["copy"] = node("SaveIdentityAdapter", identity_adapter=["person", 0], name="eve_copy")
    restored = client.run(prompt)
    found = {name: pixels(client, restored, f"save {name}") for name in shown(gammas)}
    base, whole = found["base"], found["gamma 1.0"]
    assert (found["gamma 0.0"] == base).all()
    changes = [np.abs(found[f"gamma {gamma}"] - base).mean() for gamma in gammas]
    assert changes == sorted(changes)
    assert changes[1] > 0.1
    typed, edited = (np.abs(found[name] - whole).mean() for name in ("called", "edited"))
    assert typed < edited / 3, "the person's prompt is not the same where it is typed"
    assert (found["native edited"] != found["native"]).any()
    copy = load_identity_adapter(file.with_name("eve_copy.safetensors"))
    assert copy.header == header


def test_what_is_interrupted_goes_on(server: ComfyServer, client: ComfyClient, photos: list[str]) -> None:
    """Also in the second pivot."""
    many = 40  # so that a fast machine is still at it when the interrupt arrives
    prompt = learning(photos, "interrupted_pivot", model_steps=many, preview_every=1000)
    asked: list[int] = []

    def stop(event: Any) -> None:
        data = event["data"]
        training = event["type"] == "progress" and (data["node"], data["max"]) == ("train", TEXT + many)
        if training and data["value"] >= TEXT + 2 and not asked:
            asked.append(data["value"])
            client.interrupt()

    with pytest.raises(ExecutionInterrupted):
        client.run(prompt, stop)
    scratch = server.base / "models" / "identity_adapters" / ".unfinished"
    assert {path.name for path in scratch.glob("*/*.state.safetensors")} == {
        "text_pivot.state.safetensors", "model_pivot.state.safetensors"
    }  # fmt: skip
    client.free()
    execution = client.run(prompt)
    steps = [step for name, step, _ in execution.progress if name == "train"]
    assert min(step for step in steps if step != TEXT) >= asked[0], "it began anew"
    assert steps[-1] == TEXT + many
    assert {path.name for path in scratch.glob("*")} == {"class_pictures"}


def test_what_cannot_be_is_said(client: ComfyClient, photos: list[str]) -> None:
    with pytest.raises(ExecutionFailed, match="changes a control network, and this MODEL has none"):
        client.run(learning(photos, "nobody", STABLESR, pivots="both"))
    with pytest.raises(ExecutionFailed, match="token must be a word"):
        client.run(learning(photos, "nobody", token=" "))


def test_the_text_pivot_alone_fits_stablesr(
    server: ComfyServer, client: ComfyClient, photos: list[str]
) -> None:
    client.run(learning(photos, "plain", STABLESR))
    adapter = load_identity_adapter(server.base / "models" / "identity_adapters" / "plain.safetensors")
    assert isinstance(adapter, DualPivotAdapter)
    assert (adapter.header.pivots, len(adapter.header.losses)) == ("text", TEXT)
