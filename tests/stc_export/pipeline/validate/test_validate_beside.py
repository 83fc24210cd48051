"""Several bundles of one model in one validation: precision as one more axis."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from stc_export.cli.validate import result_text
from stc_export.pipeline.types import BuildRequest
from stc_export.pipeline.validate.beside import find_beside, validated_bundles
from stc_export.pipeline.validate.html import html_report
from stc_export.pipeline.validate.rescore import rescore
from stc_export.pipeline.validate.run import validate
from stc_export.pipeline.validate.types import RescoreRequest, ValidateRequest, ValidateResult
from stc_export.spec.errors import UsageError
from stc_export.spec.manifest import read_manifest
from stc_export.spec.policy import named_policies
from stc_export.spec.progress import Silent
from stc_export.validate.demo import run_quizzes
from stc_export.validate.fidelity import watch_pair
from stc_export.validate.paired import PairedStream
from stc_export.validate.tasks import find_task, read_task
from stc_export.validate.types import TaskOptions
from stc_export.world.splits import draw_test_set
from stc_runtime import Model, StreamSession
from stc_runtime.backends.ort import OrtBackend
from tests.bundles import built_once
from tests.videos import write_moving_square

PAPER, OFF = named_policies()["paper"], named_policies()["off"]
NAMES = ["off", "pruner.keep=0.5", "fp16: off", "fp16: pruner.keep=0.5"]
Validated = tuple[Path, ValidateResult]


@pytest.fixture(scope="module")
def both(tiny_bundle: Path, tiny_bundle_fp16: Path, tmp_path_factory: pytest.TempPathFactory) -> Validated:
    out = tmp_path_factory.mktemp("beside") / "out"
    request = ValidateRequest(
        tiny_bundle, "demo", out, PAPER, ("pruner.keep=0.5",), limit=2, jobs=2, beside=(tiny_bundle_fp16,)
    )
    return out, validate(request, Silent())


def test_each_bundle_answers_as_it_does_alone(both: Validated, tiny_bundle: Path, tiny_bundle_fp16: Path) -> None:
    folder, result = both
    rows = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    assert [one.name for one in result.settings] == NAMES
    assert [one.bundle for one in result.settings] == ["", "", "fp16", "fp16"]
    for one in result.settings:
        bundle = tiny_bundle_fp16 if one.bundle else tiny_bundle
        expected = run_quizzes(bundle, one.policy, list(islice(draw_test_set(), 2)), Silent())
        own = {
            (r["clip"], r["number"]): r["text"] for r in rows if r["setting"] == one.name and r["kind"] == "question"
        }
        assert own == {(answer.clip, answer.number): answer.text for answer in expected.answers}


def test_all_are_compared_with_the_first_uncompressed_and_each_with_the_same_policy(both: Validated) -> None:
    result = both[1]
    right = [one.overall.accuracy.value for one in result.settings]
    against = [one.overall.against_off for one in result.settings]
    assert [found and found.difference.value for found in against] == [
        None,
        *(pytest.approx(share - right[0]) for share in right[1:]),
    ]
    assert [row.name for row in result.changes] == NAMES[2:]
    for row, here, there in zip(result.changes, right[2:], right[:2], strict=True):
        assert row.against_first.difference.value == pytest.approx(here - there)


def test_sizes_and_names_of_the_bundles_are_told(both: Validated, tiny_bundle: Path, tiny_bundle_fp16: Path) -> None:
    folder, result = both
    assert [(one.label, one.name, one.precision) for one in result.bundles] == [
        ("", tiny_bundle.name, "fp32"),
        ("fp16", tiny_bundle_fp16.name, "fp16"),
    ]
    sizes = [
        sum(path.stat().st_size for path in bundle.glob("**/*.weights")) for bundle in (tiny_bundle, tiny_bundle_fp16)
    ]
    assert [one.weights_bytes for one in result.bundles] == sizes
    page, text = html_report(result), result_text(result)
    for shown in (page, text):
        assert "against the first" in shown
        assert f"{sizes[1] / 1e6:,.1f} MB" in shown
        assert "fp16: pruner.keep=0.5" in shown
    again = rescore(RescoreRequest(folder, "first_character"), Silent())
    assert (again.changes, again.bundles) == (result.changes, result.bundles)


def test_it_goes_on_only_with_the_same_bundles(both: Validated, tiny_bundle: Path) -> None:
    request = ValidateRequest(tiny_bundle, "demo", both[0], PAPER, ("pruner.keep=0.5",), limit=2)
    with pytest.raises(UsageError, match=r"holds other results: beside .*fp16.* there, \(\) here"):
        validate(request, Silent())


def test_fidelity_of_another_bundle_is_that_to_the_first_one(
    tiny_bundle: Path, tiny_bundle_fp16: Path, tmp_path: Path
) -> None:
    film = write_moving_square(tmp_path / "square.mp4")
    result = validate(
        ValidateRequest(
            tiny_bundle, "fidelity", tmp_path / "out", PAPER, data=film, fps=4.0, jobs=1, beside=(tiny_bundle_fp16,)
        ),
        Silent(),
    )
    models = {path: Model.open(path, OrtBackend(threads=1)) for path in (tiny_bundle, tiny_bundle_fp16)}
    (clip,) = read_task(find_task("fidelity"), TaskOptions(data=film, fps=4.0)).clips
    for one in result.settings:
        model = models[tiny_bundle_fp16 if one.bundle else tiny_bundle]
        dense = StreamSession(models[tiny_bundle], replace(OFF, memory=PAPER.memory))
        with dense, StreamSession(model, one.policy) as session:
            expected = watch_pair(PairedStream(session, dense), clip).fidelity
        assert one.fidelity is not None
        assert expected is not None
        assert one.fidelity.feature_error.worst == max(expected.feature_error)
        assert one.fidelity.divergence.worst == max(expected.divergence)
    rounded = next(one.fidelity for one in result.settings if one.name == "fp16: off")
    assert rounded is not None
    assert 0 < rounded.feature_error.worst < 0.01


def test_bundles_of_one_precision_go_by_their_directories_too(
    tiny_bundle: Path, tiny_bundle_fp16: Path, tmp_path: Path
) -> None:
    copies = [Path(shutil.copytree(tiny_bundle_fp16, tmp_path / name)) for name in ("one.stc", "two.stc")]
    found = find_beside(tiny_bundle, read_manifest(tiny_bundle), tuple(copies))
    assert [other.plan.label for other in found] == ["one.stc, fp16", "two.stc, fp16"]


def test_what_cannot_be_compared_is_refused(tiny_bundle: Path, even_bundle_int4: Path, tmp_path: Path) -> None:
    manifest = read_manifest(tiny_bundle)
    with pytest.raises(UsageError, match=r'even-int4.stc", a model of other sizes than'):
        find_beside(tiny_bundle, manifest, (even_bundle_int4,))
    with pytest.raises(UsageError, match=f'Two bundles to validate are called "{tiny_bundle.name}"'):
        find_beside(tiny_bundle, manifest, (tiny_bundle,))


def test_bundles_of_few_bits_are_called_by_how_they_were_rounded(
    even_bundle_int4: Path, even_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The manifest has the precision of the layers; the output matrix and layers that were kept are in the record."""

    def made(name: str, **asked: Any) -> Path:
        request = BuildRequest(str(even_checkpoint), precision="int4", **asked)
        return built_once(tmp_path_factory, name, lambda out: replace(request, out=out))

    others = (
        made("even-head", head="int4"),
        made("even-kept", head="int8", keep_precision=("llm.layers.0.*",)),
    )
    manifest = read_manifest(even_bundle_int4)
    found = find_beside(even_bundle_int4, manifest, others)
    assert [one.plan.label for one in found] == [
        "fp32, llm int4, head int4",
        "fp32, llm int4, head int8, 4 layers kept",
    ]
    named = validated_bundles(even_bundle_int4, manifest, found)
    assert [one.precision for one in named] == ["fp32, llm int4", *(one.plan.label for one in found)]
