"""Photos are looked at before a person is learned from them: what is wrong with one is said of that one."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from typer.testing import CliRunner

from harness import ROOT
from pfstorer_core.cli import app
from pfstorer_core.degradation import Blur, Degradation, JpegFile, degrade
from pfstorer_core.imaging.faces import face_finder
from pfstorer_core.imaging.pictures import read_picture, write_picture
from pfstorer_core.imaging.resizing import resize
from pfstorer_core.personalization.photo_checks import (
    BAD,
    COLOURS,
    DOUBTFUL,
    GOOD,
    CheckedPhotos,
    check_photos,
    turned,
)
from pfstorer_core.recognition import load_recognizer

EXAMPLES = ROOT / "assets" / "examples"
DLIB = ROOT / "assets" / "face_recognizers" / "dlib_resnet29.safetensors"


def photo(person: str, number: int) -> Tensor:
    return read_picture(EXAMPLES / f"{person}_photo_{number}.jpg")


OWN = [photo("P007", number)[0] for number in range(1, 6)]
SPOILT = {
    "another person": photo("P008", 3)[0],
    "blurred": degrade(photo("P007", 3), [Degradation((Blur(6, 6, size=41),))])[0],
    "too small a face": F.pad(resize(photo("P007", 3), (80, 80)), (0, 240, 120, 120), value=0.5)[0],
    "nearly the same as photo 4": degrade(
        resize(photo("P007", 4), (300, 300)).clamp(0, 1), [Degradation((JpegFile(60),))]
    )[0],
    "no face is found": torch.full((3, 200, 200), 0.5),
}


@pytest.fixture(scope="module")
def checked() -> CheckedPhotos:
    """All of the person's, and each spoilt one."""
    return check_photos([*OWN, *SPOILT.values()], load_recognizer(DLIB).embed, find=face_finder())


def test_good_photos_are_good(checked: CheckedPhotos) -> None:
    assert [one.verdict for one in checked.photos[: len(OWN)]] == [GOOD] * len(OWN), checked.lines()
    assert checked.squares().shape == (len(OWN), 3, 512, 512)
    assert (resize(checked.squares()[2:3], (320, 320)) - OWN[2]).abs().mean() < 0.01, (
        "the face fills it already"
    )
    assert checked.lines()[-1] == "5 of 10 photos are fit; 3 to 5 are best."


@pytest.mark.parametrize("fault", SPOILT)
def test_a_spoilt_one_is_left_out_for_its_own_fault(checked: CheckedPhotos, fault: str) -> None:
    number = len(OWN) + list(SPOILT).index(fault)
    assert checked.photos[number].verdict == BAD
    assert checked.photos[number].faults[0] == fault
    assert checked.lines()[number].startswith(f"Photo {number + 1}: leave out, {fault}")


def test_the_sheet_frames_each_by_its_verdict(checked: CheckedPhotos) -> None:
    sheet = checked.sheet()
    assert sheet.shape[:2] == (1, 3)
    for verdict, count in ((GOOD, 5), (BAD, 5), (DOUBTFUL, 0)):
        colour = torch.tensor(COLOURS[verdict])[:, None, None]
        framed = ((sheet[0] - colour).abs().amax(0) < 0.01).sum() / (4 * 6 * (192 - 6))
        assert framed == pytest.approx(count, abs=0.1), verdict


def test_what_is_less_good_is_said_and_kept() -> None:
    """Against the size that a restorer draws; a face beside the person's; a face that looks aside."""
    small, two = resize(photo("P007", 3), (140, 140)).clamp(0, 1)[0], torch.cat([OWN[0], OWN[2]], dim=-1)
    first, second = check_photos([small, two]).photos
    assert (first.verdict, first.doubts) == (DOUBTFUL, ["a small face"])
    assert (second.verdict, second.doubts) == (DOUBTFUL, ["2 faces, the largest is taken"])
    assert check_photos([small], size=512).photos[0].faults == ["too small a face"]
    front = torch.tensor([[0.0, 0.0], [40.0, 30.0], [35.0, 40.0], [0, 0], [0, 0], [0, 0]])
    assert turned(front) == pytest.approx((15 * 40 + 25 * 30) / 2500)
    soft = degrade(photo("P007", 3), [Degradation((Blur(2.2, 2.2, size=21),))])[0]
    assert check_photos([soft]).photos[0].doubts == ["not quite sharp"]


def test_who_is_odd_needs_three_and_a_majority() -> None:
    embed = load_recognizer(DLIB).embed
    two = check_photos([OWN[0], SPOILT["another person"]], embed)
    assert [one.verdict for one in two.photos] == [GOOD, GOOD]
    assert "fewer than 3" in two.notes[0]
    even = check_photos([*OWN[1:3], photo("P008", 3)[0], photo("P008", 5)[0]], embed)
    assert not any(one.faults for one in even.photos)
    assert "do not look like one person" in even.notes[0]
    three = check_photos([*OWN[1:3], SPOILT["another person"]], embed)
    assert [one.faults for one in three.photos] == [[], [], ["another person"]]
    assert "Without a recogniser" in check_photos(OWN[:1]).notes[0]
    with pytest.raises(ValueError, match="no photos"):
        check_photos([])


def test_on_the_command_line(tmp_path: Path) -> None:
    paths = [EXAMPLES / f"P004_photo_{number}.jpg" for number in (1, 3, 4)]
    paths.append(tmp_path / "wall.png")
    write_picture(SPOILT["no face is found"][None], paths[-1])
    sheet = tmp_path / "sheet.png"
    command = ["check-photos", *map(str, paths), "--recognizer", str(DLIB), "--sheet", str(sheet)]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert "4: wall.png" in result.output
    assert "Photo 4: leave out, no face is found.\n3 of 4 photos are fit" in result.output
    assert read_picture(sheet).shape[-1] > 700
