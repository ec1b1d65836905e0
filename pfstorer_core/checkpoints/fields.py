"""What the fields of a file's header may be: types and ranges as data, and the one place that checks them."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from .errors import CheckpointError
from .words import plain

LONGEST_HEADER = 4_000_000
"""Characters: ten times the losses of a long training."""


@dataclass(frozen=True)
class Rule:
    """What a value has to be: in words, for the error, and as a test of any JSON value."""

    expected: str
    holds: Callable[[Any], bool]


Rules = Mapping[str, Rule]


def whole(least: int, most: int) -> Rule:
    return Rule(
        f"a whole number from {least} to {most}", lambda value: type(value) is int and least <= value <= most
    )


def number(least: float, most: float) -> Rule:
    def holds(value: Any) -> bool:
        return type(value) in (int, float) and least <= value <= most  # NaN is in no range

    return Rule(f"a number from {least:g} to {most:g}", holds)


def one_of(*choices: str) -> Rule:
    return Rule(
        " or ".join(choice or "empty" for choice in choices),
        lambda value: isinstance(value, str) and value in choices,
    )


def text(most: int, pattern: str = "") -> Rule:
    """Printable characters (new lines among them), all of them as the pattern says where there is one."""

    def holds(value: Any) -> bool:
        if not isinstance(value, str) or len(value) > most:
            return False
        return bool(re.fullmatch(pattern, value)) if pattern else value.replace("\n", " ").isprintable()

    return Rule(f"text like {pattern}" if pattern else f"plain text of up to {most} characters", holds)


def listed(each: Rule, least: int, most: int) -> Rule:
    def holds(value: Any) -> bool:
        return isinstance(value, list) and least <= len(value) <= most and all(map(each.holds, value))

    return Rule(f"a list of {least} to {most} times {each.expected}", holds)


def anything(kind: type, name: str) -> Rule:
    return Rule(name, lambda value: type(value) is kind)


def parsed(text: object, what: str) -> Any:
    """JSON of a file that nobody vouches for.

    Args:
        what: that it is, for the error: "the header of x.safetensors".
    Raises:
        CheckpointError: no text, no JSON, too long or too deep, or with numbers that are not finite.
    """

    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"it holds {constant}")

    def finite(digits: str) -> float:
        return value if math.isfinite(value := float(digits)) else refuse(digits)

    if not isinstance(text, str) or len(text) > LONGEST_HEADER:
        size = f"{len(text):,} characters" if isinstance(text, str) else plain(type(text).__name__)
        raise CheckpointError(f"{what} is {size}, expected JSON of up to {LONGEST_HEADER:,} characters.")
    try:
        return json.loads(text, parse_constant=refuse, parse_float=finite)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{what} is damaged: no JSON that can be read ({plain(error)}).") from error


def read_header(
    metadata: Mapping[str, str], entry: str, rules: Rules, what: str, required: tuple[str, ...] = ()
) -> dict[str, Any]:
    """The fields of `rules` in the JSON object that an entry of a file's metadata holds; what a later version
    added is left out.

    Args:
        what: the header's name in errors, such as "the header of x.safetensors".
        required: fields that have to be there.
    Raises:
        CheckpointError: the entry or a required field is missing, or a value is not what its rule says;
            names the field, what was found and what was expected.
    """
    if entry not in metadata:
        raise CheckpointError(f"{what} is missing: there is no entry {entry} in the file's metadata.")
    return checked(parsed(metadata[entry], what), rules, what, required)


def checked(values: Any, rules: Rules, what: str, required: tuple[str, ...] = ()) -> dict[str, Any]:
    """See `read_header`; of what was parsed already."""
    if not isinstance(values, dict):
        raise CheckpointError(f"{what} is damaged: it is {_found(values)}, expected fields by their names.")
    for name in required:
        if name not in values:
            raise CheckpointError(f"{what} is damaged: {name} is missing, expected {rules[name].expected}.")
    known = {name: values[name] for name in rules if name in values}
    for name, value in known.items():
        if not rules[name].holds(value):
            raise CheckpointError(
                f"{what} is damaged: {name} must be {rules[name].expected}, got {_found(value)}."
            )
    return known


def check_version(found: object, known: str, what: str, kind: str) -> None:
    """Raise CheckpointError unless a file is of the one version of its format that is known here."""
    if found == known:
        return
    if found is None:
        raise CheckpointError(
            f"{what} does not say which version of the format it has (format_version): it is no complete "
            f"{kind}, expected version {known}."
        )
    raise CheckpointError(
        f"{what} was made by a newer PFStorer or is damaged (format {plain(found, 20)}; this one reads "
        f"{known}): update the pack."
    )


def _found(value: Any) -> str:
    if isinstance(value, str):
        return repr(plain(value, 40))
    if isinstance(value, list | dict):
        return f"a {type(value).__name__} of {len(value)}"
    return plain(value if not isinstance(value, int) or abs(value) < 2**64 else "a number of many digits", 40)
