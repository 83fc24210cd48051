"""What our builder touches of TensorRT, and whether a release has it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

#: Entry points of TensorRT's libraries that its Python bindings look up when they are imported.
_ENTRY_POINTS = (
    "createInferBuilder_INTERNAL",
    "createInferRefitter_INTERNAL",
    "createInferRuntime_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL",
    "createNvOnnxParser_INTERNAL",
    "getBuilderPluginRegistry",
    "getNvOnnxParserVersion",
    "getPluginRegistry",
    "initLibNvInferPlugins",
)
_LIBRARIES = ("nvinfer", "nvinfer_plugin", "nvonnxparser")
#: Owner of what the module itself has.
MODULE = "module"


class Touch(NamedTuple):
    """A name that was used: of which class, and with how many arguments it was called (-1: it was not)."""

    owner: str
    name: str
    arguments: int


class Recorded:
    """Stands for an object of TensorRT, and takes down what is used of it."""

    def __init__(self, target: Any, owner: str, package: str, touched: set[Touch]) -> None:
        for name, value in (("_target", target), ("_owner", owner), ("_package", package), ("_touched", touched)):
            object.__setattr__(self, name, value)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._target, name)
        self._touched.add(Touch(self._owner, name, -1))
        if isinstance(value, type):
            if name.startswith("I"):  # an interface to be implemented: a stand-in cannot be a base class
                return value
            if hasattr(value, "__members__"):
                return Recorded(value, name, self._package, self._touched)
        return self._called(name, value) if callable(value) else self._wrapped(value)

    def __setattr__(self, name: str, value: Any) -> None:
        self._touched.add(Touch(self._owner, name, -1))
        setattr(self._target, name, self._plain(value))

    def __bytes__(self) -> bytes:
        return bytes(self._target)

    def _called(self, name: str, value: Any) -> Any:
        def call(*arguments: Any) -> Any:
            self._touched.add(Touch(self._owner, name, len(arguments)))
            return self._wrapped(value(*map(self._plain, arguments)))

        return call

    def _wrapped(self, value: Any) -> Any:
        kind = type(value)
        ours = kind.__module__.startswith(self._package) and not hasattr(kind, "__members__")
        return Recorded(value, kind.__name__, self._package, self._touched) if ours else value

    def _plain(self, value: Any) -> Any:
        if isinstance(value, Recorded):
            return value._target
        base = type(value).__base__
        if base is not None and base.__module__.startswith(self._package):  # our own class on one of its interfaces
            self._touched.update(
                Touch(base.__name__, name, -1) for name in vars(type(value)) if not name.startswith("_")
            )
        return value


def unpack_bindings(version: str, folder: Path) -> None:
    """Download the Python bindings of a release, and make empty libraries that satisfy them.

    Raises:
        CalledProcessError: They cannot be downloaded, or there is no compiler.
    """
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    subprocess.run([*pip, "--dest", str(folder), f"tensorrt-cu12-bindings=={version}"], check=True, capture_output=True)
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        wheel.extractall(folder)
    source = folder / "empty.c"
    source.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in _ENTRY_POINTS))
    major = version.split(".", maxsplit=1)[0]
    for library in _LIBRARIES:
        name = f"lib{library}.so.{major}"
        command = ["cc", "-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", str(folder / name), str(source)]
        subprocess.run(command, check=True, capture_output=True)


_CHILD = textwrap.dedent(
    r"""
    import json, re, sys
    import tensorrt_bindings as trt

    def lacks(owner, name, arguments):
        holder = trt
        for part in [] if owner == "module" else owner.split("."):
            holder = getattr(holder, part, None)
        if not hasattr(holder, name):
            return True
        found = getattr(holder, name)
        text = (found.__init__ if isinstance(found, type) else found).__doc__ or ""
        own = 1 if owner != "module" or isinstance(found, type) else 0
        known = [re.sub(r"\[[^\[\]]*\]", "", line) for line in text.splitlines() if re.search(r"\w\(.*\) ->", line)]
        counts = [line.split("(", 1)[1].rsplit(") ->", 1)[0].count(": ") - own for line in known]
        return arguments >= 0 and bool(counts) and max(counts) < arguments

    print(json.dumps([touch for touch in json.load(sys.stdin) if lacks(*touch)]))
    """
)


def missing(folder: Path, touched: set[Touch]) -> list[Touch]:
    """Return what a release that was unpacked to ``folder`` does not have."""
    environment = {**os.environ, "LD_LIBRARY_PATH": str(folder), "PYTHONPATH": str(folder)}
    done = subprocess.run(
        [sys.executable, "-c", _CHILD],
        input=json.dumps(sorted(touched)),
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [Touch(*row) for row in json.loads(done.stdout)]
