from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from stc_export.cli.build import result_text
from stc_export.cli.main import main
from stc_export.pipeline.types import BuildRequest, SealResult
from stc_export.spec.engines import SCHEMA, EngineEntry, Fingerprint, SealRecord
from stc_export.spec.manifest import manifest_from_text
from stc_export.spec.policy import Policy, named_policies
from tests.stc_export.cli.results import BUILT

if TYPE_CHECKING:
    from tests.stc_export.cli.results import FakePipeline


def test_build_flags_become_the_request(pipeline: FakePipeline) -> None:
    flags = [
        "--target",
        "cuda",
        "--out",
        "x.stc",
        "--precision",
        "fp16",
        "--policy",
        "paper",
        "--overwrite",
        "--flavour",
        "modern",
    ]
    assert main(["build", "some/model", *flags]) == 0
    assert pipeline.requests == [
        BuildRequest("some/model", "cuda", Path("x.stc"), "fp16", named_policies()["paper"], True, "modern")
    ]


def test_build_without_flags_is_for_the_cpu_with_the_default_policy(pipeline: FakePipeline) -> None:
    assert main(["build", "demo"]) == 0
    assert pipeline.requests == [BuildRequest("demo", "cpu", policy=Policy())]


def test_build_rounding_and_kept_layers_become_the_request(pipeline: FakePipeline) -> None:
    flags = ["--precision", "int4", "--rounding", "awq", "--keep-precision", "llm.layers.0.*, llm.layers.3.down"]
    assert main(["build", "demo", *flags]) == 0
    assert pipeline.requests == [
        BuildRequest(
            "demo",
            "cpu",
            precision="int4",
            policy=Policy(),
            rounding="awq",
            keep_precision=("llm.layers.0.*", "llm.layers.3.down"),
        )
    ]


def test_build_jetson_is_resolved_and_printed_first(pipeline: FakePipeline, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["build", "demo", "--target", "jetson"]) == 0
    assert pipeline.requests[0].target == "jetson-orin-nano-8gb"
    assert capsys.readouterr().err.startswith("target: jetson-orin-nano-8gb (")


def test_build_json_is_one_document_with_the_whole_manifest(
    pipeline: FakePipeline, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["build", "demo", "--json"]) == 0
    captured = capfd.readouterr()
    document = json.loads(captured.out)
    assert document["bundle"] == "my demo.stc"
    assert document["stages"] == [{"name": "weights", "seconds": 1.25}]
    assert manifest_from_text(json.dumps(document["manifest"]), "x") == BUILT.manifest
    assert "noise of a library" in captured.err
    assert "weights: 1 kB in" in captured.err


def test_build_text_has_stages_parity_sizes_and_the_next_command(
    pipeline: FakePipeline, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["build", "demo"]) == 0
    text = capsys.readouterr().out
    assert "weights  1.2 s" in text
    assert "vit.onnx  full  module   all 3   features      2.0e-06    1e-04  0.999999  ok" in text
    assert "weights  10.3 kB" in text  # 10,240 and 100 bytes
    assert "answers mean nothing" in text
    assert text.endswith("next: stc-export run 'my demo.stc' VIDEO --ask \"What happens in the video?\"\n")


def test_build_trained_model_does_not_warn(pipeline: FakePipeline, capsys: pytest.CaptureFixture[str]) -> None:
    model = replace(BUILT.manifest.model, trained=True)
    pipeline.built = replace(BUILT, manifest=replace(BUILT.manifest, model=model))
    assert main(["build", "demo"]) == 0
    assert "mean nothing" not in capsys.readouterr().out


def test_build_dry_run_shows_the_plan_and_builds_nothing(
    pipeline: FakePipeline, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["build", "demo", "--dry-run"]) == 0
    captured = capsys.readouterr()
    assert "about 8.9 MB" in captured.out  # 8.0 + 0.4 + 0.3 + 0.2 MB
    assert "Nothing was written" in captured.out
    assert "weights:" not in captured.err


def test_build_dry_run_json_has_the_plan(pipeline: FakePipeline, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["build", "demo", "--dry-run", "--json"]) == 0
    document = json.loads(capfd.readouterr().out)
    assert (document["out"], document["size"]["kv_bytes"]) == ("demo.stc", 300_000)


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (["--target", "cpi"], 'error: There is no target "cpi".\nfix: Did you mean "cpu"?'),
        (["--precision", "fp8"], 'error: Target cpu has no precision "fp8".\nfix: Did you mean "fp32"?'),
        (["--precision", "fp16,lm=int4"], 'error: --precision names the graphs "lm".\nfix: Did you mean "llm"?'),
        (
            ["--metrics", "l2,cosin"],
            'error: --metrics has the metric "cosin".\nfix: Did you mean "cosine"?',
        ),
        (["--metrics", ""], 'error: --metrics has the metric "".\nfix: Known: cosine, l1, l2, dot.'),
        (["--policy", "papr"], 'error: Policy "papr" is neither a named policy nor a readable file.\nfix: Did you m'),
    ],
)
def test_build_unknown_names_exit_2_with_the_nearest(
    pipeline: FakePipeline, capsys: pytest.CaptureFixture[str], flags: list[str], text: str
) -> None:
    assert main(["build", "demo", *flags]) == 2
    assert text in capsys.readouterr().err
    assert pipeline.requests == []


def test_build_metrics_are_a_list_in_any_order(pipeline: FakePipeline) -> None:
    assert main(["build", "demo"]) == 0
    assert main(["build", "demo", "--metrics", "dot, cosine,l1"]) == 0
    assert [request.metrics for request in pipeline.requests] == [(), ("cosine", "l1", "dot")]


def test_build_attention_is_asked_for_by_its_flag(pipeline: FakePipeline) -> None:
    assert main(["build", "demo"]) == 0
    assert main(["build", "demo", "--attention"]) == 0
    assert [request.attention for request in pipeline.requests] == [False, True]


def test_build_policy_file_is_read(pipeline: FakePipeline, tmp_path: Path) -> None:
    file = tmp_path / "policy.json"
    file.write_text('{"pruner": {"keep": 0.5}}', encoding="utf-8")
    assert main(["build", "demo", "--policy", str(file)]) == 0
    assert pipeline.requests[0].policy.pruner.keep == 0.5


@pytest.mark.parametrize(
    ("target", "sealed", "said"),
    [
        ("h200", None, "next: copy the bundle to the device, and run there: stc-export seal 'my demo.stc'"),
        ("rtx", "No GPU.", "next: copy the bundle to a machine with a GPU, and run there: stc-export run 'my"),
        ("rtx", "", "next: stc-export run 'my demo.stc'"),
    ],
)
def test_build_says_where_to_go_on_with_engines(target: str, sealed: str | None, said: str) -> None:
    manifest = replace(BUILT.manifest, target=target)
    engine = EngineEntry("graphs/vit.onnx", "vit.plan", (), 1000, "0" * 64, 1.0)
    bound = Fingerprint("trt-rtx", "1.7", None, None, None, ())
    record = SealRecord(SCHEMA, "test", bound, (engine,), (), (), sealed or None)
    engines = SealResult(Path("a"), target, Path("a/engines/b"), record, built=True)
    text = result_text(replace(BUILT, manifest=manifest, sealed=None if sealed is None else engines))
    assert said in text
    assert ("engine of" in text) is (sealed is not None)
