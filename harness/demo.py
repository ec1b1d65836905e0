"""`make demo`: restores pictures in a real ComfyUI server and writes what it did to them.

Without an image it damages two pictures, a drawn face and a photograph, and restores them, and then a bad
picture of the drawn person whose adapter comes with the pack, at several gammas; --train learns that person
anew. With an image it restores that.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import ROOT, setup
from .console import HarnessError, run_main, say

if TYPE_CHECKING:
    from PIL import Image

    from .client import ComfyClient, Event
    from .host import ComfyServer

WORKFLOW = ROOT / "workflows" / "api" / "restore_and_upscale.json"
UPSCALE = 4.0
UPSCALE_RANGE = (1.0, 20.0)
SIDE = 256
"""Pixels along a side of the pictures that are damaged and restored."""
SEED = 0
PATIENCE = 3600.0
"""Seconds that one picture may take."""


@dataclass(frozen=True)
class Task:
    """One picture to restore; `truth` is what it should look like, where that is known."""

    name: str
    image: Image.Image
    upscale: float
    truth: Image.Image | None = None


def main() -> None:
    options = parse()
    with stage("set-up"):
        # What is imported below is only there once set-up has run.
        setup.main()
        importlib.invalidate_caches()
    tasks = given_picture(options.image, options.upscale) if options.image else own_pictures()
    prompt = read_workflow()

    from .host import ComfyServer

    server = ComfyServer(cpu=not has_gpu())
    try:
        with stage("server start"):
            server.start()
        with server.client() as client:
            for task in tasks:
                with stage(task.name):
                    run_task(client, prompt, task, options.out)
            if options.train or not options.image:
                with stage("person"):
                    run_person(client, options.out, options.train)
    except HarnessError as error:
        raise with_log(error, server) from None
    finally:
        server.stop()


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m harness.demo", description=__doc__)
    parser.add_argument("--image", type=Path, help="a picture of your own")
    parser.add_argument("--upscale", help=f"how much larger, {UPSCALE:g} unless given")
    parser.add_argument("--out", type=Path, default=Path("demo_output"), help="the folder to fill")
    parser.add_argument("--train", action="store_true", help="learn the drawn person anew; takes minutes")
    options = parser.parse_args()
    if options.image and not options.image.is_file():  # said before minutes of set-up
        raise HarnessError(f"{options.image}: there is no such file")
    prepare_folder(options.out)
    options.upscale = read_upscale(options.upscale)
    return options


def read_upscale(text: str | None) -> float:
    low, high = UPSCALE_RANGE
    try:
        upscale = UPSCALE if text is None else float(text)
    except ValueError:
        upscale = 0.0
    if not low <= upscale <= high:
        raise HarnessError(f"UPSCALE={text}: a number from {low:g} to {high:g} is needed")
    return upscale


def prepare_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out).close()
    except OSError as error:
        raise HarnessError(f"OUT={out} is no folder to write to: {error.strerror}") from None


def has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def given_picture(path: Path, upscale: float) -> list[Task]:
    from PIL import Image

    from .picture import check_size, plan, read_picture

    image = read_picture(path)
    size, factor = plan(image.size, upscale)
    if size != image.size:
        check_size(path, size)
        say(f"{path.name} is {image.width} x {image.height}: scaled down to {size[0]} x {size[1]}")
        image = image.resize(size, Image.Resampling.LANCZOS)
    if factor != upscale:
        say(f"upscale lowered from {upscale:g} to {factor:g}: the demo keeps pictures small")
    return [Task(path.stem, image, factor)]


def own_pictures() -> list[Task]:
    from .picture import damage

    tasks = []
    for seed, (name, truth) in enumerate({"drawn_face": drawn_face(), "photo": photo()}.items()):
        tasks.append(Task(name, damage(truth, seed), UPSCALE, truth))
    return tasks


def drawn_face() -> Image.Image:
    import numpy as np

    from lab.people import draw_person, draw_shot, photograph

    from .picture import image_of

    rng = np.random.default_rng(7)
    person = draw_person(rng)
    shot = draw_shot(rng, yaw=-8.0, pitch=0.0, roll=0.0, fill=0.75, shift=(0.0, 0.0), eyes_open=1.0)
    picture = photograph(person, shot, SIDE).image
    return image_of(np.asarray(picture))


def photo() -> Image.Image:
    """The face of scikit-image's astronaut (NASA, public domain)."""
    from PIL import Image
    from skimage.data import astronaut

    return Image.fromarray(astronaut()).crop((96, 0, 96 + SIDE, SIDE))


def read_workflow() -> dict[str, Any]:
    try:
        return json.loads(WORKFLOW.read_text())
    except FileNotFoundError:
        raise HarnessError(f"{WORKFLOW.relative_to(ROOT)} is missing from this copy") from None


def set_inputs(prompt: dict[str, Any], class_type: str, **values: object) -> None:
    """Set inputs of the one node of a type."""
    nodes = [node for node in prompt.values() if node["class_type"] == class_type]
    if len(nodes) != 1:
        raise HarnessError(f"{WORKFLOW.name} has {len(nodes)} nodes {class_type}, expected one")
    nodes[0]["inputs"].update(values)


def run_task(client: ComfyClient, template: dict[str, Any], task: Task, out: Path) -> None:
    from PIL import Image

    from .picture import decode, encode, side_by_side, write_png

    prompt = copy.deepcopy(template)
    name = client.upload_image(encode(task.image), "demo_input.png")
    set_inputs(prompt, "LoadImage", image=name)
    set_inputs(prompt, "TiledSRSampler", seed=SEED, upscale=task.upscale)
    execution = client.run(prompt, progress_printer(prompt), timeout=PATIENCE)
    references = execution.images()
    if not references:
        raise HarnessError(f"{WORKFLOW.name} ran but saved no picture")
    restored = decode(client.view(references[0]))

    width, height = task.image.size
    enlarged = task.image.resize(restored.size, Image.Resampling.BICUBIC)
    panels = [
        (f"input {width} x {height}, bicubic", enlarged),
        (f"restored {restored.width} x {restored.height}", restored),
    ]
    if task.truth is not None:
        panels.append(("original", task.truth.resize(restored.size, Image.Resampling.LANCZOS)))
    for suffix, picture in (("restored", restored), ("comparison", side_by_side(panels))):
        path = out / f"{task.name}_{suffix}.png"
        write_png(picture, path)
        say(f"  {path}")


def run_person(client: ComfyClient, out: Path, learn: bool) -> None:
    """Restore a bad picture of the drawn person at several gammas."""
    from . import person

    drawn = person.case()
    prompt = person.prompt_to_restore(client, person.bad_picture(drawn))
    if learn:
        prompt = person.with_learning(client, prompt, person.photos(drawn))
    execution = client.run(prompt, progress_printer(prompt), timeout=PATIENCE)
    for path in person.sheets(client, prompt, execution, drawn, out):
        say(f"  {path}")


def progress_printer(prompt: dict[str, Any]) -> Callable[[Event], None]:
    """Says how far the nodes with a progress bar are, in quarters."""
    said = {}

    def on_event(event: Event) -> None:
        data = event["data"]
        if event["type"] != "progress" or not data["max"]:
            return
        quarter = 4 * data["value"] // data["max"]
        if quarter > said.get(data["node"], 0):
            said[data["node"]] = quarter
            say(f"  {prompt[data['node']]['class_type']}: {data['value']}/{data['max']}")

    return on_event


def with_log(error: HarnessError, server: ComfyServer) -> HarnessError:
    """The error, with the server's last words if it died."""
    if server.process is None or server.process.poll() is None:
        return error
    return HarnessError(f"ComfyUI died ({error}); its last lines:\n{server.log_tail()}")


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Say what begins, and how long it took."""
    say(f"{name} ...")
    started = time.monotonic()
    yield
    say(f"{name}: {time.monotonic() - started:.1f} s")


if __name__ == "__main__":
    run_main(main)
