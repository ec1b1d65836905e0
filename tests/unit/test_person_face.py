"""The face that an adapter's file holds: it comes back, bad ones are refused, and files without one load."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from harness import ROOT
from harness.stand_in_adapter import stand_in_adapter
from pfstorer_core import CheckpointError, Restorer, load_identity_adapter
from pfstorer_core.checkpoints.reading import read_checkpoint
from pfstorer_core.checkpoints.tensors import write_safetensors
from pfstorer_core.imaging.pictures import read_picture
from pfstorer_core.personalization.face import PersonFace, face_of
from pfstorer_core.personalization.folder import write_face
from pfstorer_core.personalization.lora.adapter import LoRAAdapter
from pfstorer_core.personalization.portrait import portrait_of
from pfstorer_core.recognition import Recognizer, load_recognizer
from pfstorer_core.recognition.recognizer import mean_of_units
from pfstorer_core.restorers.files import save_restorer

from .small import small_restorer
from .test_cli import run
from .test_learning import learned

DLIB = ROOT / "assets" / "face_recognizers" / "dlib_resnet29.safetensors"
PHOTO = ROOT / "assets" / "examples" / "P007_photo_1.jpg"
FACE = PersonFace("dlib_resnet29", "0123456789abcdef" * 2, [0.6, -0.7, 0.2], 3)
NOT_A_NUMBER = float("nan")


@pytest.fixture
def file(tmp_path: Path, restorer: Restorer) -> Path:
    path = tmp_path / "ada.safetensors"
    adapter = stand_in_adapter(restorer, torch.randn(1, 4, 8, 8), gamma=0.5)
    adapter.save(path, portrait_of(read_picture(PHOTO)))
    return path


def test_a_file_gets_a_face_and_all_else_stays(file: Path) -> None:
    before, entries = read_checkpoint(file)
    before = {key: value.clone() for key, value in before.items()}
    old = load_identity_adapter(file)
    assert old.header.face is None
    write_face(file, FACE)
    after, told = read_checkpoint(file)
    assert after.keys() == before.keys()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert told["ssmd_cover_images"] == entries["ssmd_cover_images"]
    new = load_identity_adapter(file)
    assert new.header == replace(old.header, face=FACE)
    assert "Biometric" in new.header.notice
    assert new.with_face(None).header == old.header
    assert new.to("cpu", torch.float16).header.face == FACE


def test_files_of_before_load_as_they_did(file: Path) -> None:
    tensors, metadata = read_checkpoint(file)
    header = json.loads(metadata["adapter"])
    assert header.pop("face", 0) is None
    kept = {key: value.clone() for key, value in tensors.items()}
    write_safetensors(file, kept, {**metadata, "adapter": json.dumps(header)})
    assert load_identity_adapter(file).header.face is None


def test_a_lora_of_others_gets_one_too(tmp_path: Path) -> None:
    path = tmp_path / "theirs.safetensors"
    layer = "lora_unet_input_blocks_1_1_proj_in"
    tensors = {f"{layer}.lora_up.weight": torch.randn(8, 2), f"{layer}.lora_down.weight": torch.randn(2, 8)}
    write_safetensors(path, tensors, {"ss_base_model_version": "sd_2.1"})
    write_face(path, FACE, tmp_path / "ours.safetensors")
    ours, theirs = (load_identity_adapter(tmp_path / f"{name}.safetensors") for name in ("ours", "theirs"))
    assert isinstance(ours, LoRAAdapter)
    assert ours.header == replace(theirs.header, face=FACE)
    torch.testing.assert_close(ours.tensors(), theirs.tensors(), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"embedding": [0.1] * 5000}, r"embedding must be a list of 2 to 4096 times .*, got a list of 5000"),
        ({"embedding": []}, "embedding must be a list of 2"),
        ({"embedding": [0.1, "x"]}, "embedding must be"),
        ({"embedding": [0.5, NOT_A_NUMBER]}, "no JSON that can be read .*NaN"),
        ({"embedding": [1e9, 0.0]}, "embedding must be"),
        ({"embedding": [0.0] * 128}, "its embedding is 0 long"),
        ({"embedding": [0.9] * 128}, r"its embedding is 10\.2 long"),
        ({"weights": "0" * 31}, "weights must be text like"),
        ({"recognizer": "x" * 3_000_000}, "recognizer must be plain text of up to 200"),
        ({"photos": 0}, "photos must be a whole number"),
        ({"photos": None}, "photos must be a whole number"),
    ],
)
def test_bad_faces_are_refused_in_one_line(file: Path, change: dict[str, Any], words: str) -> None:
    write_face(file, FACE)
    tensors, metadata = read_checkpoint(file)
    header = json.loads(metadata["adapter"])
    header["face"] |= change
    kept = {key: value.clone() for key, value in tensors.items()}
    write_safetensors(file, kept, {**metadata, "adapter": json.dumps(header)})
    with pytest.raises(CheckpointError, match=rf"ada\.safetensors.*{words}") as found:
        load_identity_adapter(file)
    assert str(found.value).isprintable()
    assert len(str(found.value)) < 500


def test_a_face_lacks_no_field(file: Path) -> None:
    write_face(file, FACE)
    header = load_identity_adapter(file).header.to_metadata()
    fields = json.loads(header["adapter"])
    for name in ("recognizer", "weights", "embedding", "photos"):
        rest = {key: value for key, value in fields["face"].items() if key != name}
        metadata = {**header, "adapter": json.dumps({**fields, "face": rest})}
        with pytest.raises(CheckpointError, match=f"{name} is missing"):
            type(load_identity_adapter(file).header).from_file(metadata, "ada.safetensors")


def test_a_recogniser_is_told_by_its_weights_and_not_by_their_format() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    with torch.no_grad():
        for value in network.parameters():
            value.copy_(value.half())
    known = Recognizer(network, name="one").fingerprint
    assert len(known) == 32
    half = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).half()
    half.load_state_dict(network.state_dict())
    assert Recognizer(half, name="other").fingerprint == known
    with torch.no_grad():
        network.get_parameter("0.bias")[2] += 0.01
    assert Recognizer(network).fingerprint != known


def test_photos_without_a_face_say_nothing() -> None:
    recognizer = load_recognizer(DLIB)
    photo, empty = read_picture(PHOTO)[0], torch.full((3, 80, 90), 0.5)
    face = face_of(recognizer, [empty, photo])
    assert face is not None
    assert (face.recognizer, face.photos, len(face.embedding)) == ("dlib_resnet29", 1, 128)
    assert face.weights == recognizer.fingerprint
    assert face == PersonFace.of(json.loads(json.dumps(vars(face))), "it")
    assert face_of(recognizer, [empty]) is None
    alike = mean_of_units(torch.tensor([face.embedding])) @ torch.tensor(face.embedding)
    assert alike > 0.9


def test_learning_stores_it_and_adds_it_to_what_was_learned_before(
    tmp_path: Path, restorer: Restorer
) -> None:
    photos = [torch.rand(3, 40, 44, generator=torch.Generator().manual_seed(n)) for n in range(2)]
    asked = list[int]()

    def embed_face(squares: Any) -> PersonFace:
        asked.append(len(squares))
        assert all(isinstance(square, Tensor) and square.ndim == 3 for square in squares)
        return FACE

    plain = learned(restorer, photos, tmp_path / "ada.safetensors")
    assert plain.adapter.header.face is None
    later = learned(restorer, photos, tmp_path / "ada.safetensors", embed_face=embed_face)
    assert later.file == plain.file
    assert later.adapter.header == replace(plain.adapter.header, face=FACE)
    assert load_identity_adapter(later.file).header == later.adapter.header
    assert "embedding of the face" in " ".join(later.notes)
    learned(restorer, photos, tmp_path / "ada.safetensors", embed_face=embed_face)
    assert asked == [2], "what is there is not made again"
    anew = learned(restorer, photos, tmp_path / "bea.safetensors", embed_face=embed_face)
    assert load_identity_adapter(anew.file).header.face == FACE
    nobody = learned(restorer, photos, tmp_path / "eve.safetensors", embed_face=lambda _: None)
    assert nobody.adapter.header.face is None
    assert "No face was found" in " ".join(nobody.notes)


def test_the_command(file: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.safetensors"
    done = run("add-face", file, PHOTO, "--recognizer", DLIB, "--output", copy)
    assert done.returncode == 0, done.stderr
    assert "copy.safetensors holds the face of its person now, of 1 of 1 photos." in done.stdout
    face = load_identity_adapter(copy).header.face
    assert face is not None
    assert face.weights == load_recognizer(DLIB).fingerprint
    assert load_identity_adapter(file).header.face is None
    small, eve = tmp_path / "small.safetensors", tmp_path / "eve.safetensors"
    save_restorer(small_restorer(), small)
    given = "personalize", small, eve, PHOTO, "--steps", "1", "--batch", "1"
    assert "Choose Identity" in run(*given, "--recognizer", DLIB).stdout
    learned_face = load_identity_adapter(eve).header.face
    assert learned_face is not None
    assert learned_face.weights == face.weights
