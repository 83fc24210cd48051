"""What an attack is, and how a bundle or a checkpoint is made to hold one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: Commands that read the manifest of a bundle.
ALL = ("inspect", "run", "check", "seal")
#: Those of them that go on to use what is in it.
USERS = ("run", "check", "seal")


@dataclass(frozen=True)
class Attack:
    """A row of a table.

    Attributes:
        name: What is done.
        act: Does it to a copy of a good bundle or checkpoint. A file ``secret.bin`` lies beside the copy.
        said: Part of what every command must say.
        commands: The commands that meet it.
        code: Their exit code.
    """

    name: str
    act: Callable[[Path], object]
    said: str
    commands: tuple[str, ...] = ALL
    code: int = 2


def put(data: Any, place: str, value: object) -> None:
    """Set a value in parsed JSON; ``place`` has keys and numbers, e.g. ``files.0.path``."""
    *way, last = [int(key) if key.isdigit() else key for key in place.split(".")]
    for key in way:
        data = data[key]
    data[last] = value


def edit_json(file: Path, change: Callable[[Any], object]) -> None:
    """Change a JSON file."""
    data = json.loads(file.read_text(encoding="utf-8"))
    change(data)
    file.write_text(json.dumps(data), encoding="utf-8")


def setting(file: str, **values: object) -> Callable[[Path], None]:
    """Set values of a JSON file; in their places a double underscore stands for a dot."""

    def change(data: Any) -> None:
        for place, value in values.items():
            put(data, place.replace("__", "."), value)

    return lambda root: edit_json(root / file, change)


def writing(file: str, content: str | bytes) -> Callable[[Path], None]:
    """Write a file."""
    data = content.encode() if isinstance(content, str) else content
    return lambda root: (root / file).write_bytes(data) and None


def edit_manifest(root: Path, change: Callable[[Any], object]) -> None:
    """Change the manifest and leave out its digest, as one does who wants it to be believed."""

    def unsigned(data: Any) -> None:
        data.pop("sha256", None)
        change(data)

    edit_json(root / "manifest.json", unsigned)


def manifest(place: str, value: object) -> Callable[[Path], None]:
    """Set a value of the manifest."""
    return lambda root: edit_manifest(root, lambda data: put(data, place, value))


def sign(root: Path) -> None:
    """Make sizes and digests in the manifest those of the files."""

    def change(data: Any) -> None:
        for entry in data["files"]:
            content = (root / entry["path"]).read_bytes()
            entry.update(size_bytes=len(content), sha256=hashlib.sha256(content).hexdigest())

    edit_manifest(root, change)


def signed(act: Callable[[Path], object]) -> Callable[[Path], None]:
    """Do something to the files, and let the manifest agree with it."""

    def both(root: Path) -> None:
        act(root)
        sign(root)

    return both


def instead(file: str, make: Callable[[Path], object]) -> Callable[[Path], None]:
    """Remove a file and make something in its place."""

    def act(root: Path) -> None:
        (root / file).unlink()
        make(root / file)

    return act
