"""Sealing: all engines of a bundle appear together, checked, or none does. The compiler is one that copies graphs."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from stc_engines import seal as module
from stc_engines.fingerprint import fingerprint_of
from stc_engines.seal import Limits, NotChecked, Order, limits_of, seal
from stc_engines.table import find_target
from stc_engines.trt.worker import Job
from stc_export.spec.engines import FOLDER, find_engines, read_record
from stc_export.spec.errors import BundleError, EngineError, ParityError, ResourceError, StcError
from stc_export.spec.manifest import GraphEntry, read_manifest
from stc_export.spec.progress import Silent
from stc_runtime.backends.base import Arrays, Engine
from stc_runtime.backends.ort import OrtBackend
from stc_runtime.backends.store import HostMemory

WHY = NotChecked("There is nothing to run them on.")


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_bundle, tmp_path / "tiny.stc"))


def order(bundle: Path, version: str = "1.0") -> Order:
    manifest = read_manifest(bundle)
    fingerprint = fingerprint_of(manifest, "trt-rtx", version, None, None)
    return Order(bundle, manifest, find_target("rtx"), "trt-rtx", fingerprint, "test")


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """Replace the compiler by one whose plan is the path of the graph."""
    jobs: list[Job] = []

    def build(job: Job, notify: Callable[[str, int, int], None], _note: Any) -> None:
        notify("tactics", 1, 2)
        Path(job.plan).write_text(job.recipe.graph)
        jobs.append(job)

    monkeypatch.setattr(module, "build_isolated", build)
    monkeypatch.setattr(module, "_TIMED", 3)
    return jobs


class PlanBackend(HostMemory):
    """Runs plans of that compiler, with outputs that may be changed."""

    def __init__(
        self, folder: Path, change: Callable[[dict[str, Any]], dict[str, Any]] = lambda outputs: outputs
    ) -> None:
        self._folder, self._change = folder, change

    def open(self, root: Path, graph: GraphEntry) -> Engine:
        assert (self._folder / f"{Path(graph.file).stem}.plan").read_text() == str(root / graph.file)
        engine, change = OrtBackend().open(root, graph), self._change

        class Changed:
            def run(self, feeds: Arrays, into: Arrays) -> dict[str, Any]:
                return change(engine.run(feeds, into))

        return Changed()


def files(bundle: Path) -> set[str]:
    return {path.relative_to(bundle).as_posix() for path in bundle.rglob("*")}


def test_every_graph_gets_an_engine_that_is_checked_and_timed(bundle: Path, compiled: list[Job]) -> None:
    before = files(bundle)
    wanted = order(bundle)
    record = seal(wanted, PlanBackend, Silent())
    folder = find_engines(bundle, wanted.fingerprint)
    assert read_record(folder) == record
    graphs = [graph.file for graph in wanted.manifest.graphs]
    assert (
        [entry.graph for entry in record.engines]
        == [job.recipe.graph[len(str(bundle)) + 1 :] for job in compiled]
        == graphs
    )
    assert {row.graph for row in record.parity} == set(graphs)
    assert all(row.passed for row in record.parity)
    assert [(row.graph, row.case) for row in record.timings] == [(row.graph, row.case) for row in record.parity]
    assert all(len(row.samples_ms) == 3 for row in record.timings)
    assert record.not_checked is None
    names = {f"engines/{folder.name}/{entry.file}" for entry in record.engines}
    assert files(bundle) - before == names | {"engines", f"engines/{folder.name}", f"engines/{folder.name}/seal.json"}


def test_engines_that_cannot_be_run_say_why(bundle: Path, compiled: list[Job]) -> None:
    record = seal(order(bundle), WHY, Silent())
    assert (record.parity, record.timings, record.not_checked) == ((), (), WHY.reason)


def test_profiles_are_named_in_the_order_in_which_they_were_built(bundle: Path, compiled: list[Job]) -> None:
    record = seal(order(bundle), WHY, Silent())
    for entry, job in zip(record.engines, compiled, strict=True):
        assert entry.profiles == tuple(profile.name for profile in job.recipe.profiles)
    assert {entry.profiles for entry in record.engines} == {
        (),
        ("full", "selective"),
        ("default",),
        ("prefill", "decode"),
    }


def test_engine_with_wrong_numbers_is_not_kept(bundle: Path, compiled: list[Job]) -> None:
    before = files(bundle)

    def wrong(outputs: dict[str, Any]) -> dict[str, Any]:
        return {n: v * 1.5 if n == "logits" else v for n, v in outputs.items()}

    with pytest.raises(ParityError, match=r"graphs/llm\.onnx \(prefill\) gives another logits: 5\.\d+e-01 of its"):
        seal(order(bundle), lambda folder: PlanBackend(folder, wrong), Silent())
    assert files(bundle) == before


def test_graph_that_ran_in_part_when_it_was_built_is_named(
    bundle: Path, compiled: list[Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    from stc_runtime.goldens import Goldens

    opened = Goldens.open(bundle)
    index = replace(
        opened.index,
        cases=tuple(case for case in opened.index.cases if "llm" not in case.graph),
        without=("graphs/llm.onnx",),
    )
    monkeypatch.setattr(Goldens, "open", classmethod(lambda cls, _root: cls(index, opened.data)))
    record = seal(order(bundle), PlanBackend, Silent())
    assert record.not_checked == "The build ran only a sample of the layers of graphs/llm.onnx."
    assert record.parity


@pytest.mark.parametrize(
    "error", [EngineError("It refuses.", "Report."), OSError(28, "No space left"), KeyboardInterrupt()]
)
def test_failure_on_the_way_leaves_nothing(
    bundle: Path, compiled: list[Job], monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    build, before = module.build_isolated, files(bundle)

    def failing(job: Job, notify: Any, note: Any) -> None:
        if len(compiled) == 2:
            raise error
        build(job, notify, note)

    monkeypatch.setattr(module, "build_isolated", failing)
    with pytest.raises((StcError, KeyboardInterrupt)) as caught:
        seal(order(bundle), WHY, Silent())
    if isinstance(error, OSError):
        assert isinstance(caught.value, ResourceError)
    assert files(bundle) == before


@pytest.mark.parametrize("place", ["elsewhere", "nowhere", "file.bin"])
def test_engines_are_never_written_through_a_link(bundle: Path, compiled: list[Job], place: str) -> None:
    (bundle.parent / "elsewhere").mkdir()
    (bundle.parent / "file.bin").write_bytes(b"")
    (bundle / FOLDER).symlink_to(bundle.parent / place)
    before = files(bundle.parent)
    with pytest.raises(BundleError, match="is a link or a file, expected a folder of the bundle"):
        seal(order(bundle), WHY, Silent())
    assert compiled == []
    assert files(bundle.parent) == before


def test_failure_leaves_older_engines_as_they_were(
    bundle: Path, compiled: list[Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    seal(order(bundle), WHY, Silent())
    seal(order(bundle, "2.0"), WHY, Silent())
    before = {path: path.read_bytes() for path in (bundle / FOLDER).rglob("*.*") if path.is_file()}

    def failing(_job: Job, _notify: Any, _note: Any) -> None:
        raise EngineError("It refuses.", "Report.")

    monkeypatch.setattr(module, "build_isolated", failing)
    with pytest.raises(EngineError):
        seal(order(bundle), WHY, Silent())
    assert {path: path.read_bytes() for path in (bundle / FOLDER).rglob("*.*") if path.is_file()} == before


def test_two_at_once_are_refused_and_the_first_goes_on(
    bundle: Path, compiled: list[Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    build = module.build_isolated
    refused: list[StcError] = []

    def meanwhile(job: Job, notify: Any, note: Any) -> None:
        if not refused:
            with pytest.raises(ResourceError, match="Another process is sealing") as caught:
                seal(order(bundle, "2.0"), WHY, Silent())
            refused.append(caught.value)
        build(job, notify, note)

    monkeypatch.setattr(module, "build_isolated", meanwhile)
    seal(order(bundle), WHY, Silent())
    assert len(refused) == 1
    assert len(list((bundle / FOLDER).iterdir())) == 1


def test_what_a_killed_one_left_behind_is_cleared(bundle: Path, compiled: list[Job]) -> None:
    wanted = order(bundle)
    dead = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True, check=True
    )
    left = bundle / FOLDER / f".{wanted.fingerprint.key}.partial-{dead.stdout.strip()}-abc"
    left.mkdir(parents=True)
    (left / "vit.plan").write_bytes(b"half")
    seal(wanted, WHY, Silent())
    assert [path.name for path in (bundle / FOLDER).iterdir()] == [wanted.fingerprint.key]


def test_unified_memory_limits_the_compiler_and_other_memory_does_not() -> None:
    nano = find_target("jetson-orin-nano-8gb")
    assert limits_of(nano) == Limits(6 * 2**30 // 4, 6 * 2**30 // 2)
    assert limits_of(find_target("h200")) == Limits()
    assert limits_of(find_target("rtx")) == Limits()


def test_limits_reach_the_compiler(bundle: Path, compiled: list[Job]) -> None:
    seal(replace(order(bundle), target=find_target("jetson-orin-nano-4gb")), WHY, Silent())
    limits = limits_of(find_target("jetson-orin-nano-4gb"))
    assert {(job.recipe.workspace_bytes, job.recipe.tactic_dram_bytes) for job in compiled} == {
        (limits.workspace_bytes, limits.tactic_dram_bytes)
    }


@pytest.mark.parametrize(
    ("product", "environment", "expected"),
    [
        ("trt", {"XDG_CACHE_HOME": "/c"}, r"/c/stc-export/timing/trt-1\.0-any-sm-any-[0-9a-f]{8}\.timing"),
        ("trt", {}, None),
        ("trt-rtx", {"XDG_CACHE_HOME": "/c"}, None),
    ],
)
def test_compiler_that_times_kernels_gets_a_cache(
    bundle: Path,
    compiled: list[Job],
    monkeypatch: pytest.MonkeyPatch,
    product: Any,
    environment: dict[str, str],
    expected: str | None,
) -> None:
    for name in ("XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    plain = order(bundle)
    seal(replace(plain, product=product, fingerprint=replace(plain.fingerprint, product=product)), WHY, Silent())
    (found,) = {job.timing for job in compiled}
    assert (found is None) is (expected is None)
    assert found is None or re.fullmatch(expected or "", found)


def test_what_every_build_notes_is_shown_once(
    bundle: Path, compiled: list[Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    build = module.build_isolated

    def noting(job: Job, notify: Any, note: Callable[[str], None]) -> None:
        note("the cache is not kept")
        note(Path(job.plan).name)
        build(job, notify, note)

    class Heard(Silent):
        notes: ClassVar[list[str]] = []

        def note(self, text: str) -> None:
            self.notes.append(text)

    monkeypatch.setattr(module, "build_isolated", noting)
    record = seal(order(bundle), WHY, Heard())
    assert Heard.notes == ["the cache is not kept", *(entry.file for entry in record.engines)]
