# ruff: noqa: E501 - a table of bytes
"""Malformed files of every kind, and what becomes of each: ``python -m tests.unit.hostile FOLDER``.

Prints a JSON list of [name, seconds, kind of outcome, message] and the growth of the peak of memory in MB.
"""

import io
import json
import os
import pickle
import random
import resource
import socket
import struct
import sys
import tarfile
import time
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load, save

from harness.stand_in_adapter import stand_in_adapter
from pfstorer_core import CheckpointError, Identity, Restorer, load_identity_adapter, load_restorer, restore
from pfstorer_core.checkpoints.header import RULES as RESTORER_RULES
from pfstorer_core.checkpoints.reading import read_checkpoint
from pfstorer_core.personalization.pfstorer.header import RULES as ADAPTER_RULES
from pfstorer_core.personalization.pfstorer.start import RULES as START_RULES
from pfstorer_core.personalization.pfstorer.start import load_start
from pfstorer_core.personalization.pfstorer.train_start import StartLoss, StartTraining
from pfstorer_core.restorers.files import save_restorer
from pfstorer_core.restorers.inspection import inspect_checkpoint

from .small import small_restorer

Header = dict[str, Any]
DEEP = "[" * 100_000
BAD = [None, 0, -1, 3, "x", "", [], [0], {}, True, 1.5, 10**30, "\x1b[2J\x1b]0;owned\x07", "\ud800", "x" * 3_000_000,
       [[0.1] * 3] * 999, [1] * 10**5, [["a"]], {"a": {"b": []}}, -0.0, 1e300, 99999, ["output_blocks.4.1"] * 5000,
       "../../etc/passwd"]  # fmt: skip


def unpack(content: bytes) -> tuple[Header, bytes]:
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def pack(header: object, data: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode("utf-8", "surrogatepass")
    return len(text).to_bytes(8, "little") + text + data


def raw(content: bytes, rng: random.Random) -> Iterator[tuple[str, bytes]]:
    """Changes to the bytes and the places of a safetensors file."""
    header, data = unpack(content)
    keys = [key for key in header if key != "__metadata__"]
    for size in (0, 1, 7, 8, 9, 20, *(rng.randrange(len(content)) for _ in range(6)), len(content) - 1):
        yield f"cut to {size}", content[:size]
    for length in (0, 1, 2**31, 2**40, 2**63 + 1, len(content)):
        yield f"header of {length}", length.to_bytes(8, "little") + content[8:]
    for text in (b"{}", b"{" + b" " * 99, DEEP.encode(), b'{"a":' + DEEP.encode(), b"\xff{", b'{"__metadata__": []}',
                 b'{"__metadata__": {"a": 1}}', b'{"a": 1}', b'{"a": {"dtype": "F16"}}'):  # fmt: skip
        yield f"header {text[:20]!r}", pack(b"{" + text[1:] if text[:1] != b"{" else text, data)
    yield "bytes at the end", content + b"more"
    yield (
        "twice",
        content.replace(keys[0].encode(), keys[1][: len(keys[0])].ljust(len(keys[0]), "_").encode(), 1),
    )
    for field, value in [("dtype", d) for d in ("F8_E4M3", "F8_E5M2", "F8_E8M0", "F4", "I16", "U16", "BF16", "F64",
                                                "BOOL", "I64", "C64", "X9", 7, None)] + [
        ("shape", s) for s in ([], [0], [0, 2**62, 2**62], [-1], "x", [2**64], [1.5], None, [1] * 1000, [[1]])
    ] + [("data_offsets", o) for o in ([0, 0], [5, 1], [0, 2**62], [], None, ["a", "b"], [-4, 0])]:  # fmt: skip
        key = rng.choice(keys)
        yield f"{field} {value} of {key}"[:80], pack({**header, key: {**header[key], field: value}}, data)
    empty = {"dtype": "F16", "shape": [0], "data_offsets": [0, 0]}
    for count in (100, 60_000):
        yield (
            f"{count} empty tensors",
            pack({**header, **{f"{keys[0]}{n}": empty for n in range(count)}}, data),
        )
    for name in ("\x1b[2J", "\u202e", "x" * 100_000, "\n\n", "é", ""):
        yield f"key {name[:5]!r}", pack({name if k == keys[3] else k: v for k, v in header.items()}, data)
    for old, new in (
        (".0.", ".999999."),
        (".0.", f".{10**9}."),
        (".0.", ".00."),
        (".0.", ".²."),
        ("0", "9" * 5000),
    ):
        holding = [k for k in keys if old in k]
        for key in rng.sample(holding, min(3, len(holding))):
            changed = {k.replace(old, new, 1) if k == key else k: v for k, v in header.items()}
            yield f"{key} numbered {new[:9]}", pack(changed, data)
    for _ in range(8):
        key = rng.choice(keys)
        yield f"without {key}", with_tensors(content, lambda t, key=key: t.pop(key))
    for what in ("nan", "inf", "flat", "narrow", "long", "bool", "wide", "fp8"):
        key = rng.choice(keys)
        yield (
            f"{what} {key}",
            with_tensors(content, lambda t, key=key, what=what: t.update({key: bent(t[key], what)})),
        )


def bent(value: torch.Tensor, what: str) -> torch.Tensor:
    full = {"nan": torch.nan, "inf": torch.inf}
    if what in full:
        return torch.full_like(value, full[what])
    return {
        "flat": value.flatten(),
        "narrow": value[: len(value) // 2] if value.ndim else value,
        "long": value.long(),
        "bool": value > 0,
        "wide": value[None],
        "fp8": value.float().to(torch.float8_e4m3fn),
    }[what].contiguous()


def with_tensors(content: bytes, change: Callable[[dict[str, torch.Tensor]], object]) -> bytes:
    tensors = load(content)
    change(tensors)
    return save(tensors, unpack(content)[0]["__metadata__"])


def headers(content: bytes, entry: str, fields: list[str], rng: random.Random) -> Iterator[tuple[str, bytes]]:
    """Changes to our own header, and to its version."""
    header, data = unpack(content)
    metadata = header["__metadata__"]
    own = json.loads(metadata[entry])

    def with_entry(text: str) -> bytes:
        return pack({**header, "__metadata__": {**metadata, entry: text}}, data)

    for field in fields:
        yield f"no {field}", with_entry(json.dumps({k: v for k, v in own.items() if k != field}))
        for value in rng.sample(BAD, 4):
            shown = str(value).encode("ascii", "replace")[:20]
            yield f"{field} = {shown!r}", with_entry(json.dumps({**own, field: value}))
        yield (
            f"{field} = NaN",
            with_entry(json.dumps({**own, field: 0}).replace(f'"{field}": 0', f'"{field}": NaN')),
        )
    for text in ("", "null", "7", DEEP, '{"a":' + DEEP, "{}", "9" * 5000, '{"sites": 1e999}'):
        yield f"header {text[:9]}", with_entry(text)
    for version in ("99", "x", "", "1.0", None):
        changed = {k: v for k, v in {**metadata, "format_version": version}.items() if v is not None}
        yield f"version {version}", pack({**header, "__metadata__": changed}, data)


def nested_keys(depth: int) -> bytes:
    """A key of tuples within tuples, which only a pickle's memo makes small: its hash takes for ever."""
    made = b"\x80\x02}" + b")" + b"".join(b"q%c" % 0 + b"h\x00\x86q\x00" for _ in range(depth))
    return made + b"K\x01s."


DOUBLING = b"c_codecs\nencode\n" * 40 + b"X\x01\x00\x00\x00a" + b"X\x03\x00\x00\x00hex\x86R" * 40 + b"."
"""Each call makes twice as much of what the one before made."""


def huge_sides() -> bytes:
    """A tensor whose sides are numbers of a million digits: their product takes for ever."""
    storage = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x10tQ"
    side = b"\x8b" + (2**20).to_bytes(4, "little") + b"\x01" * 2**20 + b"q\x05"
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\x00(" + side + b"h\x05" * 13 + b"t)\x89}tR."
    )


def saved(value: object, **settings: Any) -> bytes:
    file = io.BytesIO()
    torch.save(value, file, **settings)
    return file.getvalue()


def archive(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as made:
        for name, content in members.items():
            made.writestr(name, content)
    return file.getvalue()


def repacked(
    content: bytes, change: Callable[[dict[str, bytes]], object], compression: int = zipfile.ZIP_STORED
) -> bytes:
    with zipfile.ZipFile(io.BytesIO(content)) as read:
        members = {name: read.read(name) for name in read.namelist()}
    change(members)
    return archive(members, compression)


def pickles(tensors: dict[str, torch.Tensor], rng: random.Random) -> Iterator[tuple[str, bytes]]:
    few = dict(list(tensors.items())[:5])
    whole = saved(tensors)
    old = saved(few, _use_new_zipfile_serialization=False)
    yield "stride 0", saved({**tensors, "null_context": torch.zeros(1).expand(10**9)})
    yield (
        "one tensor often",
        saved({**few, **{f"k{n}": torch.zeros(10**6).expand(1, 10**6) for n in range(3)}}),
    )
    shared = torch.zeros(10**6)
    yield "shared often", saved({f"k{n}": shared for n in range(4000)})
    yield "deflated", repacked(saved({"a": torch.zeros(50_000_000)}), lambda m: None, zipfile.ZIP_DEFLATED)
    yield "path traversal", archive({"../../../evil/data.pkl": pickle.dumps(few, 2), "/etc/x": b"y"})
    yield "no pickle", archive({"a/b": b"x"})
    yield "two pickles", repacked(whole, lambda m: m.update({"b/data.pkl": b"."}))
    yield (
        "torchscript",
        archive({"a/constants.pkl": b"\x80\x02).", "a/data.pkl": b"\x80\x02}.", "a/code/x.py": b""}),
    )
    yield "npz", npz()
    yield (
        "tuple keys",
        repacked(whole, lambda m: m.update({next(n for n in m if n.endswith("data.pkl")): nested_keys(60)})),
    )
    yield "tuple keys, old", old[: old.index(b"}", 60)] + nested_keys(60)[2:]
    for protocol in range(6):
        yield f"plain pickle {protocol}", pickle.dumps({"a": [1, 2]}, protocol)
        yield f"ordered pickle {protocol}", pickle.dumps(OrderedDict(a=(1, (2,))), protocol)
    for made in (b"cbuiltins\nbytearray\n\x8a\x05\x00\xe4\x0bT\x02\x85R.", b"ctorch\nTensor\nJ\x00\xe1\xf5\x05J\x00\xe1\xf5\x05\x86R.",
                 b"ccollections\nCounter\n)R.", b"(" * 100_000 + b".", b")" + b"\x85" * 300_000 + b".", b"X\xff\xff\xff\x7fabc.",
                 b"\x8b\xff\xff\xff\x7f1.", b"h\x07.", b"}K\x01.", b"0.", b"R.", b"s.", b"u.", b"Q.", b"ctorch._utils\n_rebuild_tensor_v2\n)R.",
                 b"}(" + b"".join(b"\x8a\x0a" + ((2**61 - 1) * n).to_bytes(10, "little") + b"N" for n in range(1, 50_000)) + b"u.",
                 b"]" + b"N0" * 500_000 + b".", DOUBLING, b"N" * 100_000 + b"(t" * 100_000 + b".", huge_sides()):  # fmt: skip
        yield f"pickle {made[:16]!r}", b"\x80\x02" + made
        yield f"in an archive {made[:16]!r}", repacked(whole, lambda m, made=made: m.update(
            {next(n for n in m if n.endswith("data.pkl")): b"\x80\x02" + made}))  # fmt: skip
    for content, name in ((whole, "archive"), (old, "old")):
        for _ in range(6):
            at = rng.randrange(len(content))
            yield f"{name} cut at {at}", content[:at]
            yield (
                f"{name} changed at {at}",
                content[:at] + bytes([content[at] ^ rng.randrange(1, 256)]) + content[at + 1 :],
            )
    claims = old.replace(struct.pack("<BB", 0x4B, 64), b"J\xff\xff\xff\x7f", 3)
    yield "claims of the old", claims
    for value in (torch.zeros(3, dtype=torch.complex64), torch.zeros(2, 2).to_sparse(), torch.zeros(3, device="meta"),
                  torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.quint8), [1], "x", None, torch.zeros(0)):  # fmt: skip
        yield f"value {type(value).__name__}", saved({**few, "null_context": value})
    yield "tar", tarred()
    yield "gz", b"\x1f\x8b\x08\x00" + bytes(40)
    yield "zeros", bytes(1000)


def npz() -> bytes:
    file = io.BytesIO()
    np.savez(file, a=np.zeros(3))
    return file.getvalue()


def tarred() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as made:
        made.addfile(tarfile.TarInfo("storages"), io.BytesIO())
    return file.getvalue()


def strange_paths(folder: Path) -> Iterator[tuple[str, Path]]:
    os.mkfifo(folder / "pipe.safetensors")
    (folder / "loop.ckpt").symlink_to(folder / "loop.ckpt")
    (folder / "zero.ckpt").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as made:
        os.chdir(folder)
        made.bind("socket.ckpt")
    for name in (
        "pipe.safetensors",
        "loop.ckpt",
        "zero.ckpt",
        "socket.ckpt",
        "none.ckpt",
        ".",
        "x" * 300,
        "pipe.safetensors/a",
    ):
        yield name[:20], folder / name


def use_restorer(path: Path) -> None:
    restorer = load_restorer(path)
    # A file that lost its header was trained on 512 pixels, as far as one knows: it is opened, no more.
    if restorer.header.image_size <= 64:
        restore(restorer, torch.full((1, 3, 8, 8), 0.5), upscale=1, steps=1)


def adapter_user(base: Restorer) -> Callable[[Path], None]:
    def use(path: Path) -> None:
        person = Identity(load_identity_adapter(path))
        restore(base, torch.full((1, 3, 8, 8), 0.5), upscale=1, steps=1, identities=[person])

    return use


def outcome(use: Callable[[Path], object], path: Path) -> tuple[float, str, str]:
    start, kind, message = time.process_time(), "usable", ""
    try:
        use(path)
    except (CheckpointError, FileNotFoundError, PermissionError) as error:
        kind, message = "refused", str(error)
    except ValueError as error:
        kind, message = ("refused" if type(error) is ValueError else type(error).__name__), str(error)
    except Exception as error:
        kind, message = type(error).__name__, str(error)
    return time.process_time() - start, kind, message


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    rng = random.Random(0)
    small = small_restorer()
    base = Restorer(small.unet, small.autoencoder, small.null_context, small.header)
    save_restorer(base, folder / "restorer.safetensors")
    adapter = stand_in_adapter(base, torch.randn(2, 4, 16, 16), gamma=0.1)
    adapter.save(folder / "adapter.safetensors")
    restorer, person = ((folder / f"{name}.safetensors").read_bytes() for name in ("restorer", "adapter"))
    made = StartLoss(small, StartTraining()).start(1, 2)
    made.save(folder / "start.safetensors")
    start = (folder / "start.safetensors").read_bytes()
    changes = {
        f"lora_unet_{layer.replace('.', '_')}.{part}": value
        for layer in ("input_blocks.1.0.in_layers.2", "output_blocks.3.1.transformer_blocks.0.attn1.to_q")
        for weight in (base.unet.get_parameter(f"{layer}.weight"),)
        for part, value in (
            ("lora_up.weight", torch.randn(len(weight), 2)),
            ("lora_down.weight", torch.randn(2, *weight.shape[1:])),
            ("alpha", torch.tensor(1.0)),
        )
    }
    lora = save(changes, {"ss_base_model_version": "sd_v2"})
    use_person, tensors = adapter_user(base), read_checkpoint(folder / "restorer.safetensors")[0]
    uses: list[tuple[str, Callable[[Path], object], Iterator[tuple[str, bytes]]]] = [
        ("restorer", use_restorer, chain([("whole", restorer)], raw(restorer, rng))),
        ("restorer's header", use_restorer, headers(restorer, "restorer", [*RESTORER_RULES], rng)),
        ("adapter", use_person, chain([("whole", person)], raw(person, rng))),
        ("adapter's header", use_person, headers(person, "adapter", [*ADAPTER_RULES], rng)),
        (
            "adapter's start",
            load_start,
            chain([("whole", start)], headers(start, "start", [*START_RULES], rng)),
        ),
        ("adapter: LoRA", use_person, chain([("whole", lora)], raw(lora, rng))),
        ("checkpoint", use_restorer, chain([("whole", saved(dict(tensors)))], pickles(dict(tensors), rng))),
        ("inspected", inspect_checkpoint, islice(raw(restorer, rng), 20, 60, 3)),
    ]
    for use in (use_restorer, use_person):  # what the first run loads is no file's fault
        use(folder / ("restorer.safetensors" if use is use_restorer else "adapter.safetensors"))
    results, before = [], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for kind, use, cases in uses:
        # Of the larger files every other one: they take most of the time.
        step = 1 if kind.startswith(("adapter", "inspected")) else 2
        for name, content in islice(cases, 0, None, step):
            path = folder / ("case.ckpt" if kind == "checkpoint" else "case.safetensors")
            path.write_bytes(content)
            results.append((f"{kind}: {name}", *outcome(use, path)))
    for name, path in strange_paths(folder):
        for use in (use_restorer, use_person):
            results.append((f"path: {name}", *outcome(use, path)))
    growth = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e3
    sys.stdout.write(json.dumps([results, growth]))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
