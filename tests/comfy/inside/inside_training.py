"""Learning in the host, whatever it keeps a MODEL in, on whatever file, photos and names it is given."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import comfy.cli_args
import comfy.model_management as mm
import folder_paths
import pytest
import torch
from comfy_api.latest import io
from pfstorer.nodes.examples import ExamplePictures
from pfstorer.nodes.host import notes, photos, training
from pfstorer.nodes.host.folders import register_model_folders
from pfstorer.nodes.host.training import training_copy
from pfstorer.nodes.load import LoadBaseRestorer
from pfstorer.nodes.train import TrainIdentityAdapter
from pfstorer.pfstorer_core.imaging.faces import Face
from pfstorer.pfstorer_core.personalization.registry import load_identity_adapter
from pfstorer.pfstorer_core.restorers.files import RestorerSource

ROOT = Path(__file__).resolve().parents[3]
# Behind the host's modules, whose names go first.
sys.path += [str(folder) for folder in (ROOT / "tests" / "unit", ROOT)]
import small  # noqa: E402

NAME = "small.safetensors"


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """models/, with a small restorer in it; the server is not there to be told of progress."""
    monkeypatch.setattr(folder_paths, "models_dir", str(tmp_path))
    known: dict[str, Any] = {name: ([], set()) for name in ("checkpoints", "vae", "embeddings")}
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", known)
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    register_model_folders()
    write_restorer(tmp_path, 0.0)
    said = SimpleNamespace(instance=SimpleNamespace(send_progress_text=lambda text, node: None))
    monkeypatch.setattr(notes, "PromptServer", said)
    return tmp_path


def write_restorer(models: Path, change: float) -> Path:
    generator = torch.Generator().manual_seed(5)
    tensors = {
        key: value + change * torch.randn(value.shape, generator=generator)
        for key, value in small.published(small.small_restorer()).items()
    }
    return small.write(models / "restorers" / NAME, tensors)


def loaded(**settings: Any) -> Any:
    return LoadBaseRestorer.execute(NAME, **settings)


def photo(height: int = 40, width: int = 48, seed: int = 0) -> torch.Tensor:
    return torch.rand(1, height, width, 3, generator=torch.Generator().manual_seed(seed))


def learned(photos: dict[str, Any], restorer: Any = None, **settings: Any) -> Any:
    """By the node, which gets its inputs as the host gives them."""
    model, clip, vae = (restorer or loaded()).args
    cls = TrainIdentityAdapter.PREPARE_CLASS_CLONE({"hidden_inputs": {io.Hidden.unique_id: "1"}})
    given = {"model": model, "clip": clip, "vae": vae, "name": "ada", "steps": 1, "seed": 0, "batch": 1}
    given["preview_every"] = 100_000  # only at the end
    lists = {key: [value] for key, value in {**given, **settings}.items() if key != "faces"}
    with torch.inference_mode():
        return cls.execute(photos=photos, faces=settings.get("faces"), **lists)


@pytest.mark.parametrize("flag", ["fp8_e4m3fn_unet", "fp8_e5m2_unet", "fp16_unet", "bf16_unet"])
def test_it_learns_whatever_the_host_s_flags_say(flag: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comfy.cli_args.args, flag, True)
    restorer = loaded()
    kept = restorer.args[0].model.get_dtype()
    assert str(kept).removeprefix("torch.float") in ("8_e4m3fn", "8_e5m2", "16") or flag == "bf16_unet"
    assert training_copy(restorer.args[0]).dtype in (torch.float32, torch.bfloat16)
    if flag in ("fp8_e4m3fn_unet", "fp16_unet"):
        adapter = learned({"photo_0": [photo()]}, restorer).args[0]
        assert len(adapter.header.losses) == 1


@pytest.mark.parametrize("dtype", ["fp16", "bf16", "fp32"])
def test_it_learns_whatever_the_node_was_told(dtype: str) -> None:
    restorer = loaded(dtype=dtype)
    expected = torch.bfloat16 if dtype == "bf16" else torch.float32
    assert training_copy(restorer.args[0]).dtype == expected


def test_a_replaced_file_is_seen(folders: Path) -> None:
    """By the loader, which loads it again, and by a training on what was loaded before."""
    before, seen = loaded(), LoadBaseRestorer.fingerprint_inputs(checkpoint=NAME)
    assert before.args[0].model.source == RestorerSource(str(folders / "restorers" / NAME))
    assert LoadBaseRestorer.fingerprint_inputs(checkpoint=NAME) == seen
    write_restorer(folders, 0.2)
    assert LoadBaseRestorer.fingerprint_inputs(checkpoint=NAME) != seen
    with pytest.raises(ValueError, match=r"small\.safetensors is not the file any more"):
        learned({"photo_0": [photo()]}, before)
    after = loaded()
    adapter = learned({"photo_0": [photo()]}, after).args[0]
    adapter.check_base(after.args[0].model.fingerprint)


def test_a_replaced_add_on_is_seen(folders: Path) -> None:
    addon = folders / "stablesr" / "own.safetensors"
    addon.write_bytes(b"one")
    seen = LoadBaseRestorer.fingerprint_inputs(checkpoint=NAME, restorer_weights=addon.name)
    addon.write_bytes(b"other")
    assert LoadBaseRestorer.fingerprint_inputs(checkpoint=NAME, restorer_weights=addon.name) != seen
    assert LoadBaseRestorer.fingerprint_inputs(restorer_weights=None) == ""  # linked: not known yet


def said(output: Any) -> list[str]:
    return output.ui.as_dict()["text"][0].splitlines()


def test_a_list_of_photos_is_one_person_and_what_was_done_is_said(
    folders: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    face = Face((5, 5, 25, 20), torch.zeros(6, 2), 1.0)
    monkeypatch.setattr(photos, "find_faces", lambda image, **_: [face] * (image.shape[-2] // 20))
    restorer = loaded()
    given = {"photo_0": [photo(40), photo(25, 33, 1), torch.cat([photo(19, seed=2)])], "photo_2": [photo(60)]}
    with caplog.at_level("INFO"):
        output = learned(given, restorer)
    saved, embedded, *notes = said(output)
    folder = folders / "identity_adapters"
    assert saved == f"Saved as ada.safetensors in {folder}."
    assert embedded.startswith("No face was found in the photos")
    assert [note.split(":")[0] for note in notes] == ["Photo 1", "Photo 3", "Photo 4"]
    assert ["2 faces" in notes[0], "no face" in notes[1], "3 faces" in notes[2]] == [True] * 3
    assert set(said(output)) <= {record.getMessage() for record in caplog.records}
    assert len(output.args[0].references) == 4
    assert [path.name for path in folder.glob("*.safetensors")] == ["ada.safetensors"]
    assert output.args[2].shape == (1, 2 * 32, 4 * 32, 3), "a row of crops above the preview"

    turned = {"photo_0": list(reversed(given["photo_0"])), "photo_2": given["photo_2"]}
    assert said(learned(turned, restorer))[0].startswith("Learned before: found as ada.safetensors")
    other = said(learned({"photo_0": [photo(40)]}, restorer))
    assert other[0].startswith("Saved as ada_2.safetensors")
    assert "since ada.safetensors is another person" in other[0]


def test_the_file_gets_an_embedding_of_the_face_unless_nobody_wants_it(folders: Path) -> None:
    shown, restorer = {"photo_0": [ExamplePictures.execute("P007: five photos").args[0][:1]]}, loaded()
    without = learned(shown, restorer, embed_face=False)
    assert without.args[0].header.face is None
    assert len(said(without)) == 1
    output = learned(shown, restorer)
    assert "Choose Identity finds the person" in said(output)[1]
    face = load_identity_adapter(folders / "identity_adapters" / "ada.safetensors").header.face
    assert face is not None
    assert (face.recognizer, face.photos) == ("dlib_resnet29", 1)


def test_steps_are_replayed_as_graphs_where_that_is_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    """Here is no GPU: it is said, and the person is learned without."""
    restorer, refused = loaded(), "Without a CUDA graph: they need an NVIDIA device, and this is cpu."
    for graphs in (False, True):
        with caplog.at_level("WARNING"):
            learned({"photo_0": [photo(seed=int(graphs))]}, restorer, graphs=graphs)
        assert (refused in caplog.messages) is graphs


def test_a_deleted_adapter_is_seen(folders: Path) -> None:
    seen = TrainIdentityAdapter.fingerprint_inputs
    folder, given = folders / "identity_adapters", {"name": ["ada"], "photos": {}, "steps": [3]}
    # The host compares what it keeps in tuples, where one object would equal itself.
    assert (seen(**given),) != (seen(**given),), "nothing is there: it is to run"
    (folder / "ada.safetensors").touch()
    (folder / "adam.safetensors").touch()
    one = seen(**given)
    assert one == seen(**given) == seen(name=["ada.safetensors"])
    (folder / "ada_2.safetensors").touch()
    assert seen(**given) != one
    (folder / "ada_2.safetensors").unlink()
    (folder / "ada.safetensors").unlink()
    assert (seen(**given),) != (seen(**given),)
    assert seen(name=[None]) == seen(name=[None]), "linked: not known yet"


def test_names_are_checked_before_any_work(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def worked(*_: Any, **__: Any) -> Any:
        raise AssertionError("something was done before the name was looked at")

    restorer = loaded()
    for work in ("gather_photos", "learn", "training_copy"):
        monkeypatch.setattr(training, work, worked)
    for name in ("", " ", "CON", "nul.ada", "a/b", "..", "ada.", "人" * 79, 'a"b', "a\x07"):
        with pytest.raises(ValueError, match="is no name for a file"):
            learned({"photo_0": [photo()]}, restorer, name=name)
    assert not list((folders / "identity_adapters").iterdir())


def test_several_values_where_one_is_meant_are_refused() -> None:
    model, clip, vae = loaded().args
    given = {
        "model": [model] * 2,
        "clip": [clip],
        "vae": [vae],
        "name": ["ada", "bob"],
        "steps": [1],
        "seed": [0],
    }
    with pytest.raises(ValueError, match="name got a list of 2 different values"):
        TrainIdentityAdapter.execute(photos={"photo_0": [photo()]}, **given)


def test_it_is_cancelled_within_a_step(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the host's own flag, which is looked at more often than once a step."""
    looked = [0]

    def look() -> None:
        looked[0] += 1
        if looked[0] == 30:
            mm.interrupt_current_processing()
        thrown()

    thrown = mm.throw_exception_if_processing_interrupted
    monkeypatch.setattr(mm, "throw_exception_if_processing_interrupted", look)
    with pytest.raises(mm.InterruptProcessingException):
        learned({"photo_0": [photo()]}, steps=100)
    assert looked[0] == 30
    assert not list((folders / "identity_adapters").glob("*.safetensors"))


def test_previews_are_shown_when_they_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[tuple[int, bool]] = []

    class Bar:
        def __init__(self, steps: int) -> None: ...

        def update_absolute(self, step: int, total: int, preview: Any) -> None:
            shown.append((step, preview is not None))

    monkeypatch.setattr(training, "ProgressBar", Bar)
    restorer = loaded()
    for every, expected in ((0, [0, 10, 11]), (4, [4, 8, 11])):
        shown.clear()
        learned({"photo_0": [photo()]}, restorer, steps=11, preview_every=every, resume="restart")
        assert [step for step, there in shown if there] == expected
