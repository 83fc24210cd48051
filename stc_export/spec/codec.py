"""Strict, canonical JSON for frozen dataclasses: same value, same bytes; nothing unknown is read.

Supported field types: ``str``, ``int``, ``float``, ``bool``, ``Literal``, ``X | Y``, ``tuple[X, ...]`` and other
dataclasses. Numbers must be finite. Standard library only.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import types
import typing
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union

from stc_export.spec.errors import nearest

if TYPE_CHECKING:
    from collections.abc import Iterable

T = TypeVar("T")

#: A manifest nests at most this deep; deeper input is hostile, not ours.
MAX_DEPTH = 24
#: No list of ours is longer; a file could hold one of millions of items, which takes minutes to look through.
MAX_ITEMS = 1 << 18
#: No text of ours has more characters; longer ones would end up whole in messages.
MAX_TEXT = 1 << 20
#: Whole numbers fit 64 bits, so that whatever reads them next (numpy, a C library) can hold them.
MAX_INT = 2**63 - 1
#: Foreign text is shown in messages up to this length.
_SHOWN = 40


class DecodeError(ValueError):
    """JSON that does not describe the expected dataclass; the text names the place, e.g. ``graphs[2].role``."""


def to_json(value: object) -> str:
    """Return the canonical JSON text of a dataclass: sorted keys, two spaces, a final newline, UTF-8 as it is."""
    return json.dumps(_plain(value), indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def from_json(cls: type[T], text: str) -> T:
    """Read a dataclass from JSON text.

    Raises:
        DecodeError: Not JSON, a duplicate, unknown or missing key, or a value of another type.
    """
    try:
        data = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except DecodeError:
        raise
    except (ValueError, RecursionError) as error:  # ValueError: also a number of more digits than Python reads
        raise DecodeError(f"not valid JSON ({error})") from error
    return from_plain(cls, data)


def from_plain(cls: type[T], data: object) -> T:
    """Read a dataclass from parsed JSON (see :func:`from_json`)."""
    return typing.cast("T", _decode(cls, data, "", 0))


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    seen: dict[str, Any] = {}
    for key, value in pairs:
        if key in seen:
            raise DecodeError(f"key {_quoted(key)} appears twice")
        seen[key] = value
    return seen


def _no_constant(name: str) -> float:
    raise DecodeError(f"{name} is not a number")


def _plain(value: object) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    return value


def _decode(hint: Any, data: object, path: str, depth: int) -> object:
    if depth > MAX_DEPTH:
        raise DecodeError(f"{path or 'document'} nests deeper than {MAX_DEPTH}")
    if dataclasses.is_dataclass(hint):
        return _decode_dataclass(typing.cast("type[object]", hint), data, path, depth)
    origin = typing.get_origin(hint)
    if origin in (Union, types.UnionType):
        return _decode_union(hint, data, path, depth)
    if origin is tuple:
        return _decode_tuple(hint, data, path, depth)
    if origin is Literal:
        return _decode_literal(hint, data, path)
    return _decode_scalar(hint, data, path)


def _decode_dataclass(cls: type[object], data: object, path: str, depth: int) -> object:
    where = path or "document"
    if not isinstance(data, dict):
        raise DecodeError(f"{where} is {_kind(data)}, expected an object")
    hints, fields = _hints(typing.cast("Any", cls)), {f.name: f for f in dataclasses.fields(typing.cast("Any", cls))}
    for key in data:
        if key not in fields:
            raise DecodeError(f"{where} has the unknown key {_quoted(key)}. {_known(key, fields)}")
    values: dict[str, object] = {}
    for name, field in fields.items():
        if name in data:
            values[name] = _decode(hints[name], data[name], f"{path}.{name}".lstrip("."), depth + 1)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise DecodeError(f'{where} lacks the key "{name}"')
    return cls(**values)


@functools.cache
def _hints(cls: Any) -> dict[str, Any]:
    """Reading them is slower than all else, and there may be many of a kind."""
    return typing.get_type_hints(cls)


def _decode_union(hint: Any, data: object, path: str, depth: int) -> object:
    problems = []
    for option in typing.get_args(hint):
        try:
            return _decode(option, data, path, depth)
        except DecodeError as error:
            problems.append(str(error))
    raise DecodeError(problems[0])


def _decode_tuple(hint: Any, data: object, path: str, depth: int) -> object:
    if not isinstance(data, list):
        raise DecodeError(f"{path} is {_kind(data)}, expected a list")
    if len(data) > MAX_ITEMS:
        raise DecodeError(f"{path} has {len(data):,} items, at most {MAX_ITEMS:,} are read")
    item = typing.get_args(hint)[0]
    return tuple(_decode(item, value, f"{path}[{i}]", depth + 1) for i, value in enumerate(data))


def _decode_literal(hint: Any, data: object, path: str) -> object:
    choices = typing.get_args(hint)
    if isinstance(data, str) and data in choices:
        return data
    if isinstance(data, str):
        raise DecodeError(f"{path} is {_quoted(data)}. {_known(data, choices)}")
    raise DecodeError(f"{path} is {_kind(data)}. {_known('', choices)}")


def _decode_scalar(hint: Any, data: object, path: str) -> object:
    if hint is type(None) and data is None:
        return None
    if hint is bool and isinstance(data, bool):
        return data
    if hint is int and isinstance(data, int) and not isinstance(data, bool):
        if abs(data) <= MAX_INT:
            return data
        raise DecodeError(f"{path} is too large for a whole number")
    if hint is float and isinstance(data, (int, float)) and not isinstance(data, bool):
        try:
            number = float(data)
        except OverflowError as error:
            raise DecodeError(f"{path} is too large for a number") from error
        if math.isfinite(number):
            return number
        raise DecodeError(f"{path} is not finite")
    if hint is str and isinstance(data, str):
        return _checked_text(data, path)
    wanted = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", type(None): "null"}
    raise DecodeError(f"{path} is {_kind(data)}, expected {wanted.get(hint, str(hint))}")


def _checked_text(text: str, path: str) -> str:
    """JSON can escape half a surrogate pair, which no file can be written with and no screen can show."""
    if len(text) > MAX_TEXT:
        raise DecodeError(f"{path} has {len(text):,} characters, at most {MAX_TEXT:,} are read")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DecodeError(f"{path} is not valid Unicode") from error
    return text


def _known(name: str, choices: Iterable[str]) -> str:
    """The last sentence of an error, without its full stop: whoever quotes the error adds one."""
    return nearest(name, choices).removesuffix(".")


def _quoted(text: str) -> str:
    shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
    return f'"{shown.encode(errors="replace").decode()}"'


def _kind(data: object) -> str:
    if data is None:
        return "null"
    if isinstance(data, bool):
        return str(data).lower()
    if isinstance(data, (int, float)):
        return f"the number {data}" if isinstance(data, float) or abs(data) <= MAX_INT else "a number of many digits"
    if isinstance(data, str):
        return f"the text {_quoted(data)}"
    return "a list" if isinstance(data, list) else "an object"
