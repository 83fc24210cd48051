"""Annotation files of others, read entry by entry; an error names the file, the entry and what was expected."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from stc_export.spec import codec
from stc_export.spec.errors import UsageError
from stc_export.spec.files import file_digest, read_text
from stc_export.validate.types import TaskClip

T = TypeVar("T")

#: The largest annotation file of the benchmarks has a few megabytes.
_MOST_BYTES = 256 * 1024 * 1024
#: A text that some files write as a number, such as the choices of a counting question.
Text = str | int | float


@dataclass(frozen=True)
class Annotated:
    """What the annotation files of a benchmark say.

    Attributes:
        clips: All clips with their questions.
        files: The files.
        questions: Questions that the benchmark documents; ``None`` where the file is the user's own choice.
        per_task: The same for each kind of question, where documented.
    """

    clips: tuple[TaskClip, ...]
    files: tuple[Path, ...]
    questions: int | None = None
    per_task: Mapping[str, int] = dataclasses.field(default_factory=dict)


def find_file(data: Path, names: Sequence[str], source: str) -> Path:
    """Return an annotation file of a benchmark.

    Args:
        data: Folder that ``--data`` names.
        names: Places under it, the benchmark's own first.
        source: Where the benchmark publishes the file.

    Raises:
        UsageError: None of them is there.
    """
    for name in names:
        if (data / name).is_file():
            return data / name
    also = f" (nor {', '.join(names[1:])})" if names[1:] else ""
    raise UsageError(
        f'--data is "{data}", which has no file {names[0]}{also}.',
        f"Get it from {source} and put it there; nothing is downloaded.",
    )


def read_entries(path: Path, entry: type[T], renamed: Mapping[str, str] | None = None) -> tuple[T, ...]:
    """Read a JSON list of objects; keys that ``entry`` does not have are left out.

    Args:
        path: The file.
        entry: Dataclass of one entry.
        renamed: Fields by keys of the file that are no names in Python.

    Raises:
        UsageError: The file is no such list, or an entry lacks something or has another type.
    """
    data = _parse(path)
    if not isinstance(data, list) or not data:
        raise bad_file(path, "it is not a list of entries" if data else "it has no entry")
    return tuple(_entry(path, number, item, entry, renamed or {}) for number, item in enumerate(data, 1))


def read_table(path: Path) -> Mapping[str, object]:
    """Read a JSON object.

    Raises:
        UsageError: The file is none.
    """
    data = _parse(path)
    if not isinstance(data, dict):
        raise bad_file(path, "it is not an object")
    return data


def bad_entry(path: Path, number: int, reason: str) -> UsageError:
    """Return the error about entry ``number``, counted from 1, of a file."""
    return bad_file(path, f"entry {number}: {reason}")


def bad_file(path: Path, reason: str) -> UsageError:
    """Return the error about an annotation file."""
    return UsageError(
        f'"{path}" cannot be used: {reason}.', "Get the file again from where the benchmark publishes it."
    )


def letter_of(path: Path, number: int, choices: Sequence[str], right: str) -> str:
    """Return the letter of the right choice; white space around the texts does not count.

    Raises:
        UsageError: It is not among them, or more than 26.
    """
    texts = [choice.strip() for choice in choices]
    if right.strip() not in texts or len(texts) > 26:
        raise bad_entry(path, number, f'the answer "{right[:80]}" is none of its {len(choices)} choices')
    return chr(ord("A") + texts.index(right.strip()))


def digest(files: Sequence[Path]) -> str:
    """Return one SHA-256 for several files."""
    return hashlib.sha256("".join(file_digest(file) for file in files).encode()).hexdigest()


def _parse(path: Path) -> Any:
    try:
        return json.loads(read_text(path, _MOST_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        raise bad_file(path, f"it is not a JSON file ({str(error)[:200]})") from error


def _entry(path: Path, number: int, item: object, entry: type[T], renamed: Mapping[str, str]) -> T:
    if isinstance(item, dict):
        item = {renamed.get(key, key): value for key, value in item.items()}
    try:
        return codec.from_plain(entry, _known(entry, item))
    except (codec.DecodeError, RecursionError) as error:
        raise bad_entry(path, number, str(error)) from error


def _known(hint: Any, data: object) -> object:
    """Leave out the keys that a dataclass does not have: benchmarks carry many that nothing here reads."""
    if dataclasses.is_dataclass(hint) and isinstance(data, dict):
        hints = typing.get_type_hints(hint)
        return {key: _known(hints[key], data[key]) for key in hints if key in data}
    if typing.get_origin(hint) is tuple and isinstance(data, list):
        return [_known(typing.get_args(hint)[0], item) for item in data]
    return data
