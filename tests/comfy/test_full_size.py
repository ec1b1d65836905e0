"""Stand-ins of the published files, keys, shapes and layouts as published, in a real server in true bf16."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from harness.host import ComfyServer
from harness.stand_ins import FOLDER, stand_in
from lab.benchmarks import layouts
from lab.benchmarks.memory import status
from pfstorer_core.personalization.registry import load_identity_adapter
from pfstorer_core.restorers.convert import convert

from .prompts import node, png

SIDE = 512
ONE_FILE = "stablesr.safetensors"


@dataclass(frozen=True)
class Case:
    """Files as a user puts them: name in the server -> (folder, stand-in); what the node is told; what
    the host has to make of it."""

    checkpoint: str
    files: dict[str, tuple[str, str]]
    loader: dict[str, str] = field(default_factory=dict)
    model_type: str = "EPS"
    sampler: dict[str, Any] = field(default_factory=dict)
    text: bool = True


CHECKPOINT = "stablesr_000117.ckpt"
SD21, OWN, CFW = "v2-1_512-ema-pruned.safetensors", "webui_768v_139.ckpt", "vqgan_cfw_00011.ckpt"
FULL = {CHECKPOINT: ("checkpoints", CHECKPOINT)}
CASES = {
    "checkpoint": Case(CHECKPOINT, FULL),
    "768v": Case(
        "stablesr_768v_000139.ckpt",
        {"stablesr_768v_000139.ckpt": ("restorers", CHECKPOINT)},
        model_type="V_PREDICTION",
    ),
    "turbo": Case(
        "stablesr_turbo.ckpt", {"stablesr_turbo.ckpt": ("checkpoints", CHECKPOINT)}, sampler={"steps": 4}
    ),
    "own weights on SD 2.1": Case(
        SD21,
        {SD21: ("checkpoints", SD21), OWN: ("stablesr", OWN)},
        {"restorer_weights": OWN},
        model_type="V_PREDICTION",
    ),
    "CFW autoencoder": Case(CHECKPOINT, FULL | {CFW: ("stablesr", CFW)}, {"cfw_autoencoder": CFW}),
    "converted": Case(ONE_FILE, {ONE_FILE: ("restorers", ONE_FILE)}, text=False),
}


@pytest.fixture(scope="module")
def large_server() -> Iterator[ComfyServer]:
    with ComfyServer() as server:
        yield server


@pytest.fixture
def case(request: pytest.FixtureRequest, large_server: ComfyServer) -> Iterator[Case]:
    case = CASES[request.param]
    links = put_files(case, large_server)
    yield case
    for link in links:
        link.unlink()


def put_files(case: Case, server: ComfyServer) -> list[Path]:
    links = []
    for name, (folder, source) in case.files.items():
        link = server.base / "models" / folder / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(converted() if source == ONE_FILE else stand_in(source))
        links.append(link)
    return links


def converted() -> Path:
    path = FOLDER / ONE_FILE
    convert(path, stand_in(CHECKPOINT), [stand_in(CFW)], dtype="bf16", text=False)
    return path


@pytest.mark.parametrize(
    "case",
    [pytest.param(name, marks=[] if name == "checkpoint" else pytest.mark.full) for name in CASES],
    indirect=True,
)
def test_published_files_restore_in_the_host(case: Case, large_server: ComfyServer, tmp_path: Path) -> None:
    Image.linear_gradient("L").convert("RGB").resize((SIDE, SIDE)).save(tmp_path / "bad.png")
    log_before = len(large_server.log.read_text())
    with large_server.client() as client:
        client.free()
        prompt = workflow(case, client.upload_image(tmp_path / "bad.png", "bad.png"))
        execution = client.run(prompt, timeout=900)
        (tmp_path / "full.png").write_bytes(client.view(execution.images()[0]))
    assert Image.open(tmp_path / "full.png").size == (SIDE, SIDE)
    log = large_server.log.read_text()[log_before:]
    assert f"model_type {case.model_type}\n" in log
    assert "model weight dtype torch.bfloat16, manual cast: None" in log
    assert "missing" not in log.lower()
    assert "unexpected" not in log.lower()


@pytest.fixture(scope="module")
def large_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the stand-ins of one layout at a time lie."""
    return tmp_path_factory.mktemp("layouts")


@pytest.mark.full
@pytest.mark.parametrize("name", layouts.CASES)
def test_published_layouts_restore_in_the_host(name: str, large_files: Path) -> None:
    """In fp32, 7 GB with everything in one file. The mapped file counts as resident where there is room."""
    row = layouts.measured(layouts.CASES[name], large_files)
    assert row["anonymous_gb"] < (24 if layouts.CASES[name].guided else 7)
    assert row["rss_gb"] < (24 if layouts.CASES[name].guided else 14)


@pytest.mark.full
@pytest.mark.parametrize(
    ("batch", "gigabytes"),
    [(1, 10), (4, 20)],
)
def test_a_person_is_learned_in_bounded_memory(batch: int, gigabytes: int) -> None:
    """Two steps at 512 pixels, and the sheet after them, in a server that has done nothing else."""
    with ComfyServer() as server, server.client() as client:
        put_files(CASES["checkpoint"], server)
        pixels = np.random.default_rng(0).integers(0, 256, (2, SIDE, SIDE, 3), np.uint8)
        photos = [client.upload_image(png(photo), f"photo{n}.png") for n, photo in enumerate(pixels)]
        loaded = {name: ["restorer", output] for output, name in enumerate(("model", "clip", "vae"))}
        grown = {f"photos.photo_{n}": [f"photo{n}", 0] for n in range(len(photos))}
        prompt = {f"photo{n}": node("LoadImage", image=photo) for n, photo in enumerate(photos)} | {
            "restorer": node("LoadBaseRestorer", checkpoint=CHECKPOINT, dtype="bf16"),
            "train": node(
                "TrainIdentityAdapter", name="ada", steps=2, seed=0, batch=batch, **loaded, **grown
            ),
        }
        client.run(prompt, timeout=1800)
        adapter = load_identity_adapter(server.base / "models" / "identity_adapters" / "ada.safetensors")
        assert np.isfinite(adapter.header.losses).all()
        assert server.process
        assert status("VmHWM", server.process.pid) < gigabytes * 1e9


def workflow(case: Case, image: str) -> dict[str, Any]:
    sampler = {"steps": 2, "cfg": 1.0, "sampler_name": "ddpm", "scheduler": "normal", **case.sampler}
    prompt = {
        "image": node("LoadImage", image=image),
        "restorer": node("LoadBaseRestorer", checkpoint=case.checkpoint, dtype="bf16", **case.loader),
        "lq": node(
            "RestorationConditioning", model=["restorer", 0], vae=["restorer", 2], image=["image", 0]
        ),
        "sample": node(
            "KSampler", model=["restorer", 0], positive=["lq", 0], negative=["lq", 1],
            latent_image=["lq", 2], seed=1, denoise=1.0, **sampler,
        ),
        "picture": node("VAEDecode", samples=["sample", 0], vae=["restorer", 2]),
        "save": node("SaveImage", images=["picture", 0], filename_prefix="full"),
    }  # fmt: skip
    if case.text:
        prompt["text"] = node("CLIPTextEncode", clip=["restorer", 1], text="a face")
        prompt["lq"]["inputs"]["positive"] = ["text", 0]
    if "cfw_autoencoder" in case.loader:
        prompt["picture"] = node(
            "TiledSRSampler", model=["restorer", 0], vae=["restorer", 2], image=["image", 0], upscale=1.0,
            steps=2, cfg=1.0, sampler_name="ddpm", scheduler="normal", seed=1, fidelity=0.5,
        )  # fmt: skip
        del prompt["sample"], prompt["lq"], prompt["text"]
    return prompt
