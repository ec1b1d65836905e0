"""What every adapter's file says of itself, by whatever method it was made."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, TypeVar

from ..checkpoints.errors import CheckpointError
from ..checkpoints.fields import (
    Rule,
    Rules,
    anything,
    check_version,
    listed,
    number,
    one_of,
    read_header,
    text,
    whole,
)
from ..checkpoints.words import plain
from .face import PersonFace

FORMAT = "pfstorer.identity_adapter"
FORMAT_VERSION = "1"
HEADER_ENTRY = "adapter"
"""Entry of a .safetensors file's metadata that is the header, as JSON."""
NOTICE = (
    "Biometric data: the face of the person can be told, and shown, from this file. Keep it as you would "
    "keep their photos."
)
FIRST_METHOD = "pfstorer"
"""Of files that do not name theirs: there was no other."""

METHOD = text(40, "[a-z][a-z0-9_]*")
RULES = {
    "method": METHOD,
    "base": text(16, "([0-9a-f]{16})?"),
    "prediction_type": one_of("eps", "v"),
    "run_key": text(64),
    "steps": whole(0, 10**7),
    "losses": listed(number(-1e30, 1e30), 0, 200_000),
    "training": anything(dict, "fields by their names"),
    "notice": text(2000),
    "face": Rule("a face, or null", lambda value: value is None or isinstance(value, dict)),
}
"""What the fields may be that all methods share."""

Header = TypeVar("Header", bound="AdapterHeader")


@dataclass(frozen=True, kw_only=True)
class AdapterHeader:
    """What the tensors do not tell. A method adds fields of its own, with their `rules`.

    Attributes:
        method: name of the folder in `personalization` that knows it, see `personalization.registry`.
        base: fingerprint of the restorer that it was trained on; "" where nobody knows, as of files that were
            made elsewhere.
        prediction_type: of that restorer.
        run_key: of the training that made it, see `personalization.training`.
        steps: of that training; fewer than its settings say where it was stopped.
        losses: of every step.
        training: its settings.
        face: of the person, by which they are found in pictures; None of files that were made before there
            was one, and where nobody wanted it.
    """

    rules: ClassVar[Rules] = RULES
    required: ClassVar[tuple[str, ...]] = ("base", "prediction_type")

    method: str = FIRST_METHOD
    base: str
    prediction_type: str
    run_key: str = ""
    steps: int = 0
    losses: list[float] = field(default_factory=list)
    training: Mapping[str, Any] = field(default_factory=dict)
    notice: str = NOTICE
    face: PersonFace | None = None

    def details(self) -> list[str]:
        """What there is to say of the method, for people: a line each."""
        return []

    def to_metadata(self) -> dict[str, str]:
        return {"format": FORMAT, "format_version": FORMAT_VERSION, HEADER_ENTRY: json.dumps(asdict(self))}

    @classmethod
    def from_file(cls: type[Header], metadata: Mapping[str, str], name: str) -> Header:
        """Of a file's metadata; raises CheckpointError, which names file and field."""
        method_of(metadata, name)
        fields = read_header(metadata, HEADER_ENTRY, cls.rules, f"The header of {name}", cls.required)
        if fields.get("face") is not None:
            fields["face"] = PersonFace.of(fields["face"], f"The face in the header of {name}")
        return cls(**fields)


def method_of(metadata: Mapping[str, str], name: str) -> str:
    """The method that an adapter's file names; raises CheckpointError where it is none of ours, or of another
    version of the format."""
    if metadata.get("format") != FORMAT:
        raise CheckpointError(
            f"{plain(name)} is no identity adapter (its format is "
            f"{plain(metadata.get('format', 'not named'))}): choose a file that TrainIdentityAdapter wrote."
        )
    check_version(metadata.get("format_version"), FORMAT_VERSION, name, "identity adapter")
    found = read_header(metadata, HEADER_ENTRY, {"method": METHOD}, f"The header of {name}")
    return found.get("method", FIRST_METHOD)
