"""Attacks with checkpoints, through ``build --dry-run``, which reads everything but the weights."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.hostile.attack import Attack, edit_json, instead, setting, writing

_WEIGHTS, _INDEX, _CONFIG = "model.safetensors", "model.safetensors.index.json", "config.json"
_PROCESSOR = "video_preprocessor_config.json"
_SHARDS = {
    "up": "../secret.bin",
    "absolute": "/etc/hostname",
    "in a folder": "a/b.safetensors",
    "folder": "./",
    "300 characters": "x" * 300,
}
_MISSING = {"empty": "", "NUL": "a\0b", "two dots": "..", "dot": "nowhere.safetensors", "half a surrogate": "\ud800"}


def _index(names: Any) -> Callable[[Path], None]:
    def act(root: Path) -> None:
        (root / _WEIGHTS).rename(root / "model-1.safetensors")
        (root / _INDEX).write_text(json.dumps({"weight_map": names}), encoding="utf-8")

    return act


def _pickle(root: Path) -> None:
    """Weights that would write a file when they are unpickled."""
    (root / _WEIGHTS).unlink()
    code = f"open({str(root.parent / 'pwned')!r}, 'w')"
    (root / "pytorch_model.bin").write_bytes(b"cbuiltins\neval\n(V" + code.encode() + b"\ntR.")


def _indexed_pickle(root: Path) -> None:
    _pickle(root)
    (root / _INDEX).write_text(json.dumps({"weight_map": {"a": "pytorch_model.bin"}}), encoding="utf-8")


def _header(header: bytes, data: bytes = b"", said_length: int | None = None) -> Callable[[Path], None]:
    length = len(header) if said_length is None else said_length
    return writing(_WEIGHTS, struct.pack("<Q", length) + header + data)


def _tensor(**values: Any) -> bytes:
    return json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | values}).encode()


def _two(first: list[int], second: list[int]) -> bytes:
    rows = {
        name: {"dtype": "F32", "shape": [2], "data_offsets": offsets} for name, offsets in (("a", first), ("b", second))
    }
    return json.dumps(rows).encode()


_SAFETENSORS: dict[str, tuple[Callable[[Path], object], str]] = {
    "nothing": (writing(_WEIGHTS, b""), "is not a readable safetensors file"),
    "seven bytes": (writing(_WEIGHTS, b"\0" * 7), "is not a readable safetensors file"),
    "header longer than the file": (_header(b"{}", said_length=10**6), "is not a readable safetensors file"),
    "header of 2^63": (_header(b"{}", said_length=2**63), "is not a readable safetensors file"),
    "header that is no JSON": (_header(b"\xff\xfe{}"), "is not a readable safetensors file"),
    "header of 100,000 levels": (_header(b'{"a": ' + b"[" * 100_000), "is not a readable safetensors file"),
    "header that is a list": (_header(b"[]"), "is not a readable safetensors file"),
    "offsets behind the end": (_header(_tensor(data_offsets=[0, 8])), "is not a readable safetensors file"),
    "offsets backwards": (_header(_tensor(data_offsets=[8, 0]), bytes(8)), "is not a readable safetensors file"),
    "negative offsets": (_header(_tensor(data_offsets=[-8, 0]), bytes(8)), "is not a readable safetensors file"),
    "offsets of 2^63": (_header(_tensor(data_offsets=[0, 2**63]), bytes(8)), "is not a readable safetensors file"),
    "overlap": (_header(_two([0, 8], [4, 12]), bytes(12)), "is not a readable safetensors file"),
    "hole": (_header(_two([0, 8], [16, 24]), bytes(24)), "is not a readable safetensors file"),
    "more bytes behind": (_header(_tensor(), bytes(100)), "is not a readable safetensors file"),
    "shape that does not match": (_header(_tensor(shape=[3]), bytes(8)), "is not a readable safetensors file"),
    "negative shape": (_header(_tensor(shape=[-2]), bytes(8)), "is not a readable safetensors file"),
    "shape of 2^124": (_header(_tensor(shape=[2**62, 2**62]), bytes(8)), "is not a readable safetensors file"),
    "unknown type": (_header(_tensor(dtype="PICKLE"), bytes(8)), "is not a readable safetensors file"),
    "float64": (_header(_tensor(dtype="F64", shape=[1]), bytes(8)), "has dtype F64; F32, F16, BF16 can be exported"),
    "without any tensor": (_header(b"{}"), 'lack "'),
    "another tensor": (_header(_tensor(), bytes(8)), 'lack "'),
    "pipe": (instead(_WEIGHTS, os.mkfifo), "has no model.safetensors"),
    "folder": (instead(_WEIGHTS, Path.mkdir), "has no model.safetensors"),
    "link to a device": (instead(_WEIGHTS, lambda file: file.symlink_to("/dev/zero")), "has no model.safetensors"),
    "link to itself": (instead(_WEIGHTS, lambda file: file.symlink_to(file.name)), "has no model.safetensors"),
    "link to a text": (instead(_WEIGHTS, lambda file: file.symlink_to("config.json")), "is not a readable safetensors"),
    "cut off": (lambda root: os.truncate(root / _WEIGHTS, 100_000), "is not a readable safetensors file"),
}
_CONFIGS: dict[str, tuple[Callable[[Path], object], str]] = {
    "16 million layers": (setting(_CONFIG, text_config__num_hidden_layers=2**24), "from 1 to 1,024"),
    "16 million layers of the ViT": (setting(_CONFIG, vision_config__num_hidden_layers=2**24), "from 1 to 1,024"),
    "width of 2^62": (setting(_CONFIG, text_config__hidden_size=2**62), f"hidden_size = {2**62}, expected a whole"),
    "negative width": (setting(_CONFIG, text_config__hidden_size=-1), "hidden_size = -1, expected a whole number"),
    "fraction": (setting(_CONFIG, text_config__hidden_size=48.0), "hidden_size = 48.0, expected a whole number"),
    "true": (setting(_CONFIG, text_config__hidden_size=True), "hidden_size = True, expected a whole number"),
    "text": (setting(_CONFIG, text_config__hidden_size="x" * 10**6), "hidden_size = 'xxx"),
    "NaN": (setting(_CONFIG, text_config__rms_norm_eps=float("nan")), "rms_norm_eps = nan, expected a number above 0"),
    "infinity": (setting(_CONFIG, text_config__rms_norm_eps=float("inf")), "rms_norm_eps = inf, expected a number"),
    "picture of 16 million pixels": (setting(_CONFIG, vision_config__image_size=2**24), "ViT tokens per frame; 9 to"),
    "list in place of an object": (setting(_CONFIG, text_config=[]), 'lacks "text_config"'),
    "another architecture": (setting(_CONFIG, architectures=["os.system"]), "is a os.system, which cannot be split"),
    "architecture of a million letters": (setting(_CONFIG, architectures=["x" * 10**6]), "which cannot be split yet"),
    "object as activation": (setting(_CONFIG, text_config__hidden_act={"a": []}), "hidden_act = {'a': []}"),
    "layer in the far": (setting(_CONFIG, vision_feature_layer=-(10**30)), "vision_feature_layer = -1000000"),
    "nothing": (writing(_CONFIG, b""), "cannot be read as JSON"),
    "list": (writing(_CONFIG, b"[]"), "is not a JSON object"),
    "not UTF-8": (writing(_CONFIG, b'{"a": "\xff"}'), "cannot be read as JSON"),
    "byte order mark": (writing(_CONFIG, b"\xef\xbb\xbf{}"), "cannot be read as JSON"),
    "100,000 levels": (writing(_CONFIG, b'{"a": ' + b"[" * 100_000), "cannot be read as JSON"),
    "number of 100,000 digits": (writing(_CONFIG, b'{"a": ' + b"9" * 100_000 + b"}"), "cannot be read as JSON"),
    "1 TB": (lambda root: os.truncate(root / _CONFIG, 10**12), "it is larger than any of its kind"),
    "pipe": (instead(_CONFIG, os.mkfifo), "it is not a plain file"),
    "link to a device": (instead(_CONFIG, lambda file: file.symlink_to("/dev/zero")), "it is not a plain file"),
}
_TEMPLATES: dict[str, tuple[str, str]] = {
    "loops": (
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "it did not come to an end within 2 seconds and 1024 MiB",
    ),
    "fills the memory": ("{{ 'a' * 10 ** 10 }}", "MemoryError"),
    "writes without end": ("<video>{% for i in range(99999) %}0123456789{% endfor %}", "more than 262144 characters"),
    "calls itself": ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "recursion"),
    "reaches for classes": ("{{ messages.__class__.__mro__[1].__subclasses__() }}", "unsafe"),
    "reaches for globals": ("{{ raise_exception.__globals__['sys'] }}", "unsafe"),
    "reads a file": ("{% include '/etc/hostname' %}", "no loader"),
    "is too long": ("x" * 300_000, "has 300000 characters"),
}
_TOKENIZERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "nothing": (writing("tokenizer.json", b""), '"tokenizer.json" of checkpoint'),
    "no tokenizer": (writing("tokenizer.json", b"{}"), '"tokenizer.json" of checkpoint'),
    "100,000 levels": (writing("tokenizer.json", b"[" * 100_000), '"tokenizer.json" of checkpoint'),
    "another type": (writing("tokenizer.json", b'{"model": {"type": "Exec"}}'), '"tokenizer.json" of checkpoint'),
    "1 TB": (lambda root: os.truncate(root / "tokenizer.json", 10**12), "it is larger than any of its kind"),
    "pipe": (instead("tokenizer.json", os.mkfifo), "has neither tokenizer.json nor vocab.json"),
}
_PROCESSORS: dict[str, tuple[Callable[[Path], object], str]] = {
    "size of 2^62": (setting(_PROCESSOR, size={"height": 2**62, "width": 2**62}), "has size = {'height': 46116860"),
    "size of 1e308": (setting(_PROCESSOR, size={"height": 1e308, "width": 1e308}), "has size = {'height': 1e+308"),
    "size as text": (setting(_PROCESSOR, size="x" * 10**6), "has size = 'xxx"),
    "mean that is NaN": (setting(_PROCESSOR, image_mean=[float("nan")] * 3), "image_mean = [nan, nan, nan]"),
    "deviation of zero": (setting(_PROCESSOR, image_std=[0, 0, 0]), "image_std = [0, 0, 0], expected three numbers"),
    "million means": (setting(_PROCESSOR, image_mean=[0.5] * 10**6), "expected three numbers"),
    "unknown filter": (setting(_PROCESSOR, resample=99), "asks for resample = 99"),
    "filter as a list": (setting(_PROCESSOR, resample=[3]), "asks for resample = [3]"),
    "infinite factor": (setting(_PROCESSOR, rescale_factor=float("inf")), "has rescale_factor = inf"),
    "100,000 levels": (writing(_PROCESSOR, b"[" * 100_000), "cannot be read as JSON"),
}


def _code(root: Path) -> None:
    """Code that the config asks to be run."""
    (root / "evil.py").write_text(f"open({str(root.parent / 'pwned')!r}, 'w')", encoding="utf-8")
    edit_json(root / _CONFIG, lambda data: data.update(auto_map={"AutoModel": "evil.Model", "AutoConfig": "evil.C"}))
    edit_json(
        root / "tokenizer_config.json", lambda data: data.update(auto_map={"AutoTokenizer": ["evil.T", "evil.T"]})
    )


_BUILD = ("build",)
CHECKPOINTS = (
    *(
        Attack(f"index names a shard: {name}", _index({"a": shard}), "which is not a plain file name", _BUILD)
        for name, shard in _SHARDS.items()
    ),
    *(
        Attack(f"index names no shard: {name}", _index({"a": shard}), "The shard ", _BUILD)
        for name, shard in _MISSING.items()
    ),
    Attack("index: a list", _index([1]), 'has no "weight_map" of file names', _BUILD),
    Attack("index: numbers", _index({"a": 1}), 'has no "weight_map" of file names', _BUILD),
    Attack("index: 300,000 names", _index({str(i): f"{i}" for i in range(300_000)}), "The shard ", _BUILD),
    Attack("weights are a pickle", _pickle, "which is a pickle and is never loaded", _BUILD),
    Attack("index names a pickle", _indexed_pickle, "is not a readable safetensors file", _BUILD),
    *(Attack(f"safetensors: {name}", act, said, _BUILD) for name, (act, said) in _SAFETENSORS.items()),
    *(Attack(f"config: {name}", act, said, _BUILD) for name, (act, said) in _CONFIGS.items()),
    *(
        Attack(f"template {name}", writing("chat_template.jinja", text), said, _BUILD)
        for name, (text, said) in _TEMPLATES.items()
    ),
    *(Attack(f"tokenizer of a checkpoint: {name}", act, said, _BUILD) for name, (act, said) in _TOKENIZERS.items()),
    *(Attack(f"processor: {name}", act, said, _BUILD) for name, (act, said) in _PROCESSORS.items()),
    Attack(
        "end of an answer that is no token", setting("generation_config.json", eos_token_id=-1), "eos_token_id", _BUILD
    ),
    Attack("code is not run", _code, "one session", _BUILD, 0),
)
