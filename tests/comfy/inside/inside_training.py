"""Learning in the host, whatever it keeps a MODEL in, on whatever file, photos and names it is given."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import comfy.cli_args
import folder_paths
import pytest
import torch
from comfy_api.latest import io
from pfstorer.nodes import train
from pfstorer.nodes.load import LoadBaseRestorer
from pfstorer.nodes.paths import register_model_folders
from pfstorer.nodes.train import TrainIdentityAdapter, training_copy
from pfstorer.pfstorer_core.restorer import RestorerSource

ROOT = Path(__file__).resolve().parents[3]
# Behind the host's modules, whose names go first.
sys.path += [str(folder) for folder in (ROOT / "tests" / "unit", ROOT)]
import small  # noqa: E402

NAME = "small.safetensors"


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """models/, with a small restorer in it; the server is not there to be told of progress."""
    monkeypatch.setattr(folder_paths, "models_dir", str(tmp_path))
    monkeypatch.setattr(
        folder_paths, "folder_names_and_paths", {"checkpoints": ([], set()), "vae": ([], set())}
    )
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    register_model_folders()
    write_restorer(tmp_path, 0.0)
    said = SimpleNamespace(instance=SimpleNamespace(send_progress_text=lambda text, node: None))
    monkeypatch.setattr(train, "PromptServer", said)
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
    lists = {key: [value] for key, value in {**given, **settings}.items() if key != "faces"}
    with torch.inference_mode():
        return cls.execute(photos=photos, faces=settings.get("faces"), **lists)


@pytest.mark.parametrize("flag", ["fp8_e4m3fn_unet", "fp8_e5m2_unet", "fp16_unet", "bf16_unet"])
def test_it_learns_whatever_the_host_s_flags_say(flag: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comfy.cli_args.args, flag, True)
    restorer = loaded()
    kept = restorer.args[0].model.get_dtype()
    assert str(kept).removeprefix("torch.float") in ("8_e4m3fn", "8_e5m2", "16") or flag == "bf16_unet"
    adapter = learned({"photo_0": [photo()]}, restorer).args[0]
    assert len(adapter.header.losses) == 1


@pytest.mark.parametrize("dtype", ["fp16", "bf16", "fp32"])
def test_it_learns_whatever_the_node_was_told(dtype: str) -> None:
    restorer = loaded(dtype=dtype)
    expected = torch.bfloat16 if dtype == "bf16" else torch.float32
    assert training_copy(restorer.args[0]).dtype == expected
    assert learned({"photo_0": [photo()]}, restorer).args[0].header.losses


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
