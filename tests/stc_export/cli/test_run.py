from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stc_export.cli.main import main
from stc_export.cli.run import pair_questions
from stc_export.pipeline.types import Question, RunRequest
from stc_export.spec.errors import UsageError
from stc_export.spec.policy import named_policies
from stc_export.spec.report import CameraReport
from tests.stc_export.cli.results import RAN

if TYPE_CHECKING:
    from tests.stc_export.cli.results import FakePipeline

RUN = ["run", "demo.stc", "video.mp4", "--ask", "What?"]


def test_run_flags_become_the_request(pipeline: FakePipeline) -> None:
    flags = ["--at", "2", "--ask", "Why?", "--policy", "off", "--fps", "2.5", "--max-tokens", "9", "--top-p", "0.9"]
    assert main([*RUN, *flags, "--temperature", "0.7", "--seed", "5", "--threads", "3", "--picture", "x.png"]) == 0
    assert pipeline.requests == [
        RunRequest(
            bundle=Path("demo.stc"),
            video=Path("video.mp4"),
            questions=(Question("What?", 2.0), Question("Why?", None)),
            policy=named_policies()["off"],
            fps=2.5,
            max_tokens=9,
            seed=5,
            top_p=0.9,
            temperature=0.7,
            threads=3,
            picture=Path("x.png"),
        )
    ]


def test_run_without_flags_has_the_defaults_of_the_request(pipeline: FakePipeline) -> None:
    assert main(RUN) == 0
    assert pipeline.requests == [RunRequest(Path("demo.stc"), Path("video.mp4"), (Question("What?"),))]


def test_run_of_a_camera_keeps_its_address_and_the_times(
    pipeline: FakePipeline, capfd: pytest.CaptureFixture[str]
) -> None:
    pipeline.ran = replace(RAN, camera=CameraReport(dropped=7, gaps=2, away_s=5.25))
    flags = ["--camera", "30", "--silence", "4.5", "--until", "3600"]
    assert main(["run", "demo.stc", "rtsp://camera/stream", "--ask", "What?", *flags]) == 0
    expected = RunRequest(Path("demo.stc"), "rtsp://camera/stream", (Question("What?"),))
    assert pipeline.requests == [replace(expected, until_s=3600.0, silence_s=4.5, away_s=30.0)]
    assert "camera         away 2x, 5.2 s in all; 7 frames dropped" in capfd.readouterr().err


@given(st.lists(st.text(min_size=1), min_size=1), st.lists(st.floats(0, 1e6)))
def test_pair_questions_keeps_order_and_gives_times_to_the_first(ask: list[str], at: list[float]) -> None:
    if len(at) > len(ask):
        with pytest.raises(UsageError):
            pair_questions(ask, at)
        return
    questions = pair_questions(ask, at)
    assert [question.text for question in questions] == ask
    assert [question.at_s for question in questions[: len(at)]] == at
    assert all(question.at_s is None for question in questions[len(at) :])


def test_run_streams_answers_alone_to_stdout_without_control_characters(
    pipeline: FakePipeline, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main([*RUN, "--ask", "What?"]) == 0
    captured = capfd.readouterr()
    answers = captured.out.replace("noise of a library\n", "")
    assert answers == "[2.0 s] What?\nA cup.[2J\n[2.0 s] What?\nA cup.[2J\n"
    assert "frames: 2 frames in" in captured.err


def test_run_summary_has_counts_tokens_latencies_and_memory(
    pipeline: FakePipeline, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(RUN) == 0
    text = capsys.readouterr().err
    assert "10: 2 full, 5 selective, 3 skipped" in text
    assert "147 of 490 kept (30%)" in text
    assert "1.5 MB feature cache, 2.5 MB KV, 250 MB peak of the process" in text
    assert "[2.0 s]        32 ms to the first of 3 tokens" in text
    assert "gate         1.5     2.0  10" in text
    assert "pruner" not in text  # it never ran
    assert "mean nothing" not in text


def test_run_without_any_frame_still_has_a_summary(pipeline: FakePipeline, capsys: pytest.CaptureFixture[str]) -> None:
    pipeline.ran = replace(RAN, tokens=replace(RAN.tokens, visual_before=0, visual_kept=0))
    assert main(RUN) == 0
    assert "0 of 0 kept\n" in capsys.readouterr().err


@pytest.mark.parametrize("as_json", [False, True])
def test_run_untrained_model_says_so_on_stderr(
    pipeline: FakePipeline, capsys: pytest.CaptureFixture[str], as_json: bool
) -> None:
    pipeline.ran = replace(RAN, trained=False)
    assert main([*RUN, *(["--json"] * as_json)]) == 0
    line = "The weights of this model are random: answers mean nothing.\n"
    captured = capsys.readouterr()
    assert line in captured.err
    assert line not in captured.out


def test_run_json_has_exactly_the_promised_keys(pipeline: FakePipeline, capfd: pytest.CaptureFixture[str]) -> None:
    assert main([*RUN, "--json"]) == 0
    document = json.loads(capfd.readouterr().out)
    promised = {"answers", "frames", "tokens", "latency_ms", "memory_bytes", "bundle", "target", "policy"}
    assert promised <= set(document)
    assert document["answers"] == [{"question": "What?", "at_s": 2.0, "text": "A cup.", "ttft_ms": 31.5, "tokens": 3}]
    assert document["frames"] == {"total": 10, "full": 2, "selective": 5, "skip": 3}
    assert set(document["tokens"]) == {"visual_before", "visual_kept"}
    assert set(document["latency_ms"]) == {"gate", "vit_full", "vit_selective", "pruner", "prefill", "decode"}
    assert set(document["latency_ms"]["gate"]) == {"p50", "p95", "n"}
    assert set(document["memory_bytes"]) == {"peak_rss", "feature_cache", "kv"}


@pytest.mark.parametrize(
    ("flags", "name"),
    [
        (["--at", "1", "--at", "2"], "--at appears 2x but --ask only 1x"),
        (["--at", "-1"], "--at is -1"),
        (["--at", "nan"], "--at is nan"),
        (["--fps", "0"], "--fps is 0"),
        (["--fps", "inf"], "--fps is inf"),
        (["--max-tokens", "0"], "--max-tokens is 0"),
        (["--top-p", "1.5"], "--top-p is 1.5"),
        (["--top-p", "nan"], "--top-p is nan"),
        (["--temperature", "0"], "--temperature is 0"),
        (["--threads", "0"], "--threads is 0"),
        (["--camera", "-1"], "--camera is -1"),
        (["--camera", "nan"], "--camera is nan"),
        (["--silence", "0"], "--silence is 0"),
        (["--until", "0"], "--until is 0"),
    ],
)
def test_run_value_out_of_range_exits_2_and_names_it(
    pipeline: FakePipeline, capsys: pytest.CaptureFixture[str], flags: list[str], name: str
) -> None:
    assert main([*RUN, *flags]) == 2
    assert f"error: {name}" in capsys.readouterr().err
    assert pipeline.requests == []
