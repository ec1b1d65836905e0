"""Published files in a real server: whether they restore, how long it takes and in how much memory.

`python -m lab benchmark layouts [--only NAME …] [--folder DIR] [--json FILE]`; stand-ins of the files (keys,
shapes and number formats as published, weights by formula) restore one picture of 512 x 512 pixels (FFHQ's of
256 x 256) by 2 steps in bf16 on the CPU, each in a server of its own. Seconds are of the prompt, loading
included; those of all cores (CPU seconds) change less with other work on the machine. Memory, in 10^9 bytes:
the highest resident memory (VmHWM), and what of it no file stands behind (RssAnon).

Writes up to 10 GB to DIR, a temporary folder unless named, and removes them again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from harness import ROOT
from harness.client import Execution
from harness.host import ComfyServer
from harness.stand_ins import FILES
from pfstorer_core.checkpoints.files import atomic_write

from .memory import status

SIDE = 512
SD21 = "v2-1_512-ema-pruned.safetensors"
CONTROL = "v1_face.pth"
RECOGNIZER = "backbone.pth"


@dataclass(frozen=True)
class Case:
    """Files as a user puts them.

    Attributes:
        files: name in the server -> its folder there, and its stand-in (of `harness.stand_ins.FILES`).
        loader: further inputs of LoadBaseRestorer.
        cleaner: of the files, an upscale model; "" for the checkpoint's own, if it has one.
        says: what LoadBaseRestorer shows that it took.
        model_type: what the host makes of it.
        side: of the pictures in pixels.
        guided: by an IResNet-50 that is to find who the bad picture shows, in both steps.
    """

    checkpoint: str
    files: Mapping[str, tuple[str, str]]
    says: str
    loader: Mapping[str, str] = field(default_factory=dict)
    cleaner: str = ""
    model_type: str = "EPS"
    side: int = SIDE
    guided: bool = False


def full(name: str, says: str, stand_in: str = "face_full_v1.ckpt") -> Case:
    return Case(name, {name: ("checkpoints", stand_in)}, says)


def control(name: str, says: str, cleaner: str = "", **options: Any) -> Case:
    """A control network on Stable Diffusion 2.1."""
    files = {SD21: ("checkpoints", SD21), name: ("controlnet", CONTROL)}
    if cleaner:
        files[cleaner] = ("upscale_models", cleaner)
    return Case(SD21, files, says, {"restorer_weights": name}, cleaner, **options)


def prior(name: str, says: str, **options: Any) -> Case:
    """A latent diffusion model without a text."""
    return Case(f"{name}.ckpt", {f"{name}.ckpt": ("restorers", f"{name}.ckpt")}, says, **options)


def guided(case: Case) -> Case:
    files = {**case.files, RECOGNIZER: ("face_recognizers", RECOGNIZER)}
    return replace(case, files=files, guided=True)


STABLESR = full("stablesr_000117.ckpt", "stablesr", "stablesr_000117.ckpt")
REFLDM = prior("refldm", "clr_face refldm")
CASES = {
    "face_full_v1.ckpt": full("face_full_v1.ckpt", "v1_face"),
    "general_full_v1.ckpt": full("general_full_v1.ckpt", "v1_general"),
    "face_full_v1.ckpt of Dual-Pivot": full("face_full_v1.ckpt", "v1_face", "dual_pivot.ckpt"),
    "v1_face.pth": control("v1_face.pth", "v1_face"),
    "v1_general.pth": control("v1_general.pth", "v1_general"),
    "v2.pth": control("v2.pth", "v2"),
    "DiffBIR_v2.1.pt": control("DiffBIR_v2.1.pt", "v2.1", model_type="V_PREDICTION"),
    "v1_face.pth, face_swinir_v1.ckpt": control("v1_face.pth", "v1_face", "face_swinir_v1.ckpt"),
    "v2.pth, BSRNet.pth": control("v2.pth", "v2", "BSRNet.pth"),
    "v2.pth, scunet_color_real_psnr.pth": control("v2.pth", "v2", "scunet_color_real_psnr.pth"),
    "refldm.ckpt": REFLDM,
    "refldm.ckpt, vqgan.ckpt": replace(
        REFLDM,
        files={**REFLDM.files, "vqgan.ckpt": ("vae", "vqgan.ckpt")},
        loader={"cfw_autoencoder": "vqgan.ckpt"},
    ),
    "ffhq256.ckpt": prior("ffhq256", "clr_face ffhq256", side=256),
    "bsr_sr.ckpt": prior("bsr_sr", "clr_face bsr_sr"),
    "refldm.ckpt, guided": guided(REFLDM),
    "stablesr_000117.ckpt, guided": guided(STABLESR),
}
"""The published layouts, and what it costs to be guided by a face recogniser."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m lab benchmark layouts", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--folder", type=Path, help="for a temporary one with the stand-ins")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--write", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.write:
        with atomic_write(options.write) as temporary:
            FILES[options.write.name](temporary)
        return
    results: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for name in options.only:
            row = results[name] = measured(CASES[name], Path(folder))
            listed = ", ".join(f"{key} {value:.4g}" for key, value in row.items())
            sys.stdout.write(f"{name}: {listed}\n")
            sys.stdout.flush()
            if options.json:
                with atomic_write(options.json) as temporary:
                    temporary.write_text(json.dumps(results, indent=2))


def measured(case: Case, folder: Path) -> dict[str, float]:
    """One restoration in a server of its own.

    Args:
        folder: for the stand-ins; only those of this case are left in it.
    Raises:
        RuntimeError: the node took the files for something else, the log tells of wrong keys, or the picture
            is none.
    """
    stand_ins = prepared(case, folder)
    with ComfyServer() as server, server.client() as client:
        for name, (where, source) in case.files.items():
            (server.base / "models" / where).mkdir(parents=True, exist_ok=True)
            (server.base / "models" / where / name).symlink_to(stand_ins[source])
        image = client.upload_image(bad_picture(case.side), "bad.png")
        assert server.process
        with highest("RssAnon", server.process.pid) as anonymous:
            before = cpu_seconds(server.process.pid)
            execution = client.run(prompt(case, image), timeout=1800)
            busy = cpu_seconds(server.process.pid) - before
            resident = status("VmHWM", server.process.pid)
        shown = client.view(execution.images()[0])
        check(case, execution, server.log.read_text(), shown)
        return {
            "files_gb": sum(path.stat().st_size for path in stand_ins.values()) / 1e9,
            "seconds": execution.seconds,
            "cpu_seconds": busy,
            "rss_gb": resident / 1e9,
            "anonymous_gb": anonymous[0] / 1e9,
        }


def prepared(case: Case, folder: Path) -> dict[str, Path]:
    """The stand-ins of a case; others are removed, since there is not room for all at once."""
    wanted = {source for _, source in case.files.values()}
    for path in folder.iterdir():
        if path.name not in wanted:
            path.unlink()
    for name in wanted:
        if not (folder / name).exists():  # in a process of its own, which gives all its memory back
            command = [sys.executable, "-m", "lab.benchmarks.layouts", "--write", str(folder / name)]
            subprocess.run(command, cwd=ROOT, check=True)
    return {name: folder / name for name in wanted}


def bad_picture(side: int) -> bytes:
    file = BytesIO()
    Image.linear_gradient("L").convert("RGB").resize((side, side)).save(file, "PNG")
    return file.getvalue()


@contextmanager
def highest(entry: str, process: int) -> Iterator[list[int]]:
    """The largest value of an entry of /proc/PROCESS/status meanwhile, in a list of one."""
    found, done = [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.05):
            found[0] = max(found[0], status(entry, process))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield found
    finally:
        done.set()
        watcher.join()


def cpu_seconds(process: int) -> float:
    """That a process has calculated so far, on all cores together."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


def prompt(case: Case, image: str) -> dict[str, Any]:
    def node(kind: str, **inputs: Any) -> dict[str, Any]:
        return {"class_type": kind, "inputs": inputs}

    graph = {
        "image": node("LoadImage", image=image),
        "restorer": node("LoadBaseRestorer", checkpoint=case.checkpoint, dtype="bf16", **case.loader),
        "lq": node(
            "RestorationConditioning", model=["restorer", 0], vae=["restorer", 2], image=["image", 0]
        ),
        "sample": node(
            "KSampler", model=["restorer", 0], positive=["lq", 0], negative=["lq", 1],
            latent_image=["lq", 2], seed=1, denoise=1.0, steps=2, cfg=1.0, sampler_name="euler",
            scheduler="normal",
        ),
        "picture": node("VAEDecode", samples=["sample", 0], vae=["restorer", 2]),
        "save": node("SaveImage", images=["picture", 0], filename_prefix="layout"),
    }  # fmt: skip
    if case.cleaner:
        graph["cleaner"] = node("UpscaleModelLoader", model_name=case.cleaner)
        graph["lq"]["inputs"]["cleaner"] = ["cleaner", 0]
    if case.guided:
        graph["recognizer"] = node("LoadFaceRecognizer", name=RECOGNIZER)
        graph["guidance"] = node(
            "FaceIdentityGuidance", model=["restorer", 0], vae=["restorer", 2], recognizer=["recognizer", 0],
            strength=0.01, start_percent=0.0,
        )  # fmt: skip
        graph["sample"]["inputs"]["model"] = ["guidance", 0]
    return graph


def check(case: Case, execution: Execution, log: str, shown: bytes) -> None:
    """Raises RuntimeError, see `measured`."""
    said = "\n".join(text for _, text in execution.texts)
    pixels = np.asarray(Image.open(BytesIO(shown)))
    lower = log.lower()
    wrong = {
        f"the node says {said!r}, expected {case.says}": f" {case.says}: " not in said,
        f"the host did not say model_type {case.model_type}": f"model_type {case.model_type}\n" not in log,
        "the host says that keys are missing": "missing" in lower,
        "the host says that keys are unexpected": "unexpected" in lower,
        "weights are not bf16": "model weight dtype torch.bfloat16, manual cast: None" not in log,
        f"the picture has the shape {pixels.shape}": pixels.shape != (case.side, case.side, 3),
        f"nothing says that both steps were guided: {said!r}": case.guided
        and "of 2 guided steps" not in said,
        "the picture shows nothing": pixels.std() < 1,
    }
    if any(wrong.values()):
        raise RuntimeError("; ".join(what for what, so in wrong.items() if so))


if __name__ == "__main__":
    main()
