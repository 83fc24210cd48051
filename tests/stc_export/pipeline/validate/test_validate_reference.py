"""The command with the original model beside the bundle, from end to end on a tiny one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from stc_export.pipeline.validate.html import html_report
from stc_export.pipeline.validate.original import find_original
from stc_export.pipeline.validate.run import validate
from stc_export.pipeline.validate.types import ValidateRequest, ValidateResult
from stc_export.spec.errors import MissingDependencyError, UnsupportedError, UsageError
from stc_export.spec.manifest import read_manifest
from stc_export.spec.policy import GatePolicy, Policy, PrunerPolicy
from stc_export.spec.progress import Silent
from stc_export.validate.twins import baselines, twins, with_originals
from stc_export.validate.types import Setting

OFF = Policy(gate=GatePolicy(mode="off"))


def a_request(bundle: Path, checkpoint: Path, report: Path) -> ValidateRequest:
    sweep = ("pruner.method=random,vidcom2_clip", "pruner.keep=0.5")
    return ValidateRequest(
        bundle, "demo", report, OFF, sweep, limit=1, jobs=1, reference="torch", model=str(checkpoint)
    )


@pytest.fixture(scope="module")
def validated(
    tiny_bundle: Path, tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, ValidateResult]:
    out = tmp_path_factory.mktemp("reference") / "out"
    return out, validate(a_request(tiny_bundle, tiny_checkpoint, out), Silent())


def test_every_setting_runs_in_the_original_and_the_exported_ones_in_the_bundle(
    validated: tuple[Path, ValidateResult],
) -> None:
    half, clip = "pruner.method=random, pruner.keep=0.5", "pruner.method=vidcom2_clip, pruner.keep=0.5"
    expected = ["off", half, "torch: off", f"torch: {half}", f"torch: {clip}"]
    result = validated[1]
    assert [one.name for one in result.settings] == expected
    assert [one.engine for one in result.settings] == ["bundle"] * 2 + ["torch"] * 3
    lines = [json.loads(line) for line in (validated[0] / "results.jsonl").read_text().splitlines()]
    assert {row["setting"] for row in lines if row["kind"] == "clip"} == set(expected)


def test_loss_of_the_method_is_told_apart_from_that_of_the_conversion(validated: tuple[Path, ValidateResult]) -> None:
    result = validated[1]
    assert [one.overall.against_off is None for one in result.settings] == [True, False, True, False, False]
    assert [row.name for row in result.conversions] == [one.name for one in result.settings[:2]]
    for row in result.conversions:  # float32 graphs of the same weights give the same answers
        assert row.agreement == 1.0
        assert row.against_original.difference.value == 0.0
    bundle, _, torch, *_ = result.settings
    assert bundle.work == torch.work
    assert "Bundle against the original model" in html_report(result)


def test_a_second_run_has_nothing_left_and_another_attention_is_refused(
    validated: tuple[Path, ValidateResult], tiny_bundle: Path, tiny_checkpoint: Path
) -> None:
    request = a_request(tiny_bundle, tiny_checkpoint, validated[0])
    before = (validated[0] / "results.jsonl").read_bytes()
    assert validate(request, Silent()).settings == validated[1].settings
    assert (validated[0] / "results.jsonl").read_bytes() == before
    with pytest.raises(UsageError, match="holds other results: original"):
        validate(replace(request, attention="sdpa"), Silent())


def test_method_of_the_reference_without_it_is_refused(tiny_bundle: Path, tmp_path: Path) -> None:
    request = ValidateRequest(tiny_bundle, "demo", tmp_path / "out", OFF, ("pruner.method=fastv",), limit=1)
    with pytest.raises(UnsupportedError, match=r'"fastv" runs in the reference only: .* Add --reference torch'):
        validate(request, Silent())


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"reference": "troch"}, r'--reference is "troch"\. Did you mean "torch"'),
        ({"reference": None, "model": None, "attention": "sdpa"}, '--attention is "sdpa", but nothing runs'),
        ({"reference": None}, "--model is .* but nothing runs in the original model"),
        ({"model": None}, 'was built from "tiny", and a bundle does not hold its checkpoint'),
        ({"attention": "spda"}, r'--attention is "spda"\. Did you mean "sdpa"'),
    ],
)
def test_wrong_flags_of_the_reference_are_told(
    tiny_bundle: Path, tiny_checkpoint: Path, changes: dict[str, str | None], told: str
) -> None:
    request = replace(a_request(tiny_bundle, tiny_checkpoint, Path("out")), **changes)  # type: ignore[arg-type]
    with pytest.raises((UsageError, UnsupportedError), match=told):
        find_original(request, read_manifest(tiny_bundle))


def test_demo_is_found_without_a_model_and_torch_that_is_missing_is_told(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = read_manifest(tiny_bundle)
    demo = replace(manifest, model=replace(manifest.model, name="demo"))
    request = ValidateRequest(tiny_bundle, "demo", Path("out"), reference="torch")
    found = find_original(request, demo)
    assert found is not None
    assert (found.plan.model, found.plan.attention, found.original.checkpoint.name) == ("demo", "eager", "model")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "torch" else name)
    with pytest.raises(MissingDependencyError, match='needs the Python package "torch"'):
        find_original(request, demo)


def test_twins_are_settings_of_both_and_baselines_the_first_of_each() -> None:
    clip = Setting("clip", Policy(pruner=PrunerPolicy("vidcom2_clip")))
    settings = with_originals([Setting("off", OFF), clip])
    assert [one.name for one in settings] == ["off", "torch: off", "torch: clip"]
    assert [(a.name, b.name) for a, b in twins(settings)] == [("off", "torch: off")]
    assert {engine: one.name for engine, one in baselines(settings).items()} == {"bundle": "off", "torch": "torch: off"}
