"""A benchmark from its files to the report, with videos that are missing or damaged, and the run that follows."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from stc_export.cli.main import main
from stc_export.pipeline.validate.run import validate
from stc_export.pipeline.validate.types import ValidateRequest, ValidateResult
from stc_export.spec import codec
from stc_export.spec.errors import UsageError, VideoError
from stc_export.spec.policy import named_policies
from stc_export.spec.progress import Silent
from tests.stc_export.validate.benchmarks.data import WRITERS, write_video


def a_request(bundle: Path, data: Path, report: Path) -> ValidateRequest:
    return ValidateRequest(bundle, "ovo_bench", report, named_policies()["off"], jobs=1, data=data)


def rows(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


def test_validate_goes_on_without_broken_videos_and_tries_them_again(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    WRITERS["ovo_bench"](tmp_path / "data")
    videos = tmp_path / "data" / "chunked_videos"
    (videos / "8.mp4").unlink()
    (videos / "9_1.mp4").write_bytes(b"no video")
    request = a_request(tiny_bundle, tmp_path / "data", tmp_path / "out")
    result = validate(request, Silent())
    assert (result.clips, result.questions) == (4, 4)
    assert {(one.setting, one.clip) for one in result.failures} == {("off", "8"), ("off", "9_1")}
    assert '8.mp4" does not exist' in next(one.problem for one in result.failures if one.clip == "8")
    assert {row["clip"] for row in rows(tmp_path / "out")} == {"7", "9_0", "10_0", "11_0"}
    assert codec.from_json(ValidateResult, (tmp_path / "out" / "summary.json").read_text()) == result

    write_video(videos / "8.mp4")
    before = rows(tmp_path / "out")
    again = validate(request, Silent())
    assert (again.clips, {one.clip for one in again.failures}) == (5, {"9_1"})
    assert rows(tmp_path / "out")[: len(before)] == before  # only what was missing ran

    flags = ["--task", "ovo_bench", "--data", str(tmp_path / "data"), "--report", str(tmp_path / "out"), "--jobs", "1"]
    assert main(["validate", str(tiny_bundle), *flags, "--policy", "off"]) == 1
    shown = capsys.readouterr().out
    assert "not watched and counted nowhere: 1;" in shown
    assert "9_1 under off: Video" in shown


def test_validate_shows_the_benchmark_s_own_figure(tiny_bundle: Path, tmp_path: Path) -> None:
    WRITERS["ovo_bench"](tmp_path / "data")
    result = validate(a_request(tiny_bundle, tmp_path / "data", tmp_path / "out"), Silent())
    for setting in result.settings:
        own = [r for r in rows(tmp_path / "out") if r["setting"] == setting.name and r["kind"] == "question"]
        groups = {str(r["group"]): [bool(x["correct"]) for x in own if x["group"] == r["group"]] for r in own}
        assert setting.official is not None
        assert setting.official.rule == "groups"
        shares = {part.name: part.n for part in setting.official.parts if part.name in groups}
        assert shares == {"backward": 1, "realtime": 1, "forward": 4}
    assert (result.scorer, result.fps) == ("ovo_bench", 1.0)
    assert len(result.notes) == 1


def test_validate_without_one_whole_clip_is_an_error(tiny_bundle: Path, tmp_path: Path) -> None:
    WRITERS["ovo_bench"](tmp_path / "data")
    for video in (tmp_path / "data" / "chunked_videos").iterdir():
        video.write_bytes(b"no video")
    with pytest.raises(VideoError, match="None of the 6 clips could be watched"):
        validate(a_request(tiny_bundle, tmp_path / "data", tmp_path / "out"), Silent())


def test_validate_refuses_a_folder_of_other_annotations_rate_or_scorer(tiny_bundle: Path, tmp_path: Path) -> None:
    WRITERS["ovo_bench"](tmp_path / "data")
    request = replace(a_request(tiny_bundle, tmp_path / "data", tmp_path / "out"), limit=1)
    validate(request, Silent())
    for change, told in (
        (replace(request, fps=2.0), r"fps 1\.0 there, 2\.0 here"),
        (replace(request, scorer="prefix"), "scorer ovo_bench there, prefix here"),
    ):
        with pytest.raises(UsageError, match=told):
            validate(change, Silent())
    annotations = tmp_path / "data" / "ovo_bench_new.json"
    annotations.write_text(annotations.read_text().replace("A cup", "A mug"))
    with pytest.raises(UsageError, match=r"annotations [0-9a-f]{64} there"):
        validate(request, Silent())
