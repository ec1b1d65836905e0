"""inspect, convert"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from ..checkpoints.words import bytes_in_words, plain
from ..personalization.pfstorer.start import is_start, load_start
from ..personalization.registry import is_adapter, load_identity_adapter, method_named
from ..restorers.convert import convert
from ..restorers.inspection import Inspection, inspect_checkpoint
from .app import Addons, Prediction, Variant, app, bars, prediction_named


@app.command("inspect")
def _inspect(
    file: Annotated[Path, typer.Argument(help="A checkpoint of any kind.")],
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
) -> None:
    """Tell what a checkpoint is: networks, sizes, number formats, prediction type, what is missing; or of an
    identity adapter, or of a start for them, how it was learned."""
    if is_adapter(file):
        _show_adapter(file, as_json)
        return
    if is_start(file):
        _show_start(file, as_json)
        return
    found = inspect_checkpoint(file)
    if as_json:
        sys.stdout.write(json.dumps(asdict(found), indent=2) + "\n")
    else:
        _show(found)


def _show_adapter(file: Path, as_json: bool) -> None:
    header = load_identity_adapter(file).header
    known = {key: value for key, value in asdict(header).items() if key != "losses"}
    if as_json:
        sys.stdout.write(
            json.dumps({"path": str(file), "kind": "an identity adapter", **known}, indent=2) + "\n"
        )
        return
    console = Console(markup=False, highlight=False, soft_wrap=True)
    console.print(f"{plain(file, 300)} ({bytes_in_words(file.stat().st_size)}): an identity adapter")
    console.print(
        f"{method_named(header.method, file.name).title}, {header.steps} steps on the base "
        f"{header.base or 'unknown'}, which predicts {header.prediction_type}"
    )
    for line in header.details():
        console.print(line)
    console.print(header.notice)


def _show_start(file: Path, as_json: bool) -> None:
    start = load_start(file)
    header, kind = start.header, "a start for identity adapters"
    if as_json:
        known = {"path": str(file), "kind": kind, "fingerprint": start.fingerprint, **asdict(header)}
        sys.stdout.write(json.dumps(known, indent=2) + "\n")
        return
    console = Console(markup=False, highlight=False, soft_wrap=True)
    console.print(f"{plain(file, 300)} ({bytes_in_words(file.stat().st_size)}): {kind}")
    console.print(
        f"{start.fingerprint}, {header.steps} steps over {header.people} people on the base {header.base}"
    )
    console.print(f"sites {', '.join(header.sites)}, reference time step {header.reference_timestep}")


def _show(found: Inspection) -> None:
    table = Table("network", "parameters", "stored as", "sizes")
    for network in found.networks:
        dtypes = ", ".join(f"{dtype} x {count}" for dtype, count in network.dtypes.items())
        sizes = ", ".join(f"{name} {value}" for name, value in network.sizes.items())
        table.add_row(network.name, f"{network.parameters:,}", dtypes, sizes)
    lines = [network.faults for network in found.networks if network.faults]
    if header := found.header:
        aligned = f", faces aligned as in {header.aligned}" if header.aligned else ""
        lines.append(
            f"predicts {header.prediction_type} (by {found.header_source}), "
            f"pictures of {header.image_size} pixels{aligned}, latent scale {header.scale_factor:.5g}"
        )
    if found.note:
        lines.append(found.note)
    if found.fingerprint:
        lines.append(f"fingerprint {found.fingerprint}, which identity adapters name as their base")
    lines += [f"missing: {missing}" for missing in found.missing]
    if found.ignored:
        lines.append(f"not used: {found.ignored} other tensors (buffers, optimizer, losses)")
    console = Console(markup=False, highlight=False, soft_wrap=True)
    console.print(f"{plain(found.path, 300)} ({bytes_in_words(found.bytes)}): {found.kind}")
    console.print(table, soft_wrap=False)
    for line in lines:
        console.print(line)


@app.command("convert")
def _convert(
    output: Annotated[Path, typer.Argument(help="The restorer to write (.safetensors).")],
    checkpoint: Annotated[Path, typer.Argument(help="A StableSR, DiffBIR or SD 2.1 checkpoint.")],
    addon: Addons = None,
    dtype: Annotated[str, typer.Option(help="fp16, bf16 or fp32.")] = "fp16",
    prediction_type: Prediction = None,
    variant: Variant = None,
    text: Annotated[
        bool, typer.Option(help="Keep the text tower, which prompts and learning a person need.")
    ] = True,
) -> None:
    """Turn published files into one restorer, without loading them."""
    with bars() as show:
        convert(
            output,
            checkpoint,
            addon or [],
            dtype=dtype,
            prediction_type=prediction_named(prediction_type),
            variant=variant,
            text=text,
            on_step=show,
        )
