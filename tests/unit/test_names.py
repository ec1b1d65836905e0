"""Names of files are such as every system takes, and that is seen before any work."""

import os
import unicodedata
from pathlib import Path

import pytest

from pfstorer_core.checkpoints.names import LONGEST, check_place, checked_name, is_hidden, numbered

SUFFIX = ".safetensors"


@pytest.mark.parametrize(
    ("name", "taken"),
    [
        ("anna", "anna"), ("anna.safetensors", "anna"), ("Anna.SafeTensors", "Anna"), ("Anna-Lena 2", None),
        ("a.b", None), ("Ünal", None), ("人物", None), ("Ж" * 100, None), ("console", None), ("com10", None),
        ("anna's (2)", None), ("émile", "émile"), ("null", None), ("a" * 200, None), ("👩‍🦰", None),
    ],
)  # fmt: skip
def test_names_that_are_taken(tmp_path: Path, name: str, taken: str | None) -> None:
    found = checked_name(name, SUFFIX)
    assert found == (name if taken is None else taken)
    assert unicodedata.is_normalized("NFC", found)
    check_place(tmp_path / (found + SUFFIX))
    (tmp_path / (found + SUFFIX)).touch()


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("", "empty"), ("   ", "empty"), (".safetensors", "empty"), ("\u200b", "empty"), ("\t", "empty"),
        ("anna.", "space or a dot"), ("anna ", "space or a dot"), (" anna", "space or a dot"),
        (".anna", "space or a dot"), ("anna .safetensors", "space or a dot"), ("..", "space or a dot"),
        ("con", "device"), ("NUL", "device"), ("Aux.anna", "device"), ("com1", "device"),
        ("LPT9.x.y", "device"),
        ("COM¹", "device"), ("con .x", "device"), ("conin$", "device"), ("prn.safetensors", "device"),
        ("a/b", "holds /"), ("../anna", "holds /"), ("a\\b", "holds"), ("C:anna", "holds :"),
        ("a*", r"holds \*"),
        ("what?", "holds"), ('"anna"', "holds"), ("<anna>", "holds < >"), ("a|b", "holds"),
        ("/anna", "holds /"),
        ("a\nb", r"U\+000A"), ("a\x00b", r"U\+0000"), ("a\x7f", r"U\+007F"), ("a\ud800", r"U\+D800"),
        ("abc\u202egnp", r"U\+202E"), ("a\u2028b", r"U\+2028"),
        ("人" * 79, "237 bytes, and 207"), ("a" * 230, "230 bytes"), ("a" * 5000, "5000 bytes"),
    ],
)  # fmt: skip
def test_names_that_are_refused(name: str, why: str) -> None:
    with pytest.raises(ValueError, match=f"is no name for a file: .*{why}") as caught:
        checked_name(name, SUFFIX)
    assert len(str(caught.value)) < 250
    str(caught.value).encode()


def test_the_longest_name_can_be_numbered_and_written(tmp_path: Path) -> None:
    longest = tmp_path / (checked_name("人" * 69, SUFFIX) + SUFFIX)
    temporary = numbered(longest, 999).name + f".{2**22}.part"
    assert len(f".{temporary}".encode()) <= LONGEST
    check_place(longest)
    assert not list(tmp_path.iterdir()), "looking leaves nothing behind"
    assert numbered(tmp_path / "a.b.safetensors", 2).name == "a.b_2.safetensors"


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(
        OSError, match=r"ada.safetensors cannot be written into .*file: .* choose another name"
    ):
        check_place(tmp_path / "file" / "ada.safetensors")
    (tmp_path / "ada.safetensors").mkdir()
    with pytest.raises(OSError, match="is a folder there"):
        check_place(tmp_path / "ada.safetensors")

    def refused(*_: object, **__: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refused)  # as in a folder that is read-only
    with pytest.raises(PermissionError, match=r"bob.safetensors cannot be .*: Permission denied"):
        check_place(tmp_path / "bob.safetensors")


def test_hidden_files_are_known() -> None:
    assert is_hidden(".unfinished/a/b.safetensors")
    assert is_hidden("family/.old/b.safetensors")
    assert not is_hidden("family/a.b.safetensors")
