"""Dropdowns offer what can be chosen, and nothing else."""

import json
import os
from pathlib import Path
from types import SimpleNamespace

import folder_paths
import numpy as np
import pytest
import torch
from app.model_manager import ModelFileManager
from comfy.utils import safetensors_header
from pfstorer.nodes.adapters import LoadIdentityAdapter, SaveIdentityAdapter
from pfstorer.nodes.examples import ExamplePictures
from pfstorer.nodes.host import listing, notes
from pfstorer.nodes.host.folders import (
    ASSETS,
    adapter_file,
    adapter_names,
    adapter_path,
    cfw_names,
    face_detectors,
    recognizer_names,
    register_model_folders,
    restorer_names,
    restorer_path,
    weight_names,
)
from pfstorer.nodes.load import LoadBaseRestorer
from pfstorer.pfstorer_core.personalization.registry import load_identity_adapter
from PIL import Image
from safetensors.torch import save_file

FORMATS = {
    "adapter": "pfstorer.identity_adapter",
    "restorer": "pfstorer.restorer",
    "control": "pfstorer.control_network",
    "judges": "pfstorer-judges",
    "detector": "pfstorer.blazeface",
    "recognizer": "pfstorer-recognizer",
    "other": "pt",
    "plain": None,
}
HOSTS = ("checkpoints", "vae", "controlnet")
SHIPPED = {path.name for path in (ASSETS / "identity_adapters").glob("*.safetensors")}


def write(path: Path, kind: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    said = FORMATS[kind]
    save_file({"x": torch.zeros(1)}, path, {"format": said} if said else None)
    return path


@pytest.fixture(autouse=True)
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every kind of file in every folder, and states of trainings in one that is hidden."""
    known = {name: ([str(tmp_path / name)], {".safetensors", ".ckpt"}) for name in HOSTS}
    monkeypatch.setattr(folder_paths, "models_dir", str(tmp_path))
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", known)
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    register_model_folders()
    for folder in (
        "restorers",
        "checkpoints",
        "identity_adapters",
        "stablesr",
        "vae",
        "controlnet",
        "face_detection",
        "face_recognizers",
    ):
        for kind in FORMATS:
            write(tmp_path / folder / f"{folder}_{kind}.safetensors", kind)
        write(tmp_path / folder / ".unfinished" / "key" / "identity.state.safetensors", "plain")
        write(tmp_path / folder / ".hidden.safetensors", "restorer")
    (tmp_path / "checkpoints" / "old.ckpt").write_bytes(b"PK")
    (tmp_path / "identity_adapters" / "cut.safetensors").write_bytes(b"\x10")
    return tmp_path


def test_each_dropdown_has_its_kinds() -> None:
    shipped = {path.name: listing.format_of(str(path)) for path in ASSETS.glob("*.safetensors")}
    unknown = ("other", "plain")
    restorers = {name for name, said in shipped.items() if said == FORMATS["restorer"]}
    control = {name for name, said in shipped.items() if said == FORMATS["control"]}
    assert restorers
    assert set(restorer_names()) == {"old.ckpt"} | restorers | {
        f"{folder}_{kind}.safetensors"
        for folder in ("restorers", "checkpoints")
        for kind in ("restorer", *unknown)
    }
    assert adapter_names() == sorted({*SHIPPED, "identity_adapters_adapter.safetensors"}, key=str.lower)
    weights = {
        f"{folder}_{kind}.safetensors"
        for folder in ("stablesr", "controlnet")
        for kind in ("control", *unknown)
    }
    assert weight_names() == ["none", *sorted(weights | control)]
    assert cfw_names() == [
        "none",
        *sorted(f"{folder}_{kind}.safetensors" for folder in ("stablesr", "vae") for kind in unknown),
    ]
    assert recognizer_names() == [
        "dlib_resnet29.safetensors",
        *sorted(f"face_recognizers_{kind}.safetensors" for kind in ("recognizer", *unknown)),
        "pfstorer_iresnet.safetensors",
    ]
    assert not [name for name in face_detectors() if "restorer" in name or "adapter" in name]


def test_a_file_that_becomes_another_is_seen(models: Path) -> None:
    file = write(models / "identity_adapters" / "identity_adapters_restorer.safetensors", "plain")
    assert file.name not in adapter_names()
    write(file, "adapter")
    os.utime(file, ns=(1, 1))  # whatever the clock's steps
    assert file.name in adapter_names()


def test_links_are_followed_and_never_in_circles(
    models: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    person = write(elsewhere / "ada.safetensors", "adapter")
    folder = models / "identity_adapters"
    (folder / "linked.safetensors").symlink_to(person)
    (folder / "family").symlink_to(elsewhere, target_is_directory=True)
    (folder / "gone.safetensors").symlink_to(elsewhere / "nobody.safetensors")
    (elsewhere / "again").symlink_to(elsewhere, target_is_directory=True)
    (folder / "round").symlink_to(folder, target_is_directory=True)
    expected = [
        *SHIPPED,
        "family/ada.safetensors",
        "identity_adapters_adapter.safetensors",
        "linked.safetensors",
    ]
    assert adapter_names() == sorted(expected, key=str.lower)
    for name in expected[1:]:
        assert Path(adapter_path(name)).is_file()
    restorer = write(elsewhere / "r.safetensors", "restorer")
    (models / "restorers" / "links").symlink_to(elsewhere, target_is_directory=True)
    assert "links/r.safetensors" in restorer_names()
    assert Path(restorer_path("links/r.safetensors")).samefile(restorer)


def test_a_checkpoint_s_tensors_are_not_read_for_it(models: Path) -> None:
    """Of a file that claims gigabytes the header is enough."""
    file = models / "checkpoints" / "large.safetensors"
    head = json.dumps({"__metadata__": {"format": "pfstorer.identity_adapter"}, "x": {}}).encode()
    file.write_bytes(len(head).to_bytes(8, "little") + head)
    os.truncate(file, 2**36)  # a hole
    assert listing.format_of(str(file)) == "pfstorer.identity_adapter"
    assert file.name not in restorer_names()
    for head in (b"\xff" * 8, (2**62).to_bytes(8, "little") + b"{", b"\x02" + bytes(7) + b"[]", b""):
        file.write_bytes(head)
        assert listing.format_of(str(file)) == ""


def test_a_person_learned_since_is_offered_and_taken(models: Path) -> None:
    """Also by a prompt that no list was asked for before."""
    write(models / "identity_adapters" / "new.safetensors", "adapter")
    (entry,) = (i for i in LoadIdentityAdapter.define_schema().inputs if i.id == "name")
    assert "new.safetensors" in entry.as_dict()["options"]
    assert LoadIdentityAdapter.validate_inputs("later.safetensors") is True
    with pytest.raises(FileNotFoundError, match=r"later\.safetensors. Folders searched"):
        LoadIdentityAdapter.execute("later.safetensors")


def test_saving_checks_the_name_and_says_where(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = load_identity_adapter(adapter_path(min(SHIPPED)))
    folder = models / "identity_adapters"
    (folder / "ada.safetensors").write_bytes(b"another person's")
    shown: list[tuple[str, object]] = []
    monkeypatch.setattr(notes, "show_text", lambda node, text: shown.append((node, text)))
    monkeypatch.setattr(SaveIdentityAdapter, "hidden", SimpleNamespace(unique_id="7"))
    output = SaveIdentityAdapter.execute(adapter, "ada")
    assert output.ui.as_dict()["text"] == (
        f"Saved as ada_2.safetensors in {folder}, since ada.safetensors is another person or another "
        "training.",
    )
    assert (folder / "ada_2.safetensors").is_file()
    assert shown == [("7", output.ui.as_dict()["text"][0])]
    assert "Saved as bob.safetensors" in SaveIdentityAdapter.execute(adapter, "bob").ui.as_dict()["text"][0]
    before = sorted(folder.iterdir())
    for bad in ("", "CON", "a/b", "人" * 79, "x."):
        with pytest.raises(ValueError, match="is no name for a file"):
            SaveIdentityAdapter.execute(adapter, bad)
        with pytest.raises(ValueError, match="is no name for a file"):
            adapter_file(bad)
    assert sorted(folder.iterdir()) == before


def test_the_library_shows_a_face_only_where_one_was_given(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = load_identity_adapter(adapter_path(min(SHIPPED)))
    folder = models / "identity_adapters"
    monkeypatch.setattr(notes, "show_text", lambda node, text: None)
    monkeypatch.setattr(SaveIdentityAdapter, "hidden", SimpleNamespace(unique_id="7"))
    face, wide = ExamplePictures.execute("P007: bad picture").args[1], torch.full((1, 256, 700, 3), 0.5)
    wide[:, :, 400:656] = face

    def covers(name: str) -> list[Image.Image]:
        found = ModelFileManager().get_model_previews(str(folder / f"{name}.safetensors"))
        return [Image.open(one).convert("RGB") for one in found]

    SaveIdentityAdapter.execute(adapter, "plain")
    assert covers("plain") == []
    assert not (folder / "plain.png").exists()
    SaveIdentityAdapter.execute(adapter, "shown", wide)
    beside, inside = covers("shown")
    for cover in (beside, inside):
        assert cover.size == (256, 256)
        shown = torch.from_numpy(np.asarray(cover) / 255).float()
        assert (shown - face[0]).abs().mean() < 0.06, "the face, and not the middle"
    loaded = load_identity_adapter(folder / "shown.safetensors")
    torch.testing.assert_close(loaded.tensors(), adapter.tensors())
    assert loaded.header == adapter.header
    # The host's page about a file reads no longer header.
    head = json.loads(safetensors_header(str(folder / "shown.safetensors"), max_size=2**20))["__metadata__"]
    assert head["modelspec.thumbnail"].startswith("data:image/jpeg;base64,")
    loaded.save(folder / "copy.safetensors")
    assert covers("copy") == []
    (folder / "mine.png").write_bytes((folder / "shown.png").read_bytes().replace(b"pfstorer", b"somebody"))
    before = (folder / "mine.png").read_bytes()
    said = SaveIdentityAdapter.execute(adapter, "mine", wide).ui.as_dict()["text"][0]
    assert "mine.png is a picture of yours and was left as it is" in said
    assert (folder / "mine.png").read_bytes() == before


def test_a_replaced_adapter_is_loaded_again(models: Path) -> None:
    file = write(models / "identity_adapters" / "ada.safetensors", "adapter")
    seen = LoadIdentityAdapter.fingerprint_inputs(name=file.name)
    assert LoadIdentityAdapter.fingerprint_inputs(name=file.name) == seen
    write(file, "restorer")
    assert LoadIdentityAdapter.fingerprint_inputs(name=file.name) != seen
    assert LoadIdentityAdapter.fingerprint_inputs(name=None) == ""  # linked: not known yet
    assert LoadBaseRestorer.fingerprint_inputs(checkpoint="restorers_restorer.safetensors")
