"""What trainings learn from: folders and shards in any state, and random crops of them."""

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pfstorer_core.degradation import SMALL_AT
from pfstorer_core.training.data import Crops, collate, find_pictures, hold_back, random_crop
from pfstorer_core.training.degradation import random_degradation


def picture(size: tuple[int, int] = (40, 40), colour: int = 100, suffix: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, (colour, colour, colour)).save(file, suffix)
    return file.getvalue()


def fill(folder: Path, files: Mapping[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def shard(path: Path, files: Mapping[str, bytes]) -> Path:
    """As WebDataset's writer makes them."""
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def crops(folder: Path, size: int = 32) -> Crops:
    found = find_pictures([folder])
    return Crops(found, range(len(found)), size)


def colours(samples: Crops, count: int) -> list[int]:
    """Which pictures the first samples are of, by their colour."""
    return [int(samples[k]["image"].float().mean().round()) for k in range(count)]


def test_folders_and_shards_are_read_alike(tmp_path: Path) -> None:
    files = {
        "a.png": picture(colour=10),
        "b.jpg": picture(colour=20, suffix="JPEG"),
        "b.txt": b"two \n",
        "deeper/c.PNG": picture(colour=30),
        "notes.md": b"no picture",
    }
    folder = find_pictures([fill(tmp_path / "folder", files)])
    packed = find_pictures([shard(tmp_path / "shard-000.tar", files)])
    both = [(folder, tmp_path / "folder"), (packed, tmp_path / "shard-000.tar")]
    for found, place in both:
        assert [found.name(i) for i in range(len(found))] == [
            str(place / name) for name in ("a.png", "b.jpg", "deeper/c.PNG")
        ]
        assert [found.caption(i) for i in range(len(found))] == ["", "two", ""]
        values = [np.asarray(found.read(i)).mean() for i in range(len(found))]
        assert values == pytest.approx([10, 20, 30], abs=1)
    assert len(find_pictures([tmp_path])) == 6


def test_names_of_shards_end_at_their_first_dot(tmp_path: Path) -> None:
    files = {"v1.5/000.png": picture(), "v1.5/000.txt": b"one", "001.seg.png": picture()}
    found = find_pictures([shard(tmp_path / "s.tar", files)])
    assert [found.caption(i) for i in range(len(found))] == ["one"]


@pytest.mark.parametrize(
    ("name", "content", "error", "said"),
    [
        ("none", None, FileNotFoundError, "there is no such folder or file"),
        ("empty/notes.md", b"no picture", ValueError, r"expected \.jpg"),
        ("broken/a.tar", b"no archive at all", ValueError, "a.tar cannot be read as a shard"),
        ("cut/a.tar", "cut", ValueError, "a.tar cannot be read as a shard"),
    ],
)
def test_nothing_to_train_on(
    tmp_path: Path, name: str, content: bytes | str | None, error: type[Exception], said: str
) -> None:
    if content == "cut":
        content = shard(tmp_path / "whole", {"a.png": picture(), "b.png": picture()}).read_bytes()[:1600]
    if isinstance(content, bytes):
        fill(tmp_path, {name: content})
    with pytest.raises(error, match=said):
        find_pictures([tmp_path / name.split("/")[0]])


def test_every_picture_comes_once_an_epoch_in_another_order(tmp_path: Path) -> None:
    samples = crops(fill(tmp_path, {f"{i}.png": picture(colour=i) for i in range(20)}))
    epochs = [colours(samples, 40)[:20], colours(samples, 40)[20:]]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(20))
    assert epochs[0] != epochs[1]


def test_a_sample_depends_on_its_number_and_the_seed_alone(tmp_path: Path) -> None:
    folder = fill(tmp_path, {f"{i}.png": picture((70, 50 + i), colour=i) for i in range(5)})
    one, two = crops(folder), crops(folder)
    assert len({int(two[k]["seed"]) for k in (17, 3)}) == 2  # asked for first, and out of order
    for k in (0, 6):
        assert torch.equal(one[k]["image"], two[k]["image"])
        assert one[k]["seed"] == two[k]["seed"]
    two.seed = 1
    assert one[0]["seed"] != two[0]["seed"]


def test_one_picture_is_enough(tmp_path: Path) -> None:
    samples = crops(fill(tmp_path, {"only.png": picture((33, 90))}))
    assert samples[0]["image"].shape == samples[5]["image"].shape == (3, 32, 32)
    assert hold_back(1) == ([0], [0])


def test_corrupt_and_small_pictures_are_replaced_and_named(tmp_path: Path) -> None:
    files = {f"{i}.png": picture(colour=i) for i in range(1, 30)}
    files["cut.png"] = picture()[:60]
    files["cut.jpg"] = picture((400, 400), suffix="JPEG")[:900]
    files["text.jpg"] = b"not a picture"
    files["empty.webp"] = b""
    files["small.png"] = picture((31, 80))
    samples = crops(fill(tmp_path, files))
    seen = [samples[k] for k in range(len(samples))]
    broken = dict(collate(seen)["broken"])
    assert {Path(name).name for name in broken} == set(files) - {f"{i}.png" for i in range(1, 30)}
    assert "31 × 80 pixels, too few for crops of 32" in broken[str(tmp_path / "small.png")]
    assert all(broken.values())
    assert all(sample["image"].shape == (3, 32, 32) for sample in seen)


def test_only_corrupt_pictures_stop_the_training(tmp_path: Path) -> None:
    samples = crops(fill(tmp_path, {"a.png": b"x", "b.png": b"y"}))
    with pytest.raises(ValueError, match=r"in a row cannot be used; the first is .*[ab]\.png"):
        samples[0]


def test_crops_are_alignment_free_and_of_one_scale_at_most() -> None:
    rng = np.random.default_rng(0)
    ramp = np.tile(np.linspace(0, 255, 200, dtype=np.uint8)[:, None, None], (1, 120, 3))
    made = [random_crop(Image.fromarray(ramp), 30, rng) for _ in range(60)]
    spans = [int(crop[-1, 0, 0]) - int(crop[0, 0, 0]) for crop in made]
    assert min(spans) < 50
    assert max(spans) > 120  # of 153, a whole 120 of 200 rows
    assert len({int(crop[0, 0, 0]) for crop in made}) > 30


def test_crops_are_of_any_size_and_half_of_them_mirrored() -> None:
    """Sizes spread evenly by their logarithm, from the smallest that need no enlarging to the whole."""
    rng = np.random.default_rng(1)
    ramp = np.tile(np.arange(256, dtype=np.uint8)[None, :, None], (256, 1, 3))
    spans = np.array([np.diff(random_crop(Image.fromarray(ramp), 16, rng)[8, [0, -1], 0].astype(int))[0]
                      for _ in range(400)])  # fmt: skip
    assert 0.4 < (spans < 0).mean() < 0.6
    sides = np.abs(spans) * 16 / 15
    assert 0.4 < (sides < 64).mean() < 0.6, "the middle of 16 and 256, by logarithms"
    assert 0.15 < (sides < 32).mean() < 0.35


def test_the_seed_decides_on_the_order(tmp_path: Path) -> None:
    folder = fill(tmp_path, {f"{i}.png": picture(colour=i) for i in range(20)})
    orders = [colours(Crops(find_pictures([folder]), range(20), 32, seed), 20) for seed in (0, 0, 1)]
    assert orders[0] == orders[1]
    assert orders[0] != orders[2]


def test_faults_of_all_samples_are_collated() -> None:
    samples = [{"broken": [(name, "cut")], "x": torch.zeros(2), "caption": name} for name in ("a", "b")]
    batch = collate([*samples, {**samples[0], "broken": []}])
    assert batch["broken"] == [("a", "cut"), ("b", "cut")]
    assert batch["caption"] == ["a", "b", "a"]
    assert batch["x"].shape == (3, 2)


def test_pictures_are_held_back_where_there_are_enough() -> None:
    train, held = hold_back(100)
    assert len(held) == 8
    assert sorted(train + held) == list(range(100))


def test_damage_of_a_picture_depends_on_its_own_generator_alone() -> None:
    small = random_degradation("", 48)
    assert small.at == (SMALL_AT,) * 3 + (0,)
    assert random_degradation("", 512).at == (0,)
    images = torch.rand(3, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    seeds = (2, 5, 11)
    together = small(images, [np.random.default_rng(seed) for seed in seeds])
    for row, seed in enumerate(seeds):
        alone = small(images[row : row + 1], [np.random.default_rng(seed)])
        for many, one in zip(together, alone, strict=True):
            assert torch.equal(many[row], one[0])
    assert (together[0] - together[1]).abs().flatten(1).mean(1).min() > 1e-3
