"""Learning a person into a file: found again, gone on with, alone, and leaving nothing behind."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from harness import ROOT
from pfstorer_core import Restorer, load_identity_adapter
from pfstorer_core.imaging.pictures import read_picture, write_picture
from pfstorer_core.personalization.folder import clean
from pfstorer_core.personalization.learn import UNFINISHED, Learned, learn
from pfstorer_core.personalization.pfstorer.train import IdentityLoss
from pfstorer_core.personalization.photos import Pairs, Photos
from pfstorer_core.personalization.previews import GUESSED, crops_sheet, preview_key
from pfstorer_core.personalization.training import run_key, train_identity_adapter
from pfstorer_core.training.degradation import random_degradation
from pfstorer_core.training.interrupts import asking
from pfstorer_core.training.lock import TakenError, locked
from pfstorer_core.training.progress import Progress

from .test_identity import QUICK, Stopped, collated

BOXES = [(2, 2, 30, 30), None, (1, 1, 20, 25)]


@pytest.fixture(scope="module")
def person() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(3, side, side + 8, generator=generator) for side in (40, 56, 33)]


def learned(
    restorer: Restorer, photos: list[Tensor], file: Path, settings: Any = QUICK, **given: Any
) -> Learned:
    given = {"boxes": None, **given}
    return learn(lambda: restorer, restorer.fingerprint, photos, settings, file=file, **given)


def stop_at(step: int) -> Callable[[Progress], None]:
    def listen(progress: Progress) -> None:
        if progress.step == step:
            raise Stopped

    return listen


def test_photos_in_another_order_are_the_same_person(
    tmp_path: Path, restorer: Restorer, person: list[Tensor]
) -> None:
    turned, boxes = [person[2], person[0], person[1]], [BOXES[2], BOXES[0], BOXES[1]]
    keys = {run_key("0", *given) for given in ((person, QUICK, BOXES), (turned, QUICK, boxes))}
    assert len(keys) == 1
    others = (person, QUICK, boxes), (person[:2], QUICK, BOXES[:2]), ([*person[:2], person[0]], QUICK, BOXES)
    assert len({run_key("0", *given) for given in others} | keys) == 4
    one = learned(restorer, person, tmp_path / "ada.safetensors", boxes=BOXES)
    two = learned(restorer, turned, tmp_path / "ada.safetensors", boxes=boxes)
    assert (two.file, two.notes) == (one.file, [f"Learned before: found as ada.safetensors in {tmp_path}."])
    anew = learned(restorer, turned, tmp_path / "bob.safetensors", boxes=boxes).adapter
    assert torch.equal(anew.token, one.adapter.token)
    assert torch.equal(anew.references, one.adapter.references)


def test_it_says_where_a_taken_name_went(tmp_path: Path, restorer: Restorer, person: list[Tensor]) -> None:
    file = tmp_path / "ada.safetensors"
    assert learned(restorer, person, file).notes == [f"Saved as ada.safetensors in {tmp_path}."]
    other = learned(restorer, person[:2], file)
    assert other.file.name == "ada_2.safetensors"
    assert other.notes[0].startswith(
        f"Saved as ada_2.safetensors in {tmp_path}, since ada.safetensors is another"
    )
    assert "found as ada_2.safetensors" in learned(restorer, person[:2], file).notes[0]


def test_more_steps_go_on_from_fewer(tmp_path: Path, restorer: Restorer, person: list[Tensor]) -> None:
    file, longer = tmp_path / "ada.safetensors", replace(QUICK, steps=7)
    short = learned(restorer, person, file).adapter
    steps: list[int] = []
    found = learned(restorer, person, file, longer, on_progress=lambda p: steps.append(p.step))
    assert steps == [4, 5, 6, 7]
    assert found.adapter.header.losses[:4] == short.header.losses
    assert len(found.adapter.header.losses) == 7
    assert found.file.name == "ada_2.safetensors"
    assert found.notes[1] == "It went on from the 4 steps of the adapter that was there."
    assert not torch.equal(found.adapter.token, short.token)
    steps.clear()
    learned(restorer, person, file, longer, restart=True, on_progress=lambda p: steps.append(p.step))
    assert steps[0] == 0, "restart forgets the shorter one, too"
    steps.clear()
    learned(restorer, person, file, replace(longer, batch=1), on_progress=lambda p: steps.append(p.step))
    assert steps[0] == 0, "other settings are another training"


def test_going_on_from_fewer_steps_can_be_stopped_as_well(
    tmp_path: Path, restorer: Restorer, person: list[Tensor]
) -> None:
    longer = replace(QUICK, steps=7)
    files = [tmp_path / name / "ada.safetensors" for name in ("whole", "parts")]
    for file in files:
        learned(restorer, person, file)
    whole = learned(restorer, person, files[0], longer).adapter
    with pytest.raises(Stopped):
        learned(restorer, person, files[1], longer, on_progress=stop_at(6))
    parts = learned(restorer, person, files[1], longer).adapter
    assert parts.header.losses == whole.header.losses
    assert torch.equal(parts.token, whole.token)


def test_a_deleted_adapter_is_learned_again(tmp_path: Path, restorer: Restorer, person: list[Tensor]) -> None:
    file = tmp_path / "ada.safetensors"
    before = learned(restorer, person, file)
    file.unlink()
    assert learned(restorer, person, file).notes[0].startswith("Saved as ada.safetensors")
    token = load_identity_adapter(file).tensors()["token.embedding"]
    assert torch.equal(token, before.adapter.token.half().float())


def test_a_picture_of_somebody_s_own_is_never_overwritten(
    tmp_path: Path, restorer: Restorer, person: list[Tensor]
) -> None:
    file, picture = tmp_path / "ada.safetensors", tmp_path / "ada.png"
    write_picture(torch.zeros(1, 3, 9, 9), picture)
    own = picture.read_bytes()
    found = learned(restorer, person, file)
    assert picture.read_bytes() == own
    assert found.notes[1] == "ada.png is a picture of yours and was left as it is."
    again = learned(restorer, person, file)
    assert again.sheet.shape == found.sheet.shape, "their picture was taken for a preview"
    picture.write_bytes(b"no picture at all")
    learned(restorer, person, file, restart=True)
    assert picture.read_bytes() == b"no picture at all"
    picture.unlink()
    kept = learned(restorer, person, file, replace(QUICK, preview_every=4), restart=True)
    assert preview_key(picture) == kept.adapter.header.run_key
    torch.testing.assert_close(read_picture(picture), kept.sheet, rtol=0, atol=0.003)
    found = learned(restorer, person, file)
    torch.testing.assert_close(found.sheet, kept.sheet, rtol=0, atol=0.003)


def test_the_preview_shows_the_crops_that_are_learned(
    tmp_path: Path, restorer: Restorer, person: list[Tensor]
) -> None:
    shown: list[Tensor] = []

    def look(progress: Progress) -> None:
        if progress.picture is not None:
            shown.append(progress.picture)

    five = [*person, *(photo.flip(-1) for photo in person[:2])]
    boxes = [*BOXES, None, None]
    found = learned(
        restorer,
        five,
        tmp_path / "a.safetensors",
        replace(QUICK, preview_every=None),
        boxes=boxes,
        on_progress=look,
    )
    assert len(shown) == 2, "after 0 steps and at the end"
    assert found.sheet.shape == shown[0].shape == (1, 3, 3 * 32, 4 * 32)
    assert torch.equal(found.sheet, shown[-1])
    frame = torch.tensor(GUESSED)
    framed = [torch.equal(found.sheet[0, :, 32 * (k // 4), 32 * (k % 4)], frame) for k in range(5)]
    assert framed == [False, True, False, True, True]
    assert not found.sheet[0, :, 32:64, 32:].any(), "cells that no photo fills"


def test_crops_are_in_the_order_of_the_photos() -> None:
    crops = [torch.full((3, 8 + k, 8 + k), k / 10) for k in range(1, 7)]
    sheet = crops_sheet([(crop, True) for crop in crops], 16)
    assert sheet.shape == (1, 3, 32, 64)
    middles = [round(float(sheet[0, 0, 8 + 16 * (k // 4), 8 + 16 * (k % 4)]), 3) for k in range(8)]
    assert middles == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.0, 0.0]


def test_faces_that_could_not_be_aligned_are_framed_and_said(
    tmp_path: Path, restorer: Restorer, person: list[Tensor]
) -> None:
    """Noise has no eyes; without a box there is nothing to say that the caller has not said."""
    found = learned(restorer, person, tmp_path / "a.safetensors", boxes=BOXES, aligned=32)
    numbers = [note.split(":")[0] for note in found.notes if "no eyes and mouth were found" in note]
    assert numbers == ["Photo 1", "Photo 3"]
    frame = torch.tensor(GUESSED)
    side = found.sheet.shape[-1] // 4
    assert [torch.equal(found.sheet[0, :, 0, side * k], frame) for k in range(3)] == [True] * 3


def test_what_died_leaves_no_pictures_of_a_person(
    tmp_path: Path, restorer: Restorer, person: list[Tensor]
) -> None:
    file = tmp_path / "ada.safetensors"
    with pytest.raises(Stopped):
        learned(restorer, person[:1], file, replace(QUICK, preview_every=1), on_progress=stop_at(2))
    (state,) = (tmp_path / UNFINISHED).glob("*/*.safetensors")
    assert sorted(path.suffix for path in state.parent.iterdir()) == [".csv", ".safetensors"]

    done = learned(restorer, person, tmp_path / "bob.safetensors").adapter.header.run_key
    dead = [tmp_path / UNFINISHED / name for name in (done, "0" * 32)]
    for folder in (*dead, state.parent):
        (folder / "sheets").mkdir(parents=True)
        (folder / "sheets" / "identity-0000100.png").touch()
    (dead[0] / "identity.state.safetensors").touch()
    (tmp_path / UNFINISHED / f"{'1' * 32}.lock").touch()
    for name in (".ada.safetensors.1.part", ".pfstorer.dead.part", ".a download.part"):
        (tmp_path / name).touch()
    (tmp_path / UNFINISHED / "my sketches" / "sheets").mkdir(parents=True)
    with locked(tmp_path / UNFINISHED / f"{'0' * 32}.lock"):
        learned(restorer, person[1:], file)
        assert (dead[1] / "sheets").exists(), "of one that is alive"
    assert not dead[0].exists()
    assert state.exists(), "what can be gone on with stays"
    assert not (state.parent / "sheets").exists()
    assert [path.name for path in tmp_path.glob(".*.part")] == [".a download.part"], "none of ours"
    clean(file)
    kept = {path.name for path in (tmp_path / UNFINISHED).iterdir()}
    assert kept == {state.parent.name, "my sketches"}
    assert (tmp_path / UNFINISHED / "my sketches" / "sheets").exists()


def test_what_another_name_has_learned_already_can_still_be_gone_on_with(
    tmp_path: Path, restorer: Restorer, person: list[Tensor]
) -> None:
    """A training that was stopped is not taken for the leftovers of the same one that lies there, copied."""
    learned(restorer, person, tmp_path / "ada.safetensors")
    (tmp_path / "ada.safetensors").rename(tmp_path / "copy.safetensors")
    (tmp_path / "ada.png").unlink()
    with pytest.raises(Stopped):
        learned(restorer, person, tmp_path / "ada.safetensors", on_progress=stop_at(2))
    steps: list[int] = []
    learned(restorer, person, tmp_path / "ada.safetensors", on_progress=lambda p: steps.append(p.step))
    assert min(steps) >= 2


def test_one_that_was_killed_at_its_very_end_gets_its_preview(
    tmp_path: Path, restorer: Restorer, person: list[Tensor]
) -> None:
    file, settings = tmp_path / "ada.safetensors", replace(QUICK, preview_every=2)
    with pytest.raises(Stopped):
        learned(restorer, person, file, settings, on_progress=stop_at(4))
    found = learned(restorer, person, file, settings)
    assert found.sheet.shape[-2:] == (64, 128)
    assert found.sheet[..., 32:, :].std() > 0


HOLD = """
import sys, time
from pathlib import Path
from pfstorer_core.training.lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_two_cannot_learn_the_same_at_once(tmp_path: Path, restorer: Restorer, person: list[Tensor]) -> None:
    file = tmp_path / "ada.safetensors"
    lock = tmp_path / UNFINISHED / f"{run_key(restorer.fingerprint, person, QUICK, None)}.lock"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(lock)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(ValueError, match="being learned already"):
        learned(restorer, person, file)
    learned(restorer, person[:2], tmp_path / "bob.safetensors")
    holder.kill()
    holder.wait()
    assert lock.exists(), "it was not killed: the test is blind"
    assert learned(restorer, person, file).file == file, "the dead hold no lock"
    assert not lock.exists()


def test_a_lock_is_held_once_within_a_process_too(tmp_path: Path) -> None:
    path = tmp_path / "a" / "x.lock"
    with locked(path), pytest.raises(TakenError), locked(path):
        pass
    with locked(path):
        assert path.exists()
    assert not path.exists()


def test_it_is_asked_within_everything_that_takes_long(
    tmp_path: Path, restorer: Restorer, person: list[Tensor]
) -> None:
    """So often that stopping takes no longer than a block of a network: while photos are encoded, in the
    forecast, forwards and backwards, in a preview."""
    asked: list[str] = []
    phase = ["photos"]

    def listen(progress: Progress) -> None:
        phase[0] = {0: "first step"}.get(progress.step, "later")

    with torch.random.fork_rng():
        expected = train_identity_adapter(restorer, person, QUICK)
        heard = train_identity_adapter(
            restorer, person, QUICK, on_tick=lambda: asked.append(phase[0]), on_progress=listen
        )
    assert heard.header.losses == expected.header.losses, "asking changes numbers"
    assert torch.equal(heard.token, expected.token)
    blocks = len(list(restorer.unet.output_blocks)) + len(list(restorer.unet.input_blocks))
    assert asked.count("photos") > len(person) + 2 * blocks, "encoding and the forecast"
    assert asked.count("first step") > 3 * blocks
    for module in restorer.unet.modules():
        assert not module._forward_hooks, "asked for ever"


@pytest.mark.parametrize("tick", [1, 3, 40, 90, 150, 220])
def test_it_can_be_stopped_anywhere_and_goes_on(
    tmp_path: Path, restorer: Restorer, person: list[Tensor], tick: int
) -> None:
    ticks = [0]

    def stop() -> None:
        ticks[0] += 1
        if ticks[0] == tick:
            raise Stopped

    with pytest.raises(Stopped):
        train_identity_adapter(restorer, person, QUICK, folder=tmp_path, on_tick=stop)
    whole = train_identity_adapter(restorer, person, QUICK)
    assert (
        train_identity_adapter(restorer, person, QUICK, folder=tmp_path).header.losses == whole.header.losses
    )


def test_the_backward_pass_is_asked_too(restorer: Restorer, person: list[Tensor]) -> None:
    photos = Photos.of(restorer, person)
    objective = IdentityLoss(restorer, photos, replace(QUICK, gradients="full"))
    batch = collated(Pairs(restorer, photos, random_degradation("", 32), 0.0, 4, 2, 0))
    asked: list[int] = []
    with asking(lambda: asked.append(1), restorer.unet):
        loss = objective(batch)
        forwards = len(asked)
        loss.backward()
    assert len(asked) - forwards > len(list(restorer.unet.output_blocks))


def test_waiting_for_a_pair_is_asked_in_the_meantime(restorer: Restorer, person: list[Tensor]) -> None:
    import threading

    photos, go = Photos.of(restorer, person), threading.Event()

    def slow(*_: Any) -> Any:
        go.wait(60)
        return random_degradation("", 32)(*_)

    asked: list[int] = []

    def ask() -> None:
        asked.append(1)
        if len(asked) == 4:
            go.set()

    pairs = Pairs(restorer, photos, slow, 0.0, 4, 2, 0, ask)  # type: ignore[arg-type]
    assert pairs[0]["hq"].shape == pairs[0]["lq"].shape
    pairs.close()
    assert len(asked) >= 4
