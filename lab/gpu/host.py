"""F: the pack in the real ComfyUI: restoring, the native nodes, a person, learning one."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

import pfstorer_core as pf
from pfstorer_core import Restorer

from .networks import pictures
from .restoring import restored
from .server import Server
from .session import Session

FILE = "full.safetensors"
LEAST = 15
"""Seconds without which a restorer is not begun with."""
LOG = re.compile(
    r"dtype|load|dynamic|vram|device|attention|pin|error|warn|traceback|offload|executed|aimdo|kitchen|"
    r"exception|missing|failed|version|import times|seconds",
    re.IGNORECASE,
)
Graph = dict[str, Any]
Suite = Callable[[Session, Server], None]
"""The graphs of one restorer."""


def node(kind: str, **given: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": given}


def tiled(
    seed: int, steps: int, picture: str = "bad.png", dtype: str = "auto", file: str = FILE, **options: Any
) -> Graph:
    return {
        "image": node("LoadImage", image=picture),
        "restorer": node("LoadBaseRestorer", checkpoint=file, dtype=dtype),
        "sample": node("TiledSRSampler", model=["restorer", 0], vae=["restorer", 2], image=["image", 0],
                       upscale=4.0, steps=steps, cfg=1.0, sampler_name="ddpm", scheduler="normal", seed=seed,
                       **options),
        "save": node("SaveImage", images=["sample", 0], filename_prefix="check"),
    }  # fmt: skip


def native(seed: int, steps: int, file: str = FILE) -> Graph:
    return {
        "image": node("LoadImage", image="large.png"),
        "restorer": node("LoadBaseRestorer", checkpoint=file, dtype="auto"),
        "lq": node("RestorationConditioning", model=["restorer", 0], vae=["restorer", 2], image=["image", 0]),
        "sample": node("KSampler", model=["restorer", 0], positive=["lq", 0], negative=["lq", 1],
                       latent_image=["lq", 2], seed=seed, steps=steps, cfg=1.0, sampler_name="euler",
                       scheduler="normal", denoise=1.0),
        "picture": node("VAEDecode", samples=["sample", 0], vae=["restorer", 2]),
        "save": node("SaveImage", images=["picture", 0], filename_prefix="native"),
    }  # fmt: skip


def personal(seed: int, steps: int, name: str, file: str = FILE) -> Graph:
    graph = tiled(seed, steps, file=file)
    graph["person"] = node("LoadIdentityAdapter", name=name)
    given = {"model": ["restorer", 0], "identity_adapter": ["person", 0], "gamma": 1.0}
    graph["apply"] = node("ApplyPersonalization", **given)
    graph["sample"]["inputs"]["model"] = ["apply", 0]
    return graph


def learning(steps: int, batch: int, file: str = FILE, name: str = "ada", **options: Any) -> Graph:
    photos = {f"photo{n}": node("LoadImage", image=f"photo{n}.png") for n in range(3)}
    return {
        **photos,
        "restorer": node("LoadBaseRestorer", checkpoint=file, dtype="bf16"),
        "train": node("TrainIdentityAdapter", name=name, steps=steps, seed=0, batch=batch, **options,
                      model=["restorer", 0], clip=["restorer", 1], vae=["restorer", 2],
                      **{f"photos.photo_{n}": [f"photo{n}", 0] for n in range(3)}),
    }  # fmt: skip


def plan(cuda: bool) -> list[tuple[str, float, Graph]]:
    """Graphs by key, with the seconds that have to be left for each."""
    long = 50 if cuda else 8
    return [
        ("load_and_5", 0, tiled(1, 5)),
        ("again_5", 0, tiled(2, 5)),
        ("again_50", 2, tiled(3, long)),
        ("native_20", 2, native(4, 20 if cuda else 4)),
        ("person_5", 2, personal(5, 5, "stand_in.safetensors")),
        ("train_3_batch_1", 12, learning(3 if cuda else 2, 1)),
        ("learned_person_5", 3, personal(6, 5, "ada.safetensors")),
        ("9_tiles_fidelity_5", 3, tiled(7, 5, "quarter.png", fidelity=0.5)),
        ("person_50", 3, personal(8, long, "stand_in.safetensors")),
        ("bf16_load_and_5", 5, tiled(9, 5, dtype="bf16")),
    ]


def part_f(session: Session, server: Server, suites: Sequence[Suite]) -> None:
    write_pictures(session.sizes.header.image_size, server.base / "input")
    for suite in suites:
        if session.left_of_part() > LEAST:
            with session.attempt("F", suite.__name__):
                suite(session, server)
        else:
            session.put("F", suite.__name__, "skipped")


def of_stablesr(session: Session, server: Server) -> None:
    session.person(5).save(server.base / "models" / "identity_adapters" / "stand_in.safetensors")
    path = write_restorer(session, server, session.restorer, FILE)
    run_all(session, server, plan(session.cuda))
    long = 50 if session.cuda else 8
    found = session.report.data["F"]
    for name in ("again", "person"):
        a, b = found.get(f"{name}_5"), found.get(f"{name}_50")
        if isinstance(a, dict) and isinstance(b, dict):
            session.put("F", f"{name}_ms_a_step", 1000 * (b["s"] - a["s"]) / (long - 5))
    if session.left_of_part() > 6:
        with session.attempt("F", "library_load"):
            begun = time.perf_counter()
            loaded = pf.load_restorer(path, device=session.device, dtype=torch.bfloat16, text=True)
            session.sync()
            session.put("F", "library_load_s", time.perf_counter() - begun)
            restored(session, "F", "library_loaded_2", loaded, session.sizes.header.image_size // 4, 2)


def run_all(session: Session, server: Server, graphs: Sequence[tuple[str, float, Graph]]) -> None:
    server.wait()
    session.put("F", "ready_s", server.ready_s)
    trained = False
    for key, needed, graph in graphs:
        if session.left_of_part() < needed + 1 or ("learned" in key and not trained):
            session.put("F", key, "skipped")
            continue
        with session.attempt("F", key):
            row = server.run(key, graph)
            trained |= "train" in key and row["status"] == "success"


def write_restorer(session: Session, server: Server, restorer: Restorer, name: str) -> Path:
    """A checkpoint that the graphs name; its path. Afterwards the device is the host's alone."""
    path = server.base / "models" / "restorers" / name
    begun = time.perf_counter()
    signal.setitimer(signal.ITIMER_REAL, max(0.1, min(20.0, session.left_of_part())))
    try:
        pf.save_restorer(restorer, path)
    finally:
        signal.setitimer(signal.ITIMER_REAL, max(0.1, session.left_of_part()))
    seconds = time.perf_counter() - begun
    session.put("F", f"write_{name}", {"s": seconds, "gb": path.stat().st_size / 1e9})
    del restorer
    session.drop_restorers()
    session.put("F", "own_memory", session.memory())
    return path


def write_pictures(side: int, folder: Path) -> None:
    from PIL import Image

    named = {"bad": pictures(1, side // 4, 7), "quarter": pictures(1, side // 2, 7)}
    named |= {"large": pictures(1, side, 7)} | {f"photo{n}": pictures(1, side, 20 + n) for n in range(3)}
    for name, picture in named.items():
        pixels = (picture[0].permute(1, 2, 0) * 255).round().byte().numpy()
        Image.fromarray(pixels).save(folder / f"{name}.png")


def tell_log(session: Session, server: Server) -> None:
    """What of the host's log is worth a look."""
    log = re.sub(r"\x1b\[\d*m", "", server.log.read_text(errors="replace"))
    lines = [line for line in log.splitlines() if LOG.search(line) and "comfy_extras" not in line]
    session.put("F", "log", [line[:220] for line in lines[:70] + lines[70:][-50:]], quiet=True)
