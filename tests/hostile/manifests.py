"""Attacks with the manifest of a bundle, and with the files that it lists."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from tests.hostile.attack import ALL, USERS, Attack, edit_manifest, instead, manifest, put, writing

_MANIFEST = "manifest.json"
_WEIGHTS = "graphs/llm.weights"
_PATHS = {
    "up": "../secret.bin",
    "absolute": "/etc/hostname",
    "backslash": "..\\secret.bin",
    "up in the middle": "graphs/../../secret.bin",
    "empty": "",
    "NUL": "tokenizer.json\0.bin",
    "70,000 characters": "x" * 70_000,
    "line break": "a\nb",
    "drive": "C:/x",
}
_FIELDS = {
    "graph": "graphs.0.file",
    "weights": "graphs.0.weights.0",
    "table": "tables.0.file",
    "tokenizer": "tokenizer",
}
_VALUES = {
    "2^62 as a width": ("dims.vision.width", 2**62, f"has dims.vision.width = {2**62}, which is not possible"),
    "2^62 layers": ("dims.text.layers", 2**62, f"has dims.text.layers = {2**62}, which is not possible"),
    "16 million layers": ("dims.vision.layers", 2**24, "has dims.vision.layers = 16777216, which is not possible"),
    "negative heads": ("dims.text.heads", -4, "has dims.text.heads = -4, which is not possible"),
    "no patches": ("dims.vision.patch_size", 0, "has dims.vision.patch_size = 0, which is not possible"),
    "fraction of a layer": ("dims.text.layers", 2.0, "dims.text.layers is the number 2.0, expected a whole number"),
    "true layers": ("dims.text.layers", True, "dims.text.layers is true, expected a whole number"),
    "text as a number": ("dims.text.layers", "2", 'dims.text.layers is the text "2", expected a whole number'),
    "more than 64 bits": ("dims.text.vocab", 10**30, "dims.text.vocab is too large for a whole number"),
    "NaN": ("dims.text.rope_theta", float("nan"), "NaN is not a number"),
    "infinity": ("dims.text.rope_theta", float("inf"), "Infinity is not a number"),
    "policy out of range": ("policy.pruner.keep", -1.0, "pruner.keep is -1, expected a number above 0"),
    "history of 2^62 frames": (
        "policy.pruner.history",
        2**62,
        f"pruner.history is {2**62}, expected at most 1000000000",
    ),
    "text of 5 million characters": ("target", "x" * 5_000_000, "target has 5,000,000 characters, at most 1,048,576"),
    "half a surrogate pair": ("model.name", "\ud800", "model.name is not valid Unicode"),
    "million stop tokens": ("prompt.stop_tokens", [0] * 10**6, "prompt.stop_tokens has 1,000,000 items, at most"),
    "million pieces": ("prompt.before_video", [{}] * 10**6, "prompt.before_video has 1,000,000 items, at most"),
    "role of code": ("graphs.0.role", "exec", 'graphs[0].role is "exec"'),
    "null": ("graphs", None, "graphs is null, expected a list"),
    "newer schema": ("schema", "stc.bundle/2", 'has schema "stc.bundle/2", this version reads "stc.bundle/1"'),
}
#: Values that only matter to those who open the bundle.
_CONTRADICTIONS = {
    "token outside the vocabulary": ("prompt.before_video.0.token", 2**40, "a token outside the vocabulary of 512"),
    "table of another shape": (
        "tables.0.shape",
        [2**31, 2**31],
        'the table "embed" is float32 [2147483648, 2147483648]',
    ),
    "table of negative size": ("tables.0.shape", [-512, 48], 'the table "embed" is float32 [-512, 48]'),
    "input of another shape": ("graphs.0.inputs.0.shape", [2**62], '"graphs/cacher_gate.onnx" declares the input'),
    "input of another type": ("graphs.0.inputs.0.dtype", "float16", '"graphs/cacher_gate.onnx" declares the input'),
    "input of another name": ("graphs.0.inputs.0.name", "x", '"graphs/cacher_gate.onnx" declares the input'),
    "negative size": ("files.0.size_bytes", -1, "is not the file of -1 bytes"),
    "size of 2^62": ("files.0.size_bytes", 2**62, "is not the file of 4,611,686,018,427,387,904 bytes"),
}
_TEXTS: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "is not JSON"),
    "cut off": (b'{"schema": "stc.bundle/1", ', "is not JSON"),
    "list": (b"[]", "is not a bundle"),
    "not UTF-8": (b'{"schema": "\xff"}', "cannot be read"),
    "byte order mark": (b'\xef\xbb\xbf{"schema": "stc.bundle/1"}', "is not JSON"),
    "UTF-16": ('{"schema": "stc.bundle/1"}'.encode("utf-16"), "cannot be read"),
    "100,000 levels": (b'{"schema": ' + b"[" * 100_000, "is not JSON"),
    "100,000 levels, closed": (b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "is not JSON"),
    "number of 100,000 digits": (b'{"schema": ' + b"9" * 100_000 + b"}", "is not JSON"),
    "key twice": (b'{"schema": "stc.bundle/1", "writer": "a", "writer": "b"}', 'key "writer" appears twice'),
}


def _twice(key: str) -> Any:
    return lambda root: edit_manifest(root, lambda data: data[key].append(data[key][0]))


def _fine_grid(data: Any) -> None:
    data["dims"]["vision"].update(image_size=2**24, patch_size=1)
    data["preprocess"]["size"] = 2**24


def _wide_heads(data: Any) -> None:
    data["dims"]["text"].update(heads=2**24, kv_heads=2**24, head_dim=2**24)


def _input_twice(data: Any) -> None:
    data["graphs"][0]["inputs"].append(data["graphs"][0]["inputs"][0])


def _loop(file: Path) -> None:
    file.symlink_to(file.name)


def _link(to: str) -> Any:
    return lambda file: file.symlink_to(to)


def _linked_folder(root: Path) -> None:
    (root / "graphs").rename(root.parent / "elsewhere")
    (root / "graphs").symlink_to(root.parent / "elsewhere")


_NO_FILES = {
    "pipe": os.mkfifo,
    "folder": Path.mkdir,
    "link to a file": _link("../../secret.bin"),
    "link to a device": _link("/dev/zero"),
    "link to nothing": _link("nowhere"),
    "link to itself": _loop,
}
_LINKED = ("link to a file", "link to a device", "link to nothing", "link to itself")

MANIFESTS = (
    *(
        Attack(f"manifest lists a path: {name}", manifest("files.0.path", path), "which is not a plain path inside")
        for name, path in _PATHS.items()
    ),
    *(
        Attack(
            f"manifest names a {field} outside", manifest(place, "../secret.bin"), 'uses "../secret.bin" but does not'
        )
        for field, place in _FIELDS.items()
    ),
    Attack(
        "graph by the name of another format",
        manifest("graphs.0.file", "tokenizer.json"),
        'has the graph "tokenizer.json", expected a file that ends in .onnx',
    ),
    *(Attack(f"manifest: {name}", manifest(place, value), said) for name, (place, value, said) in _VALUES.items()),
    *(
        Attack(f"manifest: {name}", manifest(place, value), said, USERS)
        for name, (place, value, said) in _CONTRADICTIONS.items()
    ),
    Attack(
        "manifest: 2^48 patches",
        lambda root: edit_manifest(root, _fine_grid),
        f"has T = {2**48}, which is not possible",
    ),
    Attack(
        "manifest: heads of 2^48",
        lambda root: edit_manifest(root, _wide_heads),
        f"has dims.text.heads x dims.text.head_dim = {2**48}, which is not possible",
    ),
    Attack(
        "manifest: history entries of 2^62",
        manifest("pruners.0.history_width", 2**62),
        f"entries of {2**62} numbers",
        USERS,
    ),
    Attack("manifest: file twice", _twice("files"), "lists a file twice"),
    Attack("manifest: graph twice", _twice("graphs"), 'it has the graph "cacher_gate/default" more than once', USERS),
    Attack("manifest: table twice", _twice("tables"), 'it has the table "embed" more than once', USERS),
    Attack(
        "manifest: input twice",
        lambda root: edit_manifest(root, _input_twice),
        'it has in "graphs/cacher_gate.onnx" the input',
        USERS,
    ),
    Attack("manifest: key more", lambda root: edit_manifest(root, lambda d: put(d, "exec", "x")), 'unknown key "exec"'),
    *(Attack(f"manifest is {name}", writing(_MANIFEST, text), said) for name, (text, said) in _TEXTS.items()),
    Attack(
        "manifest of 1 TB",
        lambda root: os.truncate(root / _MANIFEST, 10**12),
        "it is larger than any of its kind",
    ),
    *(
        Attack(
            f"manifest is a {name}",
            instead(_MANIFEST, make),
            "is a link" if name in _LINKED else "it is not a plain file",
        )
        for name, make in _NO_FILES.items()
    ),
    *(
        Attack(
            f"weights are a {name}",
            instead(_WEIGHTS, make),
            f'"{_WEIGHTS}" in "' if name != "none" else "",
            USERS,
        )
        for name, make in _NO_FILES.items()
    ),
    *(
        Attack(f"weights are a {name}, inspected", instead(_WEIGHTS, make), f"altered {_WEIGHTS}: ", ("inspect",), 1)
        for name, make in _NO_FILES.items()
    ),
    Attack("folder of graphs is a link", _linked_folder, "is a link. fix: Copy the bundle with links resolved", USERS),
    Attack("folder of graphs is a link, inspected", _linked_folder, "altered graphs/", ("inspect",), 1),
    Attack("weights are cut off", lambda root: os.truncate(root / _WEIGHTS, 100), f'"{_WEIGHTS}" in "', USERS),
    Attack("weights are empty", lambda root: os.truncate(root / _WEIGHTS, 0), f'"{_WEIGHTS}" in "', USERS),
    Attack("weights of 1 TB", lambda root: os.truncate(root / _WEIGHTS, 10**12), f'"{_WEIGHTS}" in "', USERS),
    Attack(
        "weights of 1 TB, inspected",
        lambda root: os.truncate(root / _WEIGHTS, 10**12),
        "1000000000000 bytes, expected",
        ("inspect",),
        1,
    ),
    Attack(
        "tokenizer is missing", lambda root: (root / "tokenizer.json").unlink(), '"tokenizer.json" is missing', USERS
    ),
    Attack(
        "one digit of the policy changed",
        lambda root: _changed(root, b'"alpha": 0.5', b'"alpha": 0.7'),
        "was altered",
        ALL,
    ),
)


def _changed(root: Path, old: bytes, new: bytes) -> None:
    data = (root / _MANIFEST).read_bytes()
    assert data.count(old) == 1
    (root / _MANIFEST).write_bytes(data.replace(old, new))
