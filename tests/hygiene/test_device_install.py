"""A device with Python, numpy and ONNX Runtime, and nothing else: a stream runs, and what is missing is named."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from tests.hygiene.sources import PACKAGES, ROOT

#: Refuses every package but the standard library and those named.
REFUSE = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top not in sys.stdlib_module_names and top not in {allowed!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Refuse())
"""
#: A stream in every named policy, then a question in text and a video file, which need more.
STREAM = """
import json, sys
import numpy as np
import stc_runtime
from stc_export.spec.errors import MissingDependencyError

def refused(action):
    try:
        action()
    except MissingDependencyError as error:
        return [error.problem, error.fix, error.exit_code]

model = stc_runtime.Model.open(sys.argv[1])
random, answers, modes = np.random.default_rng(0), [], []
for policy in stc_runtime.named_policies().values():
    with stc_runtime.StreamSession(model, policy) as stream:
        scene = random.integers(0, 256, (60, 80, 3), np.uint8)
        for second in range(4):
            scene[:10, second * 10 : second * 10 + 20] = 128
            modes.append(stream.push(scene, float(second)).mode)
        answers.append(list(stream.ask_tokens([1, 2, 3], max_tokens=4)))
        question = refused(lambda: next(stream.ask("What is there?")))
from stc_runtime.video import read_frames
video = refused(lambda: next(iter(read_frames(sys.argv[1] + "/manifest.json", fps=1.0))))
found = {name.partition(".")[0] for name in sys.modules}
print(json.dumps([answers, modes, question, video, sorted(found - set(sys.stdlib_module_names))]))
"""
OWN = set(PACKAGES)


def requirements(package: str) -> set[str]:
    """A package with all that it requires, extras aside."""
    found, todo = set(), [package]
    while todo:
        name = todo.pop()
        if name in found:
            continue
        found.add(name)
        lines = [line for line in metadata.requires(name) or [] if "extra ==" not in line]
        todo += [re.split(r"[^\w.-]", line)[0].lower().replace("_", "-") for line in lines]
    return found


def modules_of(distributions: set[str]) -> set[str]:
    """Top-level modules of distributions."""
    owners = metadata.packages_distributions()
    return {module for module, names in owners.items() if {n.lower().replace("_", "-") for n in names} & distributions}


def check(done: subprocess.CompletedProcess[str], allowed: set[str]) -> None:
    assert done.returncode == 0, done.stderr
    answers, modes, question, video, found = json.loads(done.stdout)
    assert len(answers) == 4
    assert all(0 <= token < 512 for answer in answers for token in answer)
    assert modes[8:] == ["full", "selective"] * 2 + ["full"] * 4  # paper, then off
    assert question[0] == 'Reading a question needs the package "tokenizers", which is not installed.'
    assert 'pip install "stc-export[text]"' in question[1]
    assert 'pip install "stc-export[video]"' in video[1]
    assert question[2] == video[2] == 3
    assert {"stc_runtime", "stc_export", "numpy", "onnxruntime"} <= set(found)
    internal = {name for name in found if name.startswith("_") or name == "cython_runtime"}
    assert set(found) - internal <= allowed | OWN


def test_with_numpy_and_onnxruntime_only_a_stream_runs_and_text_and_video_name_their_extras(tiny_bundle: Path) -> None:
    allowed = modules_of(requirements("onnxruntime") | {"numpy"})
    assert not allowed & {"torch", "transformers", "tokenizers", "av", "onnx", "typer", "rich"}
    code = REFUSE.format(allowed=allowed | OWN) + STREAM
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, str(tiny_bundle)], capture_output=True, text=True, check=False, timeout=120
    )
    check(done, allowed)


def test_the_refusal_refuses() -> None:
    code = REFUSE.format(allowed={"numpy"}) + "import numpy\nimport tokenizers"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=False)
    assert "No module named 'tokenizers'" in done.stderr


@pytest.mark.network
def test_wheel_in_a_fresh_environment_runs_a_stream(tiny_bundle: Path, tmp_path: Path) -> None:
    def run(*command: str) -> subprocess.CompletedProcess[str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        return subprocess.run(
            command, cwd=tmp_path, env=clean, capture_output=True, text=True, check=False, timeout=300
        )

    python = str(tmp_path / "venv" / "bin" / "python")
    for command in (
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        [sys.executable, "-m", "venv", str(tmp_path / "venv")],
    ):
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    done = run(python, "-m", "pip", "install", "-q", "-c", str(ROOT / "constraints.txt"), f"{wheel}[ort]")
    if done.returncode and re.search("No matching distribution|Connection|Temporary failure", done.stderr):
        pytest.skip(f"packages cannot be fetched: {done.stderr.splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    done = run(python, "-m", "pip", "list", "--format=json")
    installed = {package["name"].lower().replace("_", "-") for package in json.loads(done.stdout)}
    assert installed <= requirements("onnxruntime") | {"numpy", "stc-export", "pip", "setuptools"}
    check(run(python, "-c", STREAM, str(tiny_bundle)), modules_of(requirements("onnxruntime") | {"numpy"}))
