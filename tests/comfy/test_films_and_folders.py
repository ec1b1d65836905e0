"""The shipped workflows for films and folders: each face is restored as its own person, the rest stays."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from harness import ROOT
from harness.client import ComfyClient
from harness.example_inputs import RATE, SOUND, write_film
from harness.host import ComfyServer
from harness.picture import decode

from .people import RESTORER, THRESHOLD, add_people
from .prompts import node

KNOWN = ("P007", "P008")
GRAY = np.full((80, 90, 3), 128, np.uint8)


@pytest.fixture(scope="module", autouse=True)
def people(server: ComfyServer) -> None:
    add_people(server, KNOWN)


@pytest.fixture(scope="module")
def group() -> np.ndarray:
    """P007, P008, and P004, whom nobody knows, from left to right."""
    return np.asarray(Image.open(ROOT / "assets" / "examples" / "group_bad.png").convert("RGB"))


def shipped(name: str, kind: str, **inputs: Any) -> dict[str, Any]:
    """The API file, with the tests' restorer, and what goes in and out of Paste Face saved, too."""
    prompt = json.loads((ROOT / "workflows" / "api" / f"{name}.json").read_text(encoding="utf-8"))
    changes = {
        kind: inputs,
        "LoadBaseRestorer": {"checkpoint": RESTORER},
        "ChooseIdentity": {"threshold": THRESHOLD},
        "TiledSRSampler": {"steps": 1, "upscale": 1.0},  # many small tiles else
    }
    for made in prompt.values():
        made["inputs"].update(changes.get(made["class_type"], {}))
    adapters = [key for key, made in prompt.items() if made["class_type"] == "LoadIdentityAdapter"]
    for key, person in zip(adapters, KNOWN, strict=False):
        prompt[key]["inputs"]["name"] = f"small_{person}.safetensors"
    [choose] = [made["inputs"] for made in prompt.values() if made["class_type"] == "ChooseIdentity"]
    for key in adapters[len(KNOWN) :]:
        name = next(name for name, value in choose.items() if value == [key, 0])
        del prompt[key], choose[name]
    [paste] = [key for key, made in prompt.items() if made["class_type"] == "RestorationPasteFace"]
    before = prompt[paste]["inputs"]["image"]
    prompt["before"] = node("SaveImage", images=before, filename_prefix="before")
    prompt["after"] = node("SaveImage", images=[paste, 0], filename_prefix="after")
    return prompt


def saved(client: ComfyClient, images: list[dict[str, str]]) -> list[np.ndarray]:
    return [np.asarray(decode(client.view(image)).convert("RGB")) for image in images]


def restored_thirds(before: np.ndarray, after: np.ndarray) -> list[bool]:
    """In which thirds of the group's picture anything was changed; of the last, what no neighbour reaches."""
    columns = (before != after).any((0, 2))
    ends = [round(part * len(columns)) for part in (0, 1 / 3, 2 / 3, 0.75, 1)]
    first, second, _, last = (bool(columns[a:b].any()) for a, b in pairwise(ends))
    return [first, second, last]


@contextmanager
def opened(client: ComfyClient, film: dict[str, str], folder: Path) -> Iterator[Any]:
    path = folder / film["filename"]
    path.write_bytes(client.view(film))
    with av.open(path) as container:
        yield container


def test_a_film_keeps_its_people_and_its_sound(
    server: ComfyServer, client: ComfyClient, group: np.ndarray, tmp_path: Path
) -> None:
    frames = [group, np.roll(group, 6, 1), np.full_like(group, 128)]
    write_film(server.base / "input" / "people.mp4", frames)
    execution = client.run(shipped("restore_a_film", "LoadVideo", file="people.mp4"))
    before, after = (saved(client, execution.images(name)) for name in ("before", "after"))
    assert len(before) == len(after) == 3
    found = [restored_thirds(*pair) for pair in zip(before, after, strict=True)]
    assert found == [[True, True, False], [True, True, False], [False] * 3]
    [film] = [image for image in execution.images() if image["filename"].endswith(".mp4")]
    with opened(client, film, tmp_path) as container:
        [pictures], [sound] = container.streams.video, container.streams.audio
        assert (pictures.width, pictures.height) == (2 * group.shape[1], 2 * group.shape[0])
        assert pictures.average_rate == RATE
        assert sound.rate == SOUND
        heard = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(sound)])
        assert np.sqrt((heard[: SOUND // 5] ** 2).mean()) == pytest.approx(0.5, rel=0.2)
    with opened(client, film, tmp_path) as container:
        shown = [frame.to_ndarray(format="rgb24").astype(int) for frame in container.decode(video=0)]
    assert [np.abs(one - other).mean() < 6 for one, other in zip(shown, after, strict=True)] == [True] * 3


def test_a_folder_s_pictures_of_any_sizes(
    server: ComfyServer, client: ComfyClient, group: np.ndarray
) -> None:
    """Also one without a face, which comes out as it is, but larger."""
    folder = server.base / "input" / "album"
    folder.mkdir(exist_ok=True)
    alone = np.asarray(Image.open(ROOT / "assets" / "examples" / "P008_bad.png").convert("RGB"))
    for name, picture in (("group", group), ("nobody", GRAY), ("alone", alone)):
        Image.fromarray(picture).save(folder / f"{name}.png")
    prompt = shipped("restore_a_folder", "LoadImageDataSetFromFolder", folder="album")
    execution = client.run(prompt)
    before, after = (saved(client, execution.images(name)) for name in ("before", "after"))
    pairs = {one.shape: (one, other) for one, other in zip(before, after, strict=True)}
    assert {*pairs} == {(2 * h, 2 * w, 3) for h, w, _ in (group.shape, GRAY.shape, alone.shape)}
    assert restored_thirds(*pairs[2 * group.shape[0], 2 * group.shape[1], 3]) == [True, True, False]
    one, other = pairs[2 * GRAY.shape[0], 2 * GRAY.shape[1], 3]
    assert (one == other).all()
    one, other = pairs[2 * alone.shape[0], 2 * alone.shape[1], 3]
    assert (one != other).any()
    [kept] = [key for key, made in prompt.items() if made["class_type"] == "SaveImage" and key.isdigit()]
    for one, other in zip(saved(client, execution.images(kept)), after, strict=True):
        assert (one == other).all()


def test_pictures_one_by_one_keep_their_names(server: ComfyServer, client: ComfyClient) -> None:
    """As the docs change the folder's file."""
    folder = server.base / "input" / "pictures"
    folder.mkdir(exist_ok=True)
    shutil.copy(ROOT / "assets" / "examples" / "P008_bad.png", folder / "eve.png")
    prompt = shipped("restore_a_folder", "SaveImage", filename_prefix="restored/eve")
    [pictures] = [key for key, made in prompt.items() if made["class_type"] == "LoadImageDataSetFromFolder"]
    prompt[pictures] = node("LoadImage", image="pictures/eve.png")
    saved = client.run(prompt).images()
    assert ("restored", "eve_00001_.png") in {(one["subfolder"], one["filename"]) for one in saved}
