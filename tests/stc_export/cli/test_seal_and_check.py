"""The commands seal and check: what people and programs read, and exit codes."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from stc_engines.lint.finding import Finding
from stc_export.cli.check import result_text
from stc_export.cli.main import main
from stc_export.cli.seal import seal_text
from stc_export.pipeline.types import CheckedRelease, CheckResult, SealResult
from stc_export.spec.engines import SCHEMA, CaseTiming, EngineEntry, Fingerprint, SealRecord
from stc_export.spec.manifest import GraphParity, OutputParity

ENGINES = (
    EngineEntry("graphs/vit.onnx", "vit.plan", ("full", "selective"), 4_830_000, "0" * 64, 2.44),
    EngineEntry("graphs/gate.onnx", "gate.plan", (), 888_000, "0" * 64, 0.31),
)
PARITY = (
    GraphParity(
        "graphs/vit.onnx", "full", "goldens", "as built", (OutputParity("features", 1e-3, 2e-3, 0.99999, 2e-2, True),)
    ),
)
BOUND = Fingerprint("trt", "10.3.0", "Orin", "8.7", "36.4.3", ())
TIMES = (CaseTiming("graphs/vit.onnx", "full", (12.5, 12.0, 99.0)),)
RECORD = SealRecord(SCHEMA, "test", BOUND, ENGINES, PARITY, TIMES, None)
SEALED = SealResult(Path("a.stc"), "jetson-orin-nano-8gb", Path("a.stc/engines/abc"), RECORD, built=True)


def test_seal_text_has_sizes_times_parity_and_the_device() -> None:
    text = seal_text(SEALED)
    assert "graphs/vit.onnx   full, selective  4.83 MB     2.4 s" in text
    assert "graphs/gate.onnx  -                 888 kB     0.3 s" in text
    assert "graphs/vit.onnx  full  goldens  as built  features" in text
    assert "graphs/vit.onnx  full  12.5 ms" in text
    assert "target        jetson-orin-nano-8gb, trt 10.3.0\nGPU           Orin\nSM            8.7\n" in text
    assert "Not checked" not in text


def test_seal_text_says_why_nothing_was_checked_and_that_nothing_was_built() -> None:
    record = SealRecord(SCHEMA, "test", Fingerprint("trt-rtx", "1.7", None, None, None, ()), ENGINES, (), (), "No GPU.")
    text = seal_text(SealResult(Path("a.stc"), "rtx", Path("a.stc/engines/abc"), record, built=False))
    assert "engines  a.stc/engines/abc (there already)" in text
    assert text.endswith("Not checked: No GPU.")
    assert "GPU  " not in text


def test_seal_with_nvidias_compiler(tiny_bundle: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX has packages for x86-64 only")
    bundle = Path(shutil.copytree(tiny_bundle, tmp_path / "tiny.stc"))
    assert main(["seal", str(bundle), "--target", "rtx", "--json"]) == 0
    captured = capfd.readouterr()
    document = json.loads(captured.out)
    graphs = json.loads((bundle / "manifest.json").read_text())["graphs"]
    assert [row["graph"] for row in document["record"]["engines"]] == [graph["file"] for graph in graphs]
    assert all((Path(document["folder"]) / row["file"]).stat().st_size > 1000 for row in document["record"]["engines"])
    assert f"engine {len(graphs)}/{len(graphs)} llm/default: " in captured.err
    assert main(["seal", str(bundle), "--target", "rtx"]) == 0
    assert "(there already)" in capfd.readouterr().out
    assert main(["inspect", str(bundle)]) == 0
    assert "trt-rtx 1." in capfd.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["seal", "nothing.stc"], 2, "There is no bundle"),
        (["check", "nothing.stc"], 2, "There is no bundle"),
        (["seal"], 2, "Missing argument 'BUNDLE'"),
    ],
)
def test_wrong_use_is_told(arguments: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == code
    assert said in capsys.readouterr().err


def test_seal_of_a_bundle_for_the_cpu_is_wrong_use(tiny_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["seal", str(tiny_bundle)]) == 2
    assert "there is nothing to seal" in capsys.readouterr().err


# --- check -----------------------------------------------------------------------------------------------------------

OLD, NEW = "TensorRT 10.3 (JetPack 6.2)", "TensorRT 10.16 (JetPack 7.2)"


def slow(number: int, graph: str = "graphs/llm.onnx") -> CheckedRelease:
    finding = Finding(
        "slow", "attention", graph, f"softmax_{number}", "Softmax", f"layers.{number}", "It is slow.", "Wait."
    )
    return CheckedRelease(finding, (OLD, NEW))


ERROR = CheckedRelease(
    Finding("error", "operator", "graphs/vit.onnx", "a", "Swish", "", "It is new.", "Update."), (OLD,)
)


def result(*rows: CheckedRelease) -> CheckResult:
    ok = not any(row.finding.level == "error" for row in rows)
    return CheckResult(Path("a.stc"), "jetson-orin-nano-8gb", (OLD, NEW), 7, rows, ok)


def test_findings_that_differ_in_place_only_are_told_once() -> None:
    text = result_text(result(*(slow(number) for number in range(6)), slow(0, "graphs/vit.onnx")))
    assert text.count("It is slow.") == 2
    assert (
        "  at   layers.0 (softmax_0), layers.1 (softmax_1), layers.2 (softmax_2), layers.3 (softmax_3) and 2 more\n"
        in text
    )
    assert "  with " not in text
    assert text.endswith("No errors; 7 places are slower than they could be.")


def test_error_of_one_release_names_it() -> None:
    text = result_text(result(ERROR))
    assert "error (operator): graphs/vit.onnx: It is new.\n  at   a\n" in text
    assert f"  with {OLD}\n  fix  Update." in text
    assert text.endswith("1 errors: jetson-orin-nano-8gb cannot run this bundle.")


def test_nothing_found_is_said() -> None:
    assert result_text(result()).endswith("Nothing was found against running this bundle on jetson-orin-nano-8gb.")


@pytest.mark.parametrize(("rows", "code"), [((), 0), ((slow(1),), 0), ((slow(1), ERROR), 1)])
def test_only_an_error_fails(
    rows: tuple[CheckedRelease, ...], code: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    fake = SimpleNamespace(check_target=lambda _bundle, _target, _progress: result(*rows))
    monkeypatch.setitem(sys.modules, "stc_export.pipeline.check_target", fake)
    assert main(["check", "a.stc", "--target", "jetson", "--json"]) == code
    document = json.loads(capfd.readouterr().out)
    assert document["ok"] is (code == 0)
    assert len(document["findings"]) == len(rows)


def test_check_of_a_bundle_for_a_board(tiny_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(tiny_bundle), "--target", "jetson"]) == 0
    text = capsys.readouterr().out
    assert "slow (attention): graphs/vit.gate.onnx" in text
    assert f"checked for  {OLD}, {NEW}" in text
