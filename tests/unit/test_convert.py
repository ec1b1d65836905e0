"""Published files as one restorer: all of it, or no file at all."""

import json
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from harness import ROOT
from harness.stand_ins import own
from pfstorer_core import CheckpointError, Restorer, load_restorer
from pfstorer_core.checkpoints import tensors as checkpoint_module
from pfstorer_core.checkpoints.parts import AUTOENCODER, TEXT, UNET
from pfstorer_core.restorers.convert import DTYPES, convert
from pfstorer_core.restorers.keys import NULL_CONTEXT
from pfstorer_core.training.progress import Progress

from . import small
from .small import bare, base_keys, is_autoencoder, select, write

Tensors = dict[str, Tensor]


@pytest.fixture(scope="module")
def source(tensors: Tensors, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint without a header."""
    return write(tmp_path_factory.mktemp("source") / "stablesr_768v.ckpt", tensors)


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "new folder" / "one.safetensors"


def assert_nothing_left(output: Path) -> None:
    assert not output.parent.exists() or list(output.parent.iterdir()) == []


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_result_is_the_source_rounded(dtype: str, source: Path, output: Path, tensors: Tensors) -> None:
    convert(output, source, dtype=dtype)
    stored = load_file(output)
    context = stored.pop(NULL_CONTEXT)
    rounded = {key: value.to(DTYPES[dtype]) for key, value in tensors.items()}
    torch.testing.assert_close(stored, rounded, rtol=0, atol=0)
    assert list(output.parent.iterdir()) == [output]
    loaded, expected = load_restorer(output), load_restorer(source)
    assert torch.equal(context, expected.null_context.to(DTYPES[dtype]))
    assert torch.equal(loaded.null_context, context.float())
    assert (loaded.header.prediction_type, loaded.header.image_size) == ("v", 768)
    assert loaded.header.training == {"converted_from": ["stablesr_768v.ckpt"]}


def test_the_context_is_that_of_the_text_tower(source: Path, restorer: Restorer) -> None:
    """Of the empty prompt, by the tower run as a whole instead of layer by layer."""
    context = load_restorer(source).null_context
    assert context.shape == (1, 77, small.SIZES.context_dim)
    empty = replace(restorer, null_context=torch.empty(0)).context("a face")
    assert context.shape == empty.shape
    tower = load_restorer(source, text=True).text
    assert tower is not None
    start_and_end = torch.tensor([[49406, 49407] + [0] * 75])
    torch.testing.assert_close(context, tower(start_and_end), rtol=0, atol=1e-6)
    assert not torch.allclose(context, empty)


def test_a_restorer_keeps_its_header_and_its_context(
    restorer: Restorer, tensors: Tensors, tmp_path: Path
) -> None:
    stored = tensors | {NULL_CONTEXT: restorer.null_context}
    source = write(tmp_path / "a.safetensors", stored)
    convert(tmp_path / "b.safetensors", source, dtype="fp32", prediction_type="eps")
    loaded = load_restorer(tmp_path / "b.safetensors")
    training = {**small.HEADER.training, "converted_from": ["a.safetensors"]}
    assert loaded.header == replace(small.HEADER, prediction_type="eps", training=training)
    assert torch.equal(loaded.null_context, restorer.null_context)


def test_addons_become_one_file(tensors: Tensors, output: Path, tmp_path: Path) -> None:
    base = write(tmp_path / "v2-1.safetensors", select(tensors, base_keys), None)
    addons = [
        write(tmp_path / "webui_768v_139.ckpt", select(tensors, own)),
        write(tmp_path / "vqgan_cfw.ckpt", bare(select(tensors, is_autoencoder)) | small.LOSS),
    ]
    convert(output, base, addons, dtype="fp32")
    stored = load_file(output)
    del stored[NULL_CONTEXT]
    torch.testing.assert_close(stored, tensors, rtol=0, atol=0)
    header = load_restorer(output).header
    assert header.prediction_type == "v"
    assert header.training["converted_from"] == ["v2-1.safetensors", "webui_768v_139.ckpt", "vqgan_cfw.ckpt"]


def test_the_text_tower_may_be_dropped(source: Path, output: Path) -> None:
    convert(output, source, dtype="fp32", text=False)
    assert not any(key.startswith(TEXT.prefix) for key in load_file(output))
    assert torch.equal(load_restorer(output).null_context, load_restorer(source).null_context)


def test_what_a_text_tower_has_beside_it(tensors: Tensors, output: Path, tmp_path: Path) -> None:
    """What a host's CLIP may want is kept; the infinite mask of old versions is nothing to keep."""
    projection, mask = "cond_stage_model.model.text_projection", "cond_stage_model.model.attn_mask"
    beside = {projection: torch.eye(64), mask: torch.full((77, 77), -torch.inf).triu(1)}
    convert(output, write(tmp_path / "a.ckpt", tensors | beside))
    stored = load_file(output)
    assert projection in stored
    assert mask not in stored


def test_progress_is_told(source: Path, output: Path) -> None:
    steps: list[Progress] = []
    convert(output, source, on_step=steps.append)
    total = len(load_file(output))
    assert steps == [Progress("convert", number, total) for number in range(1, total + 1)]


def test_wrong_calls_are_named(source: Path, output: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"one\.ckpt has to end in \.safetensors"):
        convert(output.with_suffix(".ckpt"), source)
    with pytest.raises(ValueError, match="No dtype named 'fp8'; choose one of fp16, bf16, fp32"):
        convert(output, source, dtype="fp8")
    with pytest.raises(FileNotFoundError, match=r"No checkpoint at .*none\.ckpt"):
        convert(output, tmp_path / "none.ckpt")
    assert_nothing_left(output)


def test_a_source_is_not_overwritten(tensors: Tensors, tmp_path: Path) -> None:
    source = write(tmp_path / "a.safetensors", tensors)
    link = tmp_path / "link.safetensors"
    link.symlink_to(source)
    before = source.read_bytes()
    for output in (source, link, tmp_path / "." / "a.safetensors"):
        with pytest.raises(ValueError, match="choose another name"):
            convert(output, source)
    with pytest.raises(FileNotFoundError, match=r"No checkpoint at .*none\.ckpt"):
        convert(source, tmp_path / "none.ckpt")
    assert source.read_bytes() == before


def test_an_older_result_is_replaced_only_by_a_whole_one(source: Path, output: Path) -> None:
    output.parent.mkdir()
    output.write_text("old")

    def stop(step: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(output, source, on_step=stop)
    assert output.read_text() == "old"
    convert(output, source)
    assert list(output.parent.iterdir()) == [output]
    assert load_restorer(output)


def test_a_callback_that_raises_leaves_no_file(source: Path, output: Path) -> None:
    def stop(step: Progress) -> None:
        if step.step == step.steps // 2:
            raise RuntimeError("stopped by the user")

    with pytest.raises(RuntimeError, match="stopped by the user"):
        convert(output, source, on_step=stop)
    assert_nothing_left(output)


def test_what_does_not_fit_fp16_is_named(tensors: Tensors, output: Path, tmp_path: Path) -> None:
    large = tensors[UNET.key].clone()
    large[0, 0, 0, 0] = 70_000
    source = write(tmp_path / "a.ckpt", tensors | {UNET.key: large})
    with pytest.raises(
        CheckpointError, match=rf"^{UNET.key} has values that do not fit float16: choose bf16"
    ):
        convert(output, source)
    assert_nothing_left(output)
    convert(output, source, dtype="bf16")
    assert load_file(output)[UNET.key].isfinite().all()


@pytest.mark.parametrize(
    ("key", "named"),
    [
        (UNET.key, f"{UNET.key} holds NaN or infinity"),
        (AUTOENCODER.prefix + "quant_conv.bias", "quant_conv.bias holds NaN or infinity"),
        (TEXT.prefix + "model.ln_final.bias", "text tower holds NaN or infinity"),
    ],
)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_damaged_values_are_named(
    tensors: Tensors, output: Path, tmp_path: Path, key: str, named: str, value: float
) -> None:
    damaged = tensors[key].clone()
    damaged.view(-1)[0] = value
    source = write(tmp_path / "a.ckpt", tensors | {key: damaged})
    with pytest.raises(CheckpointError, match=named):
        convert(output, source)
    assert_nothing_left(output)


@pytest.mark.parametrize(
    ("key", "named"),
    [
        ("model.diffusion_model.out.0.bias", r"U-Net .* 1 missing: out\.0\.bias"),
        ("first_stage_model.decoder.norm_out.bias", r"autoencoder .* 1 missing: decoder\.norm_out\.bias"),
        ("cond_stage_model.model.ln_final.bias", r"text tower .* 1 missing: model\.ln_final\.bias"),
    ],
)
def test_a_network_that_is_not_complete_is_named(
    restorer: Restorer, tensors: Tensors, output: Path, tmp_path: Path, key: str, named: str
) -> None:
    """Also with a context in the file, which makes the text tower needless for it."""
    for more in ({}, {NULL_CONTEXT: restorer.null_context}):
        stored = select(tensors | more, lambda other: other != key)
        with pytest.raises(CheckpointError, match=named):
            convert(output, write(tmp_path / "a.ckpt", stored))
    wrong = tensors | {key: torch.zeros(3)}
    with pytest.raises(CheckpointError, match=named.replace("1 missing", "1 of another shape")):
        convert(output, write(tmp_path / "a.ckpt", wrong))
    assert_nothing_left(output)


def test_a_text_tower_that_is_not_kept_may_be_damaged(
    restorer: Restorer, tensors: Tensors, tmp_path: Path
) -> None:
    stored = tensors | {NULL_CONTEXT: restorer.null_context}
    del stored["cond_stage_model.model.ln_final.bias"]
    convert(tmp_path / "b.safetensors", write(tmp_path / "a.ckpt", stored), text=False)
    assert load_restorer(tmp_path / "b.safetensors")


@pytest.mark.parametrize(
    "context", [torch.zeros(1, 77, 32), torch.zeros(77, 64), torch.full((1, 2, 64), torch.nan)]
)
def test_a_context_that_cannot_be_is_named(
    tensors: Tensors, output: Path, tmp_path: Path, context: Tensor
) -> None:
    source = write(tmp_path / "a.ckpt", tensors | {NULL_CONTEXT: context})
    expected = r"reads \[1, tokens, 64\]" if context.isfinite().all() else "NaN or infinity"
    with pytest.raises(CheckpointError, match=rf"context of a\.ckpt .*{expected}"):
        convert(output, source)
    assert_nothing_left(output)


def test_no_context_and_no_text_tower_is_named(tensors: Tensors, output: Path, tmp_path: Path) -> None:
    source = write(tmp_path / "a.ckpt", select(tensors, lambda key: not key.startswith(TEXT.prefix)))
    with pytest.raises(CheckpointError, match=r"a\.ckpt carries neither null_context nor a text tower"):
        convert(output, source)


class Usage(NamedTuple):
    total: int
    used: int
    free: int


def test_room_on_the_disk_is_checked_before(
    source: Path, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[Progress] = []
    convert(output, source)
    size = output.stat().st_size
    output.unlink()
    for free in (0, size - 1):
        monkeypatch.setattr(checkpoint_module.shutil, "disk_usage", lambda path, free=free: Usage(0, 0, free))
        with pytest.raises(OSError, match=r"cannot be written: it needs \d+\.\d MB, .* left"):
            convert(output, source, on_step=steps.append)
        assert_nothing_left(output)
    assert steps == []
    monkeypatch.setattr(checkpoint_module.shutil, "disk_usage", lambda path: Usage(0, 0, size))
    convert(output, source)
    assert output.stat().st_size == size


def test_a_disk_that_is_full_midway_leaves_no_file(source: Path, output: Path) -> None:
    limit = 2_000_000
    command = [sys.executable, "-m", "pfstorer_core", "convert", str(output), str(source)]
    result = subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert result.returncode == 1
    assert result.stderr == f"error: {output} cannot be written: File too large. Nothing was changed.\n"
    assert_nothing_left(output)


def test_metadata_is_readable_by_any_program(source: Path, output: Path) -> None:
    convert(output, source)
    content = output.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    assert header["__metadata__"]["format"] == "pfstorer.restorer"
    assert json.loads(header["__metadata__"]["restorer"])["prediction_type"] == "v"
