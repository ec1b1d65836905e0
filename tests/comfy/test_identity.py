"""A person learned and restored in a real server, over the API."""

from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image

from harness.client import ComfyClient, ExecutionFailed, ExecutionInterrupted
from harness.drawn import BAD_SIDE, DRAWN_PERSON, bad_picture, case
from harness.host import ComfyServer
from harness.picture import encode
from pfstorer_core.personalization.dual_pivot.class_pictures import FOLDER
from pfstorer_core.personalization.pfstorer.adapter import IdentityAdapter
from pfstorer_core.personalization.pfstorer.start import start_beside
from pfstorer_core.personalization.pfstorer.train_start import StartLoss, StartTraining
from pfstorer_core.personalization.registry import load_identity_adapter
from pfstorer_core.personalization.training import written_losses
from pfstorer_core.restorers.files import load_restorer

from .prompts import add_small_restorer, node
from .prompts import png as png_of

RESTORER = "small.safetensors"
STEPS = 6
LEAK = 0.05
"""Of a person's change that may be seen beside the person's mask."""


@pytest.fixture(scope="module", autouse=True)
def restorer(server: ComfyServer) -> None:
    add_small_restorer(server, RESTORER)


@pytest.fixture
def photos(client: ComfyClient) -> list[str]:
    rng = np.random.default_rng(0)
    return [client.upload_image(png(rng.random((40, 40 + 8 * n, 3))), f"photo{n}.png") for n in range(2)]


def scratch_of(server: ComfyServer) -> list[str]:
    """What is unfinished of people: drawn pictures of a class are kept for the next one."""
    folder = server.base / "models" / "identity_adapters" / ".unfinished"
    return [path.name for path in folder.glob("*") if path.name != FOLDER]


def png(pixels: np.ndarray) -> bytes:
    """Of floats in 0…1."""
    return png_of((pixels * 255).astype(np.uint8))


def learning(photos: list[str], name: str, **settings: Any) -> dict[str, Any]:
    prompt = {f"photo{n}": node("LoadImage", image=photo) for n, photo in enumerate(photos)}
    grown = {f"photos.photo_{n}": [f"photo{n}", 0] for n in range(len(photos))}
    given = {"steps": STEPS, "seed": 0, "batch": 1, **settings}
    return {
        **prompt,
        "restorer": node("LoadBaseRestorer", checkpoint=RESTORER),
        "train": node(
            "TrainIdentityAdapter", model=["restorer", 0], clip=["restorer", 1], vae=["restorer", 2],
            name=name, **grown, **given,
        ),
        "loss": node("LossGraphNode", loss=["train", 1], filename_prefix="loss"),
        "preview": node("SaveImage", images=["train", 2], filename_prefix="preview"),
    }  # fmt: skip


def restoring(photo: str, gammas: list[float], **settings: Any) -> dict[str, Any]:
    prompt = {
        "image": node("LoadImage", image=photo),
        "restorer": node("LoadBaseRestorer", checkpoint=RESTORER),
        "person": node("LoadIdentityAdapter", name="ada.safetensors"),
        "base": sampler(["restorer", 0]),
        "save_base": node("SaveImage", images=["base", 0], filename_prefix="base"),
    }
    for gamma in gammas:
        applied = {"model": ["restorer", 0], "identity_adapter": ["person", 0], "gamma": gamma, **settings}
        prompt[f"apply{gamma}"] = node("ApplyPersonalization", **applied)
        prompt[f"sample{gamma}"] = sampler([f"apply{gamma}", 0])
        prompt[f"save{gamma}"] = node("SaveImage", images=[f"sample{gamma}", 0], filename_prefix="gamma")
    return prompt


def sampler(model: list[Any], upscale: float = 1.0) -> dict[str, Any]:
    return node(
        "TiledSRSampler", model=model, vae=["restorer", 2], image=["image", 0], upscale=upscale, steps=2,
        cfg=1.0, sampler_name="euler", scheduler="normal", seed=0,
    )  # fmt: skip


def pixels(client: ComfyClient, execution: Any, name: str) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(client.view(execution.images(name)[0])))).astype(int)


def test_learn_once_and_restore(server: ComfyServer, client: ComfyClient, photos: list[str]) -> None:
    execution = client.run(learning(photos, "ada", lr=0.01, gamma_lr=0.3))
    assert [step for name, step, _ in execution.progress if name == "train"][-1] == STEPS
    said = [text for name, text in execution.texts if name == "train"]
    assert said[0].startswith(f"0 of {STEPS} steps, about ")
    assert said[-2] == f"{STEPS} of {STEPS} steps, about 0 min 00 s left"
    assert said[-1].startswith("Saved as ada.safetensors in ")
    file = server.base / "models" / "identity_adapters" / "ada.safetensors"
    adapter = load_identity_adapter(file)
    assert isinstance(adapter, IdentityAdapter)
    assert len(adapter.header.losses) == STEPS
    assert len(adapter.references) == 2
    assert not scratch_of(server), "what is finished leaves no scratch behind"
    inputs = client.get("/object_info/LoadIdentityAdapter")["LoadIdentityAdapter"]["input"]
    assert "ada.safetensors" in inputs["required"]["name"][1]["options"]

    before = file.stat().st_mtime_ns
    client.free()
    again = client.run(learning(photos, "ada", lr=0.01, gamma_lr=0.3))
    assert "train" in again.ran
    assert not [step for name, step, _ in again.progress if name == "train"], "it was learned twice"
    assert file.stat().st_mtime_ns == before

    with ComfyServer(threads=1, base=server.base) as fresh, fresh.client() as other:
        restored = other.run(restoring(photos[0], [0.0, 0.5, 1.0]))
        base, none, half, full = (
            pixels(other, restored, name) for name in ("save_base", "save0.0", "save0.5", "save1.0")
        )
    assert (none == base).all()
    assert 0 < np.abs(half - base).mean() < np.abs(full - base).mean()


def test_two_people_keep_to_their_halves(client: ComfyClient) -> None:
    """What the one changes in the other's half is a few per cent of what it changes in its own."""
    picture = client.upload_image(encode(bad_picture(case())), "bad.png")
    half = {"width": BAD_SIDE // 2, "height": BAD_SIDE}
    prompt = {
        "image": node("LoadImage", image=picture),
        "restorer": node("LoadBaseRestorer", checkpoint="pfstorer_tiny.safetensors"),
        "person": node("LoadIdentityAdapter", name=f"{DRAWN_PERSON}.safetensors"),
        "nothing": node("SolidMask", value=0.0, width=BAD_SIDE, height=BAD_SIDE),
        "half": node("SolidMask", value=1.0, **half),
        "left": node(
            "MaskComposite", destination=["nothing", 0], source=["half", 0], x=0, y=0, operation="add"
        ),
        "right": node("InvertMask", mask=["left", 0]),
    }
    masks = {"first": ("restorer", "left"), "second": ("restorer", "right"), "both": ("first", "right")}
    for name, (model, mask) in masks.items():
        applied = {"model": [model, 0], "identity_adapter": ["person", 0], "gamma": 2.0, "mask": [mask, 0]}
        prompt[name] = node("ApplyPersonalization", **applied)
    models = ("restorer", *masks)
    for name in models:
        prompt[f"sample {name}"] = sampler([name, 0], upscale=4.0)
        prompt[f"save {name}"] = node("SaveImage", images=[f"sample {name}", 0], filename_prefix="halves")
    execution = client.run(prompt)
    base, first, second, both = (pixels(client, execution, f"save {name}") for name in models)
    middle = base.shape[1] // 2
    for one, without in ((first, base), (both, second)):
        change = np.abs(one - without)
        assert change[:, middle:].mean() < LEAK * change[:, :middle].mean()


def test_what_is_interrupted_goes_on(server: ComfyServer, client: ComfyClient, photos: list[str]) -> None:
    many = 150  # so that a fast machine is still at it when the interrupt arrives
    prompt = learning(photos, "interrupted", steps=many)
    asked: list[int] = []

    def stop(event: Any) -> None:
        data = event["data"]
        if event["type"] == "progress" and data["node"] == "train" and data["value"] >= 3 and not asked:
            asked.append(data["value"])
            client.interrupt()

    with pytest.raises(ExecutionInterrupted):
        client.run(prompt, stop)
    scratch = server.base / "models" / "identity_adapters" / ".unfinished"
    (state,) = scratch.glob("*/identity.state.safetensors")
    kept = len(written_losses(state.parent))
    assert kept >= asked[0]
    client.free()
    execution = client.run(prompt)
    steps = [step for name, step, _ in execution.progress if name == "train"]
    assert steps[0] == kept
    assert steps[-1] == many
    assert not scratch_of(server)


def test_what_is_wrong_is_said(client: ComfyClient) -> None:
    black = client.upload_image(png(np.zeros((40, 40, 3))), "black.png")
    with pytest.raises(ExecutionFailed, match="shows nobody"):
        client.run(learning([black], "nobody"))
    photo = client.upload_image(png(np.random.default_rng(1).random((40, 40, 3))), "one.png")
    with pytest.raises(ExecutionFailed, match="An identity cannot act at output_blocks"):
        client.run(learning([photo], "nobody", sites="output_blocks.99.1"))


def test_a_start_beside_the_restorer_is_begun_with(
    server: ComfyServer, client: ComfyClient, photos: list[str]
) -> None:
    """Without one nothing can be made of no steps."""
    with pytest.raises(ExecutionFailed, match="0 steps learn nothing"):
        client.run(learning(photos, "begun", steps=0))
    file = server.base / "models" / "restorers" / RESTORER
    start = StartLoss(load_restorer(file, text=True), StartTraining()).start(1, 2)
    start.save(start_beside(file))
    try:
        listed = client.get("/object_info/LoadBaseRestorer")["LoadBaseRestorer"]["input"]["required"]
        assert RESTORER in listed["checkpoint"][1]["options"]
        assert start_beside(file).name not in listed["checkpoint"][1]["options"]
        execution = client.run(learning(photos, "begun", steps=0))
    finally:
        start_beside(file).unlink()
    said = [text for name, text in execution.texts if name == "train"]
    assert f"It began from {start_beside(file).name}" in said[-1]
    header = load_identity_adapter(server.base / "models" / "identity_adapters" / "begun.safetensors").header
    assert header.details()[-1] == f"began from the start {start.fingerprint}"
