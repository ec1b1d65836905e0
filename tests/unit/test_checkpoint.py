"""Checkpoint files: reading what is whole, refusing what is not, writing all or nothing."""

import json
import os
import pickle
import sys
import types
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pfstorer_core import CheckpointError
from pfstorer_core.checkpoints.reading import LONGEST_HEADER, read_metadata
from pfstorer_core.checkpoints.tensors import is_finite, load_exactly, read_checkpoint, write_safetensors

WEIGHTS = {f"layer.{i}.weight": torch.arange(3.0 + i).reshape(-1, 1) / 7 for i in range(4)}
NOBODY = 65534


def save_safetensors(path: Path, tensors: dict[str, Tensor]) -> None:
    save_file(tensors, path, {"by": "test"})


def save_pickle(path: Path, tensors: dict[str, Tensor]) -> None:
    torch.save(tensors, path, _use_new_zipfile_serialization=False)


WRITERS: dict[str, Callable[[Path, dict[str, Tensor]], None]] = {
    "safetensors": save_safetensors,
    "zip": lambda path, tensors: torch.save(tensors, path),
    "pickle": save_pickle,
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", WRITERS)
def test_the_kind_is_told_by_the_bytes_and_not_by_the_name(
    tmp_path: Path, kind: str, dtype: torch.dtype
) -> None:
    weights = {key: value.to(dtype) for key, value in WEIGHTS.items()}
    for name in ("a.safetensors", "a.ckpt", "no ending"):
        WRITERS[kind](tmp_path / name, weights)
        tensors, metadata = read_checkpoint(tmp_path / name)
        torch.testing.assert_close(tensors, weights, rtol=0, atol=0)
        assert metadata == ({"by": "test"} if kind == "safetensors" else {})


@pytest.mark.parametrize(
    "wrap",
    [
        lambda weights: {"state_dict": weights, "epoch": 3},
        lambda weights: {"model": weights, "optimizer": {"state": {0: torch.zeros(1)}}},
        lambda weights: {"params": {"other": torch.zeros(1)}, "params_ema": weights},
        lambda weights: {"params": weights},
        lambda weights: {"state_dict": {"model": weights}},
        lambda weights: {"state_dict": {f"module.{key}": value for key, value in weights.items()}},
        lambda weights: weights | {"epoch": 3, 7: torch.zeros(1)},
        lambda weights: {key: nn.Parameter(value) for key, value in weights.items()},
    ],
)
def test_pickled_weights_are_unwrapped(
    tmp_path: Path, wrap: Callable[[dict[str, Tensor]], dict[str, Any]]
) -> None:
    torch.save(wrap(WEIGHTS), tmp_path / "a.ckpt")
    tensors = read_checkpoint(tmp_path / "a.ckpt")[0]
    assert {key: value.tolist() for key, value in tensors.items()} == {
        key: value.tolist() for key, value in WEIGHTS.items()
    }


def test_an_optimizer_s_state_of_thousands_of_tensors_is_no_obstacle(tmp_path: Path) -> None:
    """Moments and steps of AdamW are more tensors than the weights, and more than a pickle may hold alone."""
    weights = {f"layer.{number}": torch.zeros(1) for number in range(3500)}
    moments = {
        number: {"step": torch.ones(()), "exp_avg": torch.zeros(1), "exp_avg_sq": torch.zeros(1)}
        for number in range(len(weights))
    }
    torch.save({"state_dict": weights, "optimizer_states": [{"state": moments}]}, tmp_path / "last.ckpt")
    assert set(read_checkpoint(tmp_path / "last.ckpt")[0]) == set(weights)


def test_what_a_trainer_pickles_beside_the_weights_is_no_obstacle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lightning, as of Stable Diffusion 2, wrote the class of its callback and numpy's scalars."""
    callback = type("ModelCheckpoint", (), {"__module__": "pytorch_lightning.callbacks.model_checkpoint"})
    for name in ("pytorch_lightning", "pytorch_lightning.callbacks", callback.__module__):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setattr(sys.modules[callback.__module__], "ModelCheckpoint", callback, raising=False)
    state = {"monitor": "loss", "best_model_score": np.float64(0.5), "current": callback()}
    torch.save({"state_dict": WEIGHTS, "callbacks": {callback: state}}, tmp_path / "a.ckpt")
    monkeypatch.undo()
    before = set(torch.serialization.get_safe_globals())
    assert read_checkpoint(tmp_path / "a.ckpt")[0].keys() == WEIGHTS.keys()
    assert set(torch.serialization.get_safe_globals()) == before


class Evil:
    def __reduce__(self) -> tuple:
        return (Path.touch, (Path("evil.txt"),))


class EvilShell:
    def __reduce__(self) -> tuple:
        return (os.system, ("touch evil.txt",))


@pytest.mark.parametrize("evil", [Evil, EvilShell])
def test_a_pickle_with_code_is_refused_and_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, evil: type
) -> None:
    monkeypatch.chdir(tmp_path)
    holds = {"state_dict": WEIGHTS, "callbacks": evil()}
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        Path(f"{protocol}.ckpt").write_bytes(pickle.dumps(evil(), protocol))
    torch.save(holds, "zip.ckpt")
    torch.save(holds, "pickle.ckpt", _use_new_zipfile_serialization=False)
    Path("named.safetensors").write_bytes(Path("zip.ckpt").read_bytes())
    files = sorted(tmp_path.iterdir())
    for path in files:
        with (
            warnings.catch_warnings(record=True) as warned,
            pytest.raises(CheckpointError, match=rf"{path.name} holds code.*never executed"),
        ):
            read_checkpoint(path)
        assert warned == []
    assert sorted(tmp_path.iterdir()) == files
    named = "getattr" if evil is Evil else "system"
    with pytest.raises(CheckpointError, match=rf"besides weights \(.*{named}\)"):
        read_checkpoint("zip.ckpt")


@pytest.fixture(scope="module", params=WRITERS)
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("whole") / "a"
    WRITERS[request.param](path, WEIGHTS)
    return path.read_bytes()


@given(data=st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_file_cut_anywhere_is_a_checkpoint_error(data: st.DataObject, whole: bytes, tmp_path: Path) -> None:
    path = tmp_path / "cut.ckpt"
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1), label="bytes")])
    with pytest.raises(CheckpointError, match=r"cut\.ckpt.* (damaged|never executed)"):
        read_checkpoint(path)


@given(data=st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_file_with_a_wrong_byte_is_read_or_a_checkpoint_error(
    data: st.DataObject, whole: bytes, tmp_path: Path
) -> None:
    changed = bytearray(whole)
    changed[data.draw(st.integers(0, len(whole) - 1), label="where")] ^= data.draw(st.integers(1, 255))
    (tmp_path / "wrong.ckpt").write_bytes(changed)
    with suppress(CheckpointError):
        assert read_checkpoint(tmp_path / "wrong.ckpt")[0]


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"", r"a\.ckpt \(0 bytes\) cannot be read as a safetensors or PyTorch file"),
        (b"no tensors at all", "cannot be read as a safetensors or PyTorch file: it is cut short"),
        (b"\x89PNG\r\n\x1a\n" + bytes(40), "cannot be read"),
        (bytes(8) + b"{}", "cannot be read as a safetensors file"),
        (b"\xff" * 8 + b'{"a": 1}', "cannot be read as a safetensors file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1", r"git lfs pull\.$"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"\n\n  <html>", "web page"),
        (b"GGUF\x03\x00\x00\x00\x00\x00", "GGUF"),
        (b"\x93NUMPY\x01\x00", "NumPy"),
        (b"\x1f\x8b\x08\x00\x00", "compressed archive"),
    ],
)
def test_what_is_no_checkpoint_is_named(tmp_path: Path, content: bytes, named: str) -> None:
    (tmp_path / "a.ckpt").write_bytes(content)
    with pytest.raises(CheckpointError, match=named):
        read_checkpoint(tmp_path / "a.ckpt")


def test_any_length_of_the_header_is_safetensors(tmp_path: Path) -> None:
    """Its lowest byte comes first in the file, and may be any character, such as that of a web page."""
    save_safetensors(tmp_path / "a.safetensors", WEIGHTS)
    content = (tmp_path / "a.safetensors").read_bytes()
    length = int.from_bytes(content[:8], "little")
    padded = content[8 : 8 + length] + b" " * ((ord("<") - length) % 256)
    assert len(padded) % 256 == ord("<")
    changed = len(padded).to_bytes(8, "little") + padded + content[8 + length :]
    (tmp_path / "a.safetensors").write_bytes(changed)
    torch.testing.assert_close(read_checkpoint(tmp_path / "a.safetensors")[0], WEIGHTS)


def test_a_zip_that_is_no_checkpoint(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.ckpt", "w") as archive:
        archive.writestr("readme.txt", "unpack me")
    with pytest.raises(CheckpointError, match=r"a\.ckpt .*cannot be read as a PyTorch file"):
        read_checkpoint(tmp_path / "a.ckpt")


@pytest.mark.parametrize(
    ("holds", "named"),
    [
        ({"epoch": 3}, "is no state dict: .* it holds epoch"),
        ([1, 2], "it holds list"),
        (torch.zeros(2), "it holds Tensor"),
        ({}, "it holds dict"),
        (
            {"string_to_token": {"*": 265}, "string_to_param": {"*": torch.zeros(1, 4)}, "name": "me"},
            "is a textual inversion",
        ),
    ],
)
def test_a_pickle_without_a_state_dict_says_what_it_holds(tmp_path: Path, holds: object, named: str) -> None:
    torch.save(holds, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=rf"a\.pt .*{named}"):
        read_checkpoint(tmp_path / "a.pt")


def test_missing_files_and_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"No checkpoint at .*none\.ckpt"):
        read_checkpoint(tmp_path / "none.ckpt")
    with pytest.raises(CheckpointError, match="is a folder"):
        read_checkpoint(tmp_path)


@contextmanager
def without_privileges() -> Iterator[None]:
    """As a user whom file modes bind, where the tests run as root."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(before)


@pytest.mark.parametrize("kind", WRITERS)
def test_an_unreadable_file_is_named(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "secret.ckpt"
    WRITERS[kind](path, WEIGHTS)
    path.chmod(0)
    with without_privileges(), pytest.raises(PermissionError, match=r"No permission to read .*secret\.ckpt"):
        read_checkpoint(path)


def test_misfits_are_listed() -> None:
    module = nn.Linear(2, 3)
    with pytest.raises(CheckpointError, match=r"1 missing: bias; 1 unexpected: other; .*weight \[3, 3\]"):
        load_exactly(module, {"weight": torch.zeros(3, 3), "other": torch.zeros(1)}, "layer")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_tensor_that_is_not_finite_is_named_when_loaded(value: float, dtype: torch.dtype) -> None:
    weights = {"weight": torch.ones(3, 2, dtype=dtype), "bias": torch.ones(3, dtype=dtype)}
    weights["weight"][2, 1] = value
    assert not is_finite(weights["weight"])
    with pytest.raises(CheckpointError, match="weight of the layer holds NaN or infinity"):
        load_exactly(nn.Linear(2, 3, dtype=dtype), weights, "layer")


def test_large_but_finite_values_are_finite() -> None:
    largest = torch.finfo(torch.float32).max
    assert is_finite(torch.full((9,), largest)), "their sum is not, but they are"
    assert is_finite(torch.full((99_999,), 60_000.0, dtype=torch.float16))
    assert is_finite(torch.tensor([1e300], dtype=torch.float64))
    assert is_finite(torch.tensor([2**62, -1]))


def test_written_files_are_read_by_the_library(tmp_path: Path) -> None:
    tensors = {
        "odd": torch.rand(3, dtype=torch.float64).half(),
        "flags": torch.tensor([True, False, True]),
        "byte": torch.arange(5, dtype=torch.uint8),
        "double": torch.rand(2, 3, dtype=torch.float64),
        "number": torch.tensor(7),
        "none": torch.empty(0, 4),
        "turned": torch.rand(4, 5).t(),
        "learned": nn.Parameter(torch.rand(2)),
        "brain": torch.rand(7).bfloat16(),
    }
    steps: list[tuple[int, int]] = []
    write_safetensors(
        tmp_path / "a.safetensors", tensors, {"by": "ä"}, on_tensor=lambda *step: steps.append(step)
    )
    loaded = load_file(tmp_path / "a.safetensors")
    assert loaded.keys() == tensors.keys()
    for key, value in tensors.items():
        assert loaded[key].dtype is value.dtype
        assert torch.equal(loaded[key], value), key
    assert read_checkpoint(tmp_path / "a.safetensors")[1] == {"by": "ä"}
    assert steps == [(number, len(tensors)) for number in range(1, len(tensors) + 1)]


def test_tensors_start_at_multiples_of_their_items(tmp_path: Path) -> None:
    tensors = {"a": torch.zeros(3, dtype=torch.uint8), "b": torch.zeros(3), "c": torch.zeros(1).double()}
    write_safetensors(tmp_path / "a.safetensors", tensors, {})
    content = (tmp_path / "a.safetensors").read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    for key, value in tensors.items():
        assert (8 + length + header[key]["data_offsets"][0]) % value.dtype.itemsize == 0


def test_only_floating_point_is_converted(tmp_path: Path) -> None:
    write_safetensors(
        tmp_path / "a.safetensors", {"a": torch.ones(2), "b": torch.ones(2).long()}, {}, torch.half
    )
    loaded = load_file(tmp_path / "a.safetensors")
    assert (loaded["a"].dtype, loaded["b"].dtype) == (torch.float16, torch.int64)


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match=r"a\.safetensors cannot be written: .*Nothing was changed") as error:
        write_safetensors(tmp_path / "file" / "a.safetensors", WEIGHTS, {})
    assert "Errno" not in str(error.value)


def test_metadata_are_read_without_tensors(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"a": torch.zeros(2)}, path, {"format": "pfstorer.x", "more": "1"})
    assert read_metadata(path) == read_metadata(path, b"pfstorer.") == {"format": "pfstorer.x", "more": "1"}
    assert read_metadata(path, b"another") == {}
    head = json.dumps({"__metadata__": {"format": "x", "odd": 3}}).encode()
    path.write_bytes(len(head).to_bytes(8, "little") + head)
    assert read_metadata(path) == {"format": "x"}
    for head in (b'{"__metadata__": [1]}', b"{}", b"[]", b"{", b"\xff", b"[" * 100_000):
        path.write_bytes(len(head).to_bytes(8, "little") + head)
        assert read_metadata(path) == {}
    for damaged in (
        b"",
        b"\xff" * 9,
        (LONGEST_HEADER + 1).to_bytes(8, "little") + b" " * (LONGEST_HEADER + 9),
    ):
        path.write_bytes(damaged)
        assert read_metadata(path) == read_metadata(tmp_path / "none") == read_metadata(tmp_path) == {}
