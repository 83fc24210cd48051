"""The page of a target says what its record says, and the command refuses to write one for another device."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from stc_engines.detect import Device, Gpu
from stc_engines.recognise import Machine
from stc_engines.runnable import Host
from stc_engines.table import find_target
from stc_export.pipeline.bench.series import Series
from stc_export.pipeline.types import BuildResult
from stc_export.spec import codec
from stc_export.spec.engines import SCHEMA, CaseTiming, EngineEntry, Fingerprint, SealRecord
from stc_export.spec.errors import StcError
from stc_export.spec.manifest import GraphParity, OutputParity, read_manifest
from stc_export.spec.progress import Silent

ROOT = Path(__file__).resolve().parents[2]
RECORDS = sorted((ROOT / "benchmarks" / "results").glob("target-*.json"))
LAPTOP = Machine(Device(), None, Host("1.31.1", ("CPUExecutionProvider",), None, frozenset({"trt-rtx"})))


@pytest.fixture(scope="module")
def script() -> Iterator[Any]:
    """The script as a module; its neighbour is imported from its own folder, as when it is started."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        yield importlib.import_module("evidence")
        for name in ("evidence", "evidence_page"):
            patch.delitem(sys.modules, name)


def recorded(script: Any, path: Path) -> Any:
    return codec.from_json(script.Evidence, path.read_text(encoding="utf-8"))


@pytest.fixture
def cpu(script: Any) -> Any:
    return recorded(script, ROOT / "benchmarks" / "results" / "target-cpu.json")


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_page_in_the_documentation_is_that_of_the_record(script: Any, path: Path) -> None:
    found = recorded(script, path)
    assert path.name == f"target-{found.target}.json"
    assert script.page(found) == (ROOT / "docs" / "targets" / f"{found.target}.md").read_text(encoding="utf-8")
    assert all(test.outcome != "failed" for test in found.tests)
    assert {test.name for test in found.tests}
    assert "/" not in found.bench.result.bundle


def test_every_page_of_a_target_has_a_record() -> None:
    pages = {path.stem for path in (ROOT / "docs" / "targets").glob("*.md")}
    assert pages == {path.stem.removeprefix("target-") for path in RECORDS}
    assert "cpu" in pages


def test_percentiles_are_those_counted_by_hand(script: Any) -> None:
    page = sys.modules["evidence_page"]
    assert page.percentiles(tuple(float(n) for n in range(1, 101))) == (50.5, 95.0)
    assert page.percentiles((3.0, 1.0, 2.0)) == (2.0, 3.0)
    assert page.percentiles((7.0,)) == (7.0, 7.0)
    assert page.percentiles(tuple(float(n) for n in range(20, 0, -1))) == (10.5, 19.0)


def sealed() -> SealRecord:
    """Engines of which one is nearer to its tolerance in the output with the smaller error."""
    found = Fingerprint("trt", "10.3.0", "Orin", "8.7", "36.4.3", ())
    rows = (
        OutputParity("features", 0.5, 1e-2, 0.999, tolerance=2e-2, passed=True),
        OutputParity("kept", 0.1, 9e-4, 1.0, tolerance=1e-3, passed=True),
    )
    return SealRecord(
        SCHEMA,
        "stc-export 0",
        found,
        (EngineEntry("graphs/vit.gate.onnx", "vit.gate.plan", ("full", "selective"), 1_230_000, "0" * 64, 12.34),),
        (GraphParity("graphs/vit.gate.onnx", "full", "goldens", "as built", rows),),
        (CaseTiming("graphs/vit.gate.onnx", "full", (1.0, 2.0, 30.0)),),
        None,
    )


def test_page_of_a_device_has_its_engines_with_sizes_times_and_parity(script: Any, cpu: Any) -> None:
    series = (Series("vit gate full", 1.0, 2, 1, (4.0, 5.0, 6.0)),)
    board = replace(
        cpu,
        target="jetson-orin-nano-8gb",
        gpu=Gpu("Orin", "8.7"),
        l4t="36.4.3",
        jetpack="6.2",
        sealed=sealed(),
        bench=replace(cpu.bench, series=series),
    )
    text = script.page(board)
    assert "| `graphs/vit.gate.onnx` | full, selective | 1.23 MB | 12.3 s |" in text
    assert "| `graphs/vit.gate.onnx` | full | 2 ms | 30 ms | 3 |" in text
    assert "| `graphs/vit.gate.onnx` | full | 9.0e-04 | 1e-03 | ok |" in text
    assert "| vit gate full | 5 ms | 6 ms | 3 |" in text
    assert "| Jetson Linux | 36.4.3 (JetPack 6.2) |" in text
    assert "| GPU | Orin, SM 8.7 |" in text
    assert "| compiler | trt 10.3.0 |" in text
    assert "Engines: the target has none." not in text


def test_tests_that_were_skipped_are_said_not_to_have_run(script: Any, cpu: Any) -> None:
    made = sys.modules["evidence_page"].DeviceTest
    tests = (
        made("a", "passed"),
        made("b", "skipped", "gpu", "No GPU."),
        made("c", "skipped", "gpu", "No GPU."),
        made("d", "failed", "trt"),
    )
    text = script.page(replace(cpu, tests=tests))
    assert "1 passed, 1 failed, 2 skipped" in text
    assert "- 2 of the tests above: No GPU." in text
    assert "| `d` | trt | failed |" in text
    assert "- Engines: the target has none." in text


def test_report_of_pytest_is_read(script: Any) -> None:
    text = """<testsuites><testsuite>
      <testcase classname="tests.device.test_gpu" name="test_a[cpu]" time="1" />
      <testcase classname="tests.device.test_gpu" name="test_a[cuda]">
        <properties><property name="other" value="x" /><property name="needs" value="gpu" /></properties>
        <skipped message="No&#10; GPU." />
      </testcase>
      <testcase classname="tests.device.test_trt" name="test_b"><failure message="assert 1">x</failure></testcase>
      <testcase classname="tests.device.test_trt" name="test_c"><error message="broken">x</error></testcase>
    </testsuite></testsuites>"""
    assert [(test.name, test.outcome, test.needs, test.reason) for test in script.read_report(text)] == [
        ("test_gpu::test_a[cpu]", "passed", None, None),
        ("test_gpu::test_a[cuda]", "skipped", "gpu", "No GPU."),
        ("test_trt::test_b", "failed", None, "assert 1"),
        ("test_trt::test_c", "failed", None, "broken"),
    ]


@pytest.mark.parametrize(("load", "told"), [(None, False), (0.9, False), (1.0, True), (7.5, True)])
def test_load_of_others_is_told(script: Any, cpu: Any, load: float | None, told: bool) -> None:
    environment = replace(cpu.bench.environment, cores=2, load_before=load)
    text = script.page(replace(cpu, bench=replace(cpu.bench, environment=environment)))
    assert (f"busy with other work** (load {load} on 2 cores)" in text) is told


@pytest.mark.parametrize(
    ("name", "code", "problem"),
    [
        ("h200", 3, 'This machine (no known board, no NVIDIA GPU) is not "h200".'),
        ("cuda", 3, 'Target "cuda" needs CUDAExecutionProvider'),
        ("rtx", 3, 'Target "rtx" needs an NVIDIA GPU with its driver'),
        ("jetson", 3, 'is not "jetson-orin-nano-8gb".'),
        ("nope", 2, 'There is no target "nope".'),
    ],
)
def test_target_that_this_machine_is_not_is_refused(
    script: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    code: int,
    problem: str,
) -> None:
    monkeypatch.setattr(script, "read_machine", lambda: LAPTOP)
    assert script.main([name]) == code
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: ")
    assert problem in said.err
    assert "\nfix: " in said.err


def test_target_is_by_default_the_one_detected(script: Any) -> None:
    assert script.choose(None, LAPTOP).name == "cpu"
    with pytest.raises(StcError) as caught:
        script.choose(None, Machine(Device(), None, Host(None, (), None)))
    assert caught.value.exit_code == 3


@pytest.mark.parametrize(("outcome", "code"), [("passed", 0), ("failed", 1)])
def test_command_writes_record_and_page(
    script: Any, cpu: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_bundle: Path, outcome: Any, code: int
) -> None:
    """With the tests, the build and the measurement replaced, which take minutes and have tests of their own."""
    tests = (sys.modules["evidence_page"].DeviceTest("a", outcome),)
    built = BuildResult(tiny_bundle, read_manifest(tiny_bundle), ())
    monkeypatch.setattr(script, "read_machine", lambda: LAPTOP)
    monkeypatch.setattr(script, "run_tests", lambda: tests)
    monkeypatch.setattr(script, "run_build", lambda _request, _progress: built)
    monkeypatch.setattr(script, "measure", lambda _bundle, _progress: cpu.bench)
    places = script.Places(tmp_path / "results", tmp_path / "pages", tmp_path / "bundles")
    assert script.main(["cpu"], places) == code
    found = recorded(script, tmp_path / "results" / "target-cpu.json")
    assert (found.target, found.tests, found.sealed) == ("cpu", tests, None)
    assert found.parity == built.manifest.parity
    assert (tmp_path / "pages" / "cpu.md").read_text() == script.page(found)


def test_target_with_engines_is_sealed(script: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = []

    def seal(request: Any, _progress: Any) -> Any:
        asked.append(request)
        return SimpleNamespace(record=sealed())

    monkeypatch.setattr(script, "seal_bundle", seal)
    assert script.seal_here(find_target("h200"), tmp_path, Silent()) == sealed()
    assert [(request.bundle, request.overwrite) for request in asked] == [(tmp_path, True)]
    assert script.seal_here(find_target("cpu"), tmp_path, Silent()) is None
    assert len(asked) == 1


def test_measurement_names_the_bundle_without_its_folder(
    script: Any, monkeypatch: pytest.MonkeyPatch, tiny_bundle: Path
) -> None:
    quick = script.BenchRequest
    monkeypatch.setattr(script, "BenchRequest", lambda bundle, repeats, out: quick(bundle, None, 2, 1, None, out))
    record = script.measure(tiny_bundle, Silent())
    assert record.result.bundle == tiny_bundle.name
    assert all(series.samples_ms for series in record.series)


def test_tests_that_cannot_run_are_an_error(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script.subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=4))
    with pytest.raises(StcError, match="pytest ended with 4"):
        script.run_tests()
