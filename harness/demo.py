"""`make demo`: restores pictures in a real ComfyUI server and writes what it did to them.

Without an image it runs shipped workflows as they come, on bad pictures of people who do not exist: a
restoration, one without and with the person, and one by every method; --train learns these people anew.
With an image it restores that.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import setup
from .api_files import PATIENCE, read_api
from .console import HarnessError, run_main, say

if TYPE_CHECKING:
    from PIL import Image

    from .client import ComfyClient, Event
    from .host import ComfyServer

WORKFLOW = "restore_and_upscale"
UPSCALE = 4.0
UPSCALE_RANGE = (1.0, 20.0)
SEED = 0


@dataclass(frozen=True)
class Task:
    """One picture to restore."""

    name: str
    image: Image.Image
    upscale: float


def main() -> None:
    options = parse()
    with stage("set-up"):
        # What is imported below is only there once set-up has run.
        setup.main()
        importlib.invalidate_caches()
    tasks = given_picture(options.image, options.upscale) if options.image else []
    prompt = read_api(WORKFLOW)

    from .host import ComfyServer

    server = ComfyServer(cpu=not has_gpu())
    try:
        with stage("server start"):
            server.start()
        with server.client() as client:
            for task in tasks:
                with stage(task.name):
                    run_task(client, prompt, task, options.out)
            for name, make in own_sheets(options.train).items() if not options.image else ():
                with stage(name):
                    write_sheet(make(client), options.out / f"{name}.png")
    except HarnessError as error:
        raise with_log(error, server) from None
    finally:
        server.stop()


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m harness.demo", description=__doc__)
    parser.add_argument("--image", type=Path, help="a picture of your own")
    parser.add_argument("--upscale", help=f"how much larger, {UPSCALE:g} unless given")
    parser.add_argument("--out", type=Path, default=Path("demo_output"), help="the folder to fill")
    parser.add_argument("--train", action="store_true", help="learn the people anew; takes minutes")
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


def set_inputs(prompt: dict[str, Any], class_type: str, **values: object) -> None:
    """Set inputs of the one node of a type."""
    nodes = [node for node in prompt.values() if node["class_type"] == class_type]
    if len(nodes) != 1:
        raise HarnessError(f"{WORKFLOW} has {len(nodes)} nodes {class_type}, expected one")
    nodes[0]["inputs"].update(values)


def run_task(client: ComfyClient, template: dict[str, Any], task: Task, out: Path) -> None:
    from PIL import Image

    from .picture import decode, encode, side_by_side

    prompt = copy.deepcopy(template)
    name = client.upload_image(encode(task.image), "demo_input.png")
    set_inputs(prompt, "LoadImage", image=name)
    set_inputs(prompt, "TiledSRSampler", seed=SEED, upscale=task.upscale)
    execution = client.run(prompt, progress_printer(prompt), timeout=PATIENCE)
    references = execution.images()
    if not references:
        raise HarnessError(f"{WORKFLOW} ran but saved no picture")
    restored = decode(client.view(references[0]))

    width, height = task.image.size
    enlarged = task.image.resize(restored.size, Image.Resampling.BICUBIC)
    panels = [
        (f"input {width} x {height}, bicubic", enlarged),
        (f"restored {restored.width} x {restored.height}", restored),
    ]
    for suffix, picture in (("restored", restored), ("comparison", side_by_side(panels))):
        write_sheet(picture, out / f"{task.name}_{suffix}.png")


def own_sheets(learn: bool) -> dict[str, Callable[[ComfyClient], Image.Image]]:
    """What is shown without a picture of the user's, by the names of files."""
    from . import person

    return {
        "photograph": lambda client: person.restored_photograph(client, progress_printer),
        "person": lambda client: person.restored_people(client, progress_printer, learn),
        "methods": lambda client: person.compared_methods(client, progress_printer),
    }


def write_sheet(picture: Image.Image, path: Path) -> None:
    from .picture import write_png

    write_png(picture, path)
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
