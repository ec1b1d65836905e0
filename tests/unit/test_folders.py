"""Folders of pictures, as a user meets them."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageCms
from torch import Tensor

from harness import ROOT
from pfstorer_core import Restorer, load_restorer, restore
from pfstorer_core.imaging.alignment import aligned_face, cut_aligned
from pfstorer_core.imaging.faces import Face, cut, face_windows, find_faces
from pfstorer_core.imaging.originals import Original
from pfstorer_core.imaging.pictures import read_picture, write_picture
from pfstorer_core.personalization.learn import Learned
from pfstorer_core.personalization.people import learn_people
from pfstorer_core.recognition import load_recognizer
from pfstorer_core.restore.folder import restore_folder
from pfstorer_core.restore.people import People, load_people
from pfstorer_core.restore.restorer import PictureRestorer
from pfstorer_core.restore.settings import RestoreSettings
from pfstorer_core.restorers.files import save_restorer
from pfstorer_core.training.journal import LOCK, RECORD, Journal, ended, key_of, merged_record, read_record
from pfstorer_core.training.lock import locked
from pfstorer_core.training.processes import Processes
from pfstorer_core.training.progress import Progress

from .small import small_diffbir, small_restorer

ONCE = RestoreSettings(upscale=1.0, steps=1)
LAUNCH = ("-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone", "-m", "pfstorer_core")
"""`accelerate launch --cpu` would start a single process, however many are asked for."""


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)


def noise(seed: int, *size: int) -> Tensor:
    return torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four pictures and a broken one, in folders."""
    here = tmp_path / "in"
    for number, name in enumerate(("a.png", "b.jpg", "deep/er/c.webp", "deep/é d.png")):
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        write_picture(noise(number, 24, 32), here / name)
    (here / "deep" / "broken.jpg").write_bytes((here / "b.jpg").read_bytes()[:300])
    (here / "._a.png").write_bytes(b"of another system")
    (here / "notes.txt").write_text("no picture")
    return here


def written(folder: Path) -> dict[str, bytes]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
def test_a_picture_is_what_it_is_without_its_neighbours(sampler: str) -> None:
    settings = RestoreSettings(upscale=1.5, steps=3, seed=4, sampler=sampler)
    several = PictureRestorer(small_restorer(), settings, batch=2)
    pictures = [noise(0, 20, 24), noise(1, 32, 24), noise(2, 20, 24), noise(0, 20, 24)]
    steps = list[tuple[int, int]]()
    found = several.restore(pictures, lambda *step: steps.append(step))
    assert steps[-1] == (9, 9), "three batches: of two, of one, and of another size"
    for picture, one in zip(pictures, found, strict=True):
        alone = restore(several.restorer, picture, **settings.arguments)
        torch.testing.assert_close(one.image, alone, rtol=0, atol=2e-4)
    torch.testing.assert_close(found[0].image, found[3].image, rtol=0, atol=2e-4)


def test_guidance_draws_for_each_picture_of_its_own() -> None:
    from pfstorer_core.diffusion.restoration_guidance import GuidanceSettings

    towards = GuidanceSettings(0.5, "latent", "mse")
    settings = RestoreSettings(upscale=1.0, steps=2, guidance=towards, cfg=1.0, prompt="")
    model = small_diffbir("v2")
    pictures = [noise(seed, 32, 32) for seed in range(2)]
    together = PictureRestorer(model, settings, batch=2).restore(pictures)
    for picture, one in zip(pictures, together, strict=True):
        alone = restore(model, picture, **settings.arguments)
        torch.testing.assert_close(one.image, alone, rtol=0, atol=2e-4)


def test_two_processes_share_a_folder_and_a_second_run_does_what_is_left(
    tmp_path: Path, folder: Path
) -> None:
    small, output = tmp_path / "small.safetensors", tmp_path / "out"
    save_restorer(small_restorer(), small, torch.float32)
    command = ("restore", small, folder, output, "--steps", "1", "--upscale", "1.5", "--batch", "2")
    first = run(*LAUNCH, *command)
    assert first.returncode != 0, "one failed"
    assert "failed: deep/broken.jpg: " in first.stdout, first.stderr
    assert f"{output}: 4 restored, 0 finished before, 1 failed." in first.stdout
    assert first.stdout.count("failed: ") == 1, "one process speaks"
    assert "left out: 1 .txt" in first.stdout
    results = written(output)
    assert results.keys() == {RECORD, "a.png", "b.jpg", "deep/er/c.webp", "deep/é d.png"}
    alone = run("-m", "pfstorer_core", "restore", small, folder / "a.png", tmp_path / "a.png", *command[4:8])
    assert alone.returncode == 0, alone.stderr
    assert (read_picture(tmp_path / "a.png") - read_picture(output / "a.png")).abs().max() < 1.5 / 255

    (output / "deep" / "er" / "c.webp").unlink()
    (folder / "deep" / "broken.jpg").unlink()
    write_picture(noise(9, 16, 16), folder / "a.png")
    second = run(*LAUNCH, *command)
    assert second.returncode == 0, second.stderr
    assert "2 restored, 2 finished before, 0 failed." in second.stdout
    again = written(output)
    changed = {name for name in results if name != RECORD and results[name] != again[name]}
    assert changed == {"a.png"}, "a new picture of an old name; what was deleted came back as it was"


class Stopped(Exception):
    pass


def small(**settings: Any) -> PictureRestorer:
    return PictureRestorer(small_restorer(), RestoreSettings(**{"upscale": 1.0, "steps": 1, **settings}))


def test_what_is_not_finished_is_made_anew(tmp_path: Path, folder: Path) -> None:
    output = tmp_path / "out"
    (folder / "deep" / "broken.jpg").unlink()
    assert len(restore_folder(small(), folder, output, key="one").done) == 4
    assert len(restore_folder(small(), folder, output, key="one").skipped) == 4
    assert len(restore_folder(small(seed=1), folder, output, key="two").done) == 4, "other settings"
    assert len(restore_folder(small(), folder, output, key="two", overwrite=True).done) == 4
    png = restore_folder(small(), folder, output, key="two", ending=".png")
    assert sorted(png.skipped) == ["a.png", "deep/é d.png"]
    assert (output / "deep" / "er" / "c.png").is_file()


def test_files_of_others_stay_as_they_are(tmp_path: Path, folder: Path) -> None:
    output = tmp_path / "out"
    output.mkdir()
    (output / "b.jpg").write_text("mine")
    with pytest.raises(ValueError, match=r"1 file in .*out would be replaced .* such as b\.jpg"):
        restore_folder(small(), folder, output)
    assert written(output) == {"b.jpg": b"mine"}
    assert "b.jpg" in restore_folder(small(), folder, output, overwrite=True).done


def test_what_is_wrong_is_said_before_any_work(tmp_path: Path, folder: Path) -> None:
    for output in (folder, folder / "deep", tmp_path):
        with pytest.raises(ValueError, match="lie in one another"):
            restore_folder(small(), folder, output)
    write_picture(noise(0, 8, 8), folder / "a.jpg")
    with pytest.raises(ValueError, match=r"a\.jpg and a\.png would both become a\.png"):
        restore_folder(small(), folder, tmp_path / "out", ending=".png")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no pictures"):
        restore_folder(small(), tmp_path / "empty", tmp_path / "out")
    for wrong in ({"steps": 0}, {"upscale": 0.5}, {"cfg": 0.0}, {"sampler": "x"}, {"color_fix": "x"}):
        with pytest.raises(ValueError, match=r"\w") as raised:
            small(**wrong)
        assert raised.traceback[-1].name != "restore"
    assert not (tmp_path / "out" / RECORD).exists()


def test_one_batch_too_much_is_tried_one_by_one(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what fails alone, too, stops no other."""
    from pfstorer_core.restore import restorer as module

    def limited(model: Any, lq: Tensor, **given: Any) -> Tensor:
        if len(lq) > 1 or lq.shape[-1] == 17:
            raise RuntimeError("out of memory")
        return restore(model, lq, **given)

    monkeypatch.setattr(module, "restore", limited)
    write_picture(noise(0, 16, 17), folder / "odd.png")
    several = PictureRestorer(small_restorer(), ONCE, batch=4)
    summary = restore_folder(several, folder, tmp_path / "out")
    assert len(summary.done) == 4
    assert summary.failed.keys() == {"deep/broken.jpg", "odd.png"}
    assert summary.failed["odd.png"] == "out of memory"


def test_a_full_disk_stops_all(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Original, "write", full)
    with pytest.raises(OSError, match="No space left"):
        restore_folder(small(), folder, tmp_path / "out")
    assert set(read_record(tmp_path / "out").values()) == {""}, "begun, not finished"
    monkeypatch.undo()
    assert len(restore_folder(small(), folder, tmp_path / "out").done) == 4


def test_a_line_that_nobody_lived_to_end_is_none(tmp_path: Path) -> None:
    for process, output in enumerate(("a.png", "b.png")):
        journal = Journal(tmp_path, process)
        journal.begin(output)
        journal.finish(output, "key")
        journal.fail("c.png")
        journal.close()
    with (tmp_path / ".pfstorer.1.jsonl").open("a") as file:
        file.write('{"output": "d.png", "ma')
    assert ended(tmp_path) == 4
    assert merged_record(tmp_path) == {"a.png": "key", "b.png": "key"} == read_record(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [RECORD]


def test_date_exif_and_profile_stay_and_the_picture_is_turned_once(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "Maker"
    exif[0x8769] = {0x9003: "2020:01:02 03:04:05", 0xA002: 40, 0xA003: 24}
    exif[0x8825] = {1: "N", 2: (50.0, 30.0, 0.0)}
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image = Image.new("RGB", (40, 24), "red")
    image.paste("blue", (0, 0, 20, 24))
    image.save(tmp_path / "a.jpg", exif=exif.tobytes(), icc_profile=profile)
    os.utime(tmp_path / "a.jpg", (1e9, 1e9))
    original = Original.read(tmp_path / "a.jpg")
    assert original.picture.shape == (1, 3, 40, 24)
    assert original.picture[0, 2, 5, 12] > 0.9, "blue is above"
    twice = original.picture.repeat_interleave(2, -1).repeat_interleave(2, -2)
    for ending in ("jpg", "png", "webp", "tif"):
        original.write(twice, tmp_path / f"b.{ending}")
        with Image.open(tmp_path / f"b.{ending}") as found:
            kept = found.getexif()
            assert found.size == (48, 80)
            assert found.info["icc_profile"] == profile
            assert kept.get(0x0112, 1) == 1
            assert kept[0x010F] == "Maker"
            assert kept.get_ifd(0x8769) == {0x9003: "2020:01:02 03:04:05", 0xA002: 48, 0xA003: 80}
            assert kept.get_ifd(0x8825)[2] == (50.0, 30.0, 0.0)
        assert (tmp_path / f"b.{ending}").stat().st_mtime == 1e9


def test_grey_stays_grey_and_what_is_seen_through_stays_so(tmp_path: Path) -> None:
    grey = Image.linear_gradient("L").resize((16, 12))
    clear = Image.merge("RGBA", (*Image.new("RGB", (16, 12), (200, 100, 0)).split(), grey))
    clear.putpixel((3, 0), (9, 9, 9, 0))
    for name, image in {
        "grey": grey,
        "clear": clear,
        "deep": Image.fromarray(np.array(grey).astype(np.uint16) * 257),
    }.items():
        image.save(tmp_path / f"{name}.png")
        original = Original.read(tmp_path / f"{name}.png")
        for ending in ("png", "jpg", "tif", "webp"):
            path = tmp_path / f"{name}.{ending}"
            original.write(original.picture, path)
            with Image.open(path) as found:
                clears, greys = ("RGB" if ending == "jpg" else "RGBA"), ("RGB" if ending == "webp" else "L")
                assert found.mode == (clears if name == "clear" else greys)
    with Image.open(tmp_path / "clear.png") as found, Image.open(tmp_path / "clear.jpg") as on_white:
        assert found.getpixel((5, 6)) == clear.getpixel((5, 6)), "not paler"
        assert found.getpixel((3, 0)) == (255, 255, 255, 0)
        share = grey.getpixel((5, 6)) / 255  # type: ignore[operator]
        expected = [round(value * share + 255 * (1 - share)) for value in (200, 100, 0)]
        assert on_white.getpixel((5, 6)) == pytest.approx(expected, abs=6)


def test_damaged_exif_costs_nothing_but_itself(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.jpg", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff\0\1")
    original = Original.read(tmp_path / "a.jpg")
    original.write(original.picture, tmp_path / "b.jpg")
    assert read_picture(tmp_path / "b.jpg").shape == (1, 3, 8, 8)


def test_a_stopped_run_leaves_nothing_half_done_and_goes_on(tmp_path: Path, folder: Path) -> None:
    """By Ctrl-C, as a terminal sends it."""
    restorer, output = tmp_path / "small.safetensors", tmp_path / "out"
    save_restorer(small_restorer(), restorer, torch.float32)
    (folder / "deep" / "broken.jpg").unlink()
    write_picture(noise(0, 64, 64), folder / "z.png")
    command = ("-m", "pfstorer_core", "restore", restorer, folder, output, "--upscale", "1")
    process = subprocess.Popen(
        [sys.executable, *map(str, command), "--steps", "60"], cwd=ROOT, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    while process.poll() is None and not ended(output):
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate()
    assert process.returncode not in (0, None)
    assert "the same command goes on from there" in said
    assert "Traceback" not in said
    done = {name for name, mark in read_record(output).items() if mark}
    files = {name for name in written(output) if not name.startswith(".pfstorer")}
    assert done == files
    assert 0 < len(done) < 5
    again = run(*command, "--steps", "60")
    assert f"{5 - len(done)} restored, {len(done)} finished before, 0 failed." in again.stdout, again.stderr


def test_only_one_run_writes_into_a_folder(tmp_path: Path, folder: Path) -> None:
    with locked(tmp_path / "out" / LOCK), pytest.raises(ValueError, match="Another run is writing into"):
        restore_folder(small(), folder, tmp_path / "out")


@pytest.fixture(scope="module")
def clr_face() -> Restorer:
    return load_restorer(ROOT / "assets" / "pfstorer_tiny_clr_face.safetensors")


@pytest.fixture(scope="module")
def known(clr_face: Restorer) -> tuple[People, list[str]]:
    recognizer = load_recognizer(ROOT / "assets" / "face_recognizers" / "dlib_resnet29.safetensors")
    adapters = load_people(ROOT / "assets" / "identity_adapters")
    return People.of(adapters, clr_face, recognizer)


def test_each_face_is_restored_as_who_it_is(clr_face: Restorer, known: tuple[People, list[str]]) -> None:
    """The three of the group, of whom two are known here; where no face is nothing changes."""
    people, notes = known
    assert people.names == ["P004", "P007", "P008"]
    assert [note.split()[0] for note in notes] == ["P007_dual_pivot", "P007_lora", "drawn_person"]
    assert "the same face as P007" in notes[1]
    picture = read_picture(ROOT / "assets" / "examples" / "group_true.jpg")
    faces = find_faces(picture[0])
    guesses = people.who(picture, faces)
    assert sorted(guess.name for guess in guesses) == people.names
    assert all(guess.person is not None and guess.likeness > 0.5 for guess in guesses)
    two = replace(people, names=people.names[:2], identities=people.identities[:2],
                  gallery=replace(people.gallery, people=people.gallery.people[:2]))  # fmt: skip
    settings = RestoreSettings(upscale=1.0, steps=1)
    alone = PictureRestorer(clr_face, settings)
    [found] = PictureRestorer(clr_face, settings, people=two, batch=3).restore([picture])
    known_here = [guess for guess in found.faces if guess.person is not None]
    assert sorted(guess.name for guess in known_here) == ["P004", "P007"]
    assert len(found.faces) == 3
    for face, guess in zip(faces, guesses, strict=True):
        assert guess.person is not None
        who = guess.person
        cut_out, place = aligned_face(picture, face.landmarks, clr_face.header.image_size)
        as_them = [people.identities[who]] if who < 2 else []
        expected = restore(clr_face, cut_out, identities=as_them, upscale=1.0, steps=1)
        as_another = [] if as_them else [people.identities[0]]
        others = restore(clr_face, cut_out, identities=as_another, upscale=1.0, steps=1)
        back = cut_aligned(found.image, place)
        middle = (..., slice(100, 170), slice(90, 170))
        near, far = ((back - one)[middle].abs().mean() for one in (expected, others))
        assert near < 0.7 * far, people.names[who]
    [largest] = alone.restore([picture])
    assert (largest.image != picture).any()
    assert (largest.image != picture).float().mean() < (found.image != picture).float().mean() / 2


def test_known_faces_in_a_whole_picture_are_restored_once_more(known: tuple[People, list[str]]) -> None:
    """Where the restorer takes pictures as they are: what is nobody's is as it makes it."""
    picture = read_picture(ROOT / "assets" / "examples" / "P007_true.jpg")
    picture = F.pad(picture, (128, 0, 64, 0), value=0.5)
    model, settings = small_restorer(), RestoreSettings(upscale=1.0, steps=1, tile=128)
    nobody = [replace(identity, gamma=0.0) for identity in known[0].identities]
    people = replace(known[0], identities=nobody)
    [found] = PictureRestorer(model, settings, people=people).restore([picture])
    assert [guess.name for guess in found.faces] == ["P007"]
    base = restore(model, picture, **settings.arguments)
    inside = torch.zeros(picture.shape[-2:], dtype=torch.bool)
    for face in find_faces(picture[0]):
        [window] = face_windows([face.box], (picture.shape[-2], picture.shape[-1]), 0.6)
        assert window is not None
        inside[window.top : window.bottom, window.left : window.right] = True
        x, y = face.landmarks[2].int().tolist()
        again = restore(model, cut(picture, window), **settings.arguments)
        assert (found.image[0, :, y, x] - again[0, :, y - window.top, x - window.left]).abs().max() < 1e-4
    assert torch.equal(found.image[..., ~inside], base[..., ~inside])
    assert not torch.equal(found.image, base)


def test_a_folder_of_people_becomes_a_folder_of_adapters(tmp_path: Path) -> None:
    save_restorer(small_restorer(), tmp_path / "small.safetensors")
    ramp = torch.linspace(0, 1, 40).expand(1, 3, 40, 40)
    for seed, name in enumerate(("ada/1.png", "ada/2.png", "ben/1.png", "empty/readme.txt")):
        (tmp_path / "people" / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".png"):
            write_picture((ramp + seed / 9) / 2, tmp_path / "people" / name)
    (tmp_path / "people" / "broken").mkdir()
    (tmp_path / "people" / "broken" / "1.png").write_bytes(b"no picture")
    command = "-m", "pfstorer_core", "personalize", tmp_path / "small.safetensors", tmp_path / "adapters"
    first = run(*command, tmp_path / "people", "--steps", "1", "--batch", "1")
    assert first.returncode == 1, first.stderr
    assert "failed: broken: " in first.stdout
    assert "ben: Photo 1: no face was found, so the square in its middle was learned." in first.stdout
    assert "2 learned, 0 finished before, 1 failed." in first.stdout
    assert sorted(load_people(tmp_path / "adapters")) == ["ada", "ben"]
    again = run(*command, tmp_path / "people", "--steps", "1", "--batch", "1")
    assert "0 learned, 2 finished before, 1 failed." in again.stdout
    assert not list((tmp_path / "adapters").glob(".pfstorer*"))
    refused = run(*command, tmp_path / "people" / "ada", "--steps", "1")
    assert "holds no folders of photos" in refused.stderr


def test_work_is_dealt_out_and_told_by_one(tmp_path: Path) -> None:
    """Two processes, one after the other."""
    dealt = list[list[str]]()
    people = {name: [] for name in "abcde"}
    for index in range(2):
        mine = Processes(torch.device("cpu"))
        mine.count, mine.index, mine.is_main = 2, index, index == 0  # type: ignore[misc]
        own, heard = list[str](), list[Progress]()

        def learn_one(photos: Any, file: Path, own: list[str] = own) -> Any:
            own.append(file.stem)
            if file.stem == "c":
                raise RuntimeError("broken")
            return Learned(Any, torch.zeros(1), file, ["A word."])  # type: ignore[arg-type]

        summary = learn_people(people, tmp_path, learn_one, mine, heard.append)
        assert summary.done == [name for name in own if name != "c"]
        assert summary.notes == [f"{name}: A word." for name in summary.done]
        assert [summary.failed, {}][index] == ({"c": "broken"} if index == 0 else {})
        assert (heard[-1:] == [Progress("people", 5, 5)]) is mine.is_main
        dealt.append(own)
    assert dealt == [["a", "c", "e"], ["b", "d"]]


def test_neighbours_of_a_face_stay_as_they_are() -> None:
    """However close they stand."""
    base = small_restorer()
    model = replace(base, header=replace(base.header, aligned="FFHQ"))
    eyes = torch.tensor([[30.0, 38], [50, 38], [40, 48], [40, 58], [20, 40], [60, 40]])
    faces = [Face((14.0, 20.0, 66.0, 72.0), eyes, 1.0), Face((60.0, 30.0, 90.0, 66.0), eyes + 35, 1.0)]
    several = PictureRestorer(model, ONCE)
    several.__dict__["find"] = lambda picture: faces
    picture = noise(3, 96, 96)
    [found] = several.restore([picture])
    changed = (found.image != picture).any(1)[0]
    assert changed[30:60, 30:60].all()
    assert not changed[30:66, 67:90].any()
    several.__dict__["find"] = lambda picture: faces[:1]
    [alone] = several.restore([picture])
    assert (alone.image != picture).any(1)[0, 30:66, 67:70].any(), "the face would reach as far"


def test_a_key_tells_settings_and_files_apart_and_not_their_names(tmp_path: Path) -> None:
    for name, content in {"a": b"x" * 3, "b": b"x" * 3, "c": b"y" * 3}.items():
        (tmp_path / name).write_bytes(content)
    a, b, c = ([tmp_path / name] for name in "abc")
    assert key_of([ONCE, 1.0], a) == key_of([replace(ONCE), 1.0], b)
    others = [key_of([ONCE, 1.0], c), key_of([ONCE, 2.0], a), key_of([replace(ONCE, seed=1), 1.0], a)]
    assert len({key_of([ONCE, 1.0], a), *others}) == 4
