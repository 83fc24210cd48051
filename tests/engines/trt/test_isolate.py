"""A compiler in a child process: whatever happens to the child, the parent says what it was."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from stc_engines.profiles import profiles_of
from stc_engines.trt.builder import Recipe
from stc_engines.trt.isolate import build_isolated
from stc_engines.trt.worker import Job
from stc_export.spec.errors import EngineError, MissingDependencyError, ResourceError, StcError
from stc_export.spec.manifest import read_manifest


def ignored(_text: str) -> None:
    pass


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job("trt-rtx", Recipe("graphs/vit.onnx", ()), str(tmp_path / "vit.plan"))


def failure(job: Job, script: str) -> StcError:
    with pytest.raises(StcError) as caught:
        build_isolated(job, lambda *_: None, ignored, (sys.executable, "-c", script))
    assert not Path(job.plan).exists()
    return caught.value


def test_graph_becomes_a_plan_in_another_process(tiny_bundle: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX has packages for x86-64 only")
    manifest = read_manifest(tiny_bundle)
    graph = manifest.graph("pruner", "stc_dual_anchor")
    recipe = Recipe(str(tiny_bundle / graph.file), profiles_of(graph, manifest))
    steps: list[tuple[str, int, int]] = []
    build_isolated(Job("trt-rtx", recipe, str(tmp_path / "pruner.plan")), lambda *step: steps.append(step), ignored)
    assert (tmp_path / "pruner.plan").stat().st_size > 1000
    assert steps
    assert all(1 <= done <= total for _, done, total in steps)


def test_refusal_crosses_the_border_whole(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX has packages for x86-64 only")
    (tmp_path / "broken.onnx").write_bytes(b"nonsense")
    job = Job("trt-rtx", Recipe(str(tmp_path / "broken.onnx"), ()), str(tmp_path / "broken.plan"))
    with pytest.raises(EngineError, match=r'refuses "broken\.onnx"'):
        build_isolated(job, lambda *_: None, ignored)
    assert [path.name for path in tmp_path.iterdir()] == ["broken.onnx"]


def test_missing_compiler_says_how_to_get_it(job: Job) -> None:
    script = (
        "import sys; sys.modules['tensorrt_rtx'] = None; from stc_engines.trt import worker; "
        "job = worker.codec.from_json(worker.Job, sys.stdin.read()); sys.exit(worker.work(job, sys.stdout))"
    )
    error = failure(job, script)
    assert isinstance(error, MissingDependencyError)
    assert error.fix == 'Run pip install "stc-export[rtx]".'


def test_child_that_is_killed_is_a_lack_of_memory(job: Job) -> None:
    error = failure(job, "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    assert isinstance(error, ResourceError)
    assert error.exit_code == 4
    assert '"vit.onnx" was killed' in error.problem
    assert "MiB" in error.problem


def test_child_that_crashes_says_its_last_words(job: Job) -> None:
    error = failure(
        job,
        "import os, signal, sys; sys.stdin.read(); sys.stderr.write('one\\ntwo\\nthree\\n'); sys.stderr.flush(); "
        "os.kill(os.getpid(), signal.SIGSEGV)",
    )
    assert isinstance(error, EngineError)
    assert "crashed with SIGSEGV (two three)" in error.problem


def test_child_that_dies_before_it_reads_is_reported(job: Job) -> None:
    huge = Job(job.product, Recipe("x" * 1_000_000, ()), job.plan)
    assert "ended with exit code 7 (without a word)" in failure(huge, "import os; os._exit(7)").problem


def test_child_that_ends_well_without_a_plan_is_an_error(job: Job) -> None:
    assert "without a plan" in failure(job, "import sys; sys.stdin.read()").problem


def test_lines_of_others_between_the_messages_are_ignored(job: Job) -> None:
    script = (
        "import json, sys; job = json.load(sys.stdin); print('[W] a library talks'); print('[1, 2]'); "
        "print(json.dumps({'phase': 'tactics', 'step': [1, 2]})); open(job['plan'], 'wb').write(b'plan')"
    )
    steps: list[tuple[str, int, int]] = []
    build_isolated(job, lambda *step: steps.append(step), ignored, (sys.executable, "-c", script))
    assert steps == [("tactics", 1, 2)]


def test_much_noise_on_stderr_does_not_block(job: Job) -> None:
    script = "import sys; sys.stdin.read(); sys.stderr.write('x' * 10_000_000); sys.exit(3)"
    assert "exit code 3" in failure(job, script).problem


def test_interrupt_ends_the_child(job: Job, tmp_path: Path) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    alive = tmp_path / "alive"
    script = (
        "import json, sys, time; sys.stdin.read(); print(json.dumps({'phase': 'a', 'step': [1, 2]}), flush=True); "
        f"time.sleep(20); open({str(alive)!r}, 'w')"
    )
    with pytest.raises(KeyboardInterrupt):
        build_isolated(job, interrupt, ignored, (sys.executable, "-c", script))
    assert not alive.exists()
