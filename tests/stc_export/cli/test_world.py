from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from stc_export.cli import world as program
from stc_export.cli.main import main, world
from stc_export.world import frozen, splits
from stc_export.world.splits import Quiz


@pytest.mark.parametrize(
    "name",
    [
        *("", "train", "train/", "/3", "train/x", "train/-1", "train/007", "train/1/2", "holdout/1", "Train/1"),
        *("train/1\n", "../../etc/passwd", "train/9999999999", "train/\u0663", "train\\1", " train/1"),
    ],
)
def test_unknown_name_is_refused_in_one_line(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["clip", "--out", str(tmp_path / "out"), "--", name], world) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert "expected SPLIT/NUMBER" in told.err
    assert len(told.err.splitlines()) == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--seconds", "-5"], "--seconds is -5, expected at least 6."),
        (["--seconds", "0"], "--seconds is 0, expected at least 6."),
        (["--seconds", "100000000"], "--seconds is 100000000, expected at most 3600."),
        (["--seconds", "six"], "'--seconds'"),
        (["--questions", "-1"], "--questions is -1, expected at least 0."),
        (["--colour", "red"], "--colour"),
    ],
)
def test_bad_flag_is_refused(
    flags: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["clip", "train/1", "--out", str(tmp_path / "out"), *flags], world) == 2
    told = capsys.readouterr().err
    assert message in told
    assert "fix: " in told
    assert list(tmp_path.iterdir()) == []


def test_no_command_shows_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([], world) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert "Usage: python -m stc_export.world [OPTIONS] COMMAND" in told.err
    assert program.CLIP_EXAMPLE in told.err


@pytest.mark.parametrize("arguments", [["clip"], ["clip", "train/1"], ["paint"], ["test-set", "extra"]])
def test_incomplete_command_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments, world) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_directory_that_exists_or_has_no_parent_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for place in ("full", "file", "file/below", "missing/below"):
        assert main(["clip", "train/1", "--out", str(tmp_path / place), "--overwrite"], world) == 2, place
        assert str(tmp_path / place) in capsys.readouterr().err
    assert (tmp_path / "full" / "mine.txt").read_text() == "mine"


def test_place_that_cannot_be_written_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**_: object) -> str:
        raise PermissionError(13, "Permission denied", str(tmp_path / "out"))

    monkeypatch.setattr("stc_export.spec.files.tempfile.mkdtemp", refuse)
    assert main(["clip", "train/1", "--out", str(tmp_path / "out")], world) == 2
    assert "Permission denied" in capsys.readouterr().err


def test_clip_writes_video_and_questions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    arguments = ["clip", "test/5", "--out", str(out), "--seconds", "6", "--questions", "3"]
    assert main(arguments, world) == 0
    text = capsys.readouterr().out
    assert "test/5: 6 s" in text
    assert sorted(path.name for path in out.iterdir()) == ["clip.mkv", "questions.json"]
    assert main([*arguments, "--overwrite", "--json"], world) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["out"] == str(out)
    assert told["quiz"] == json.loads((out / "questions.json").read_text(encoding="utf-8"))
    assert len(told["quiz"]["questions"]) == 3


def test_missing_av_names_the_extra(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    assert main(["clip", "train/1", "--out", str(tmp_path / "out")], world) == 3
    assert 'pip install "stc-export[video]"' in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_test_set_reports_counts_and_a_difference(
    quizzes: tuple[Quiz, ...], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    committed = frozen.committed()
    monkeypatch.setattr(splits, "test_set", lambda: quizzes)
    monkeypatch.setattr(frozen, "freeze", lambda _: committed)
    assert main(["test-set", "--json"], world) == 0
    told = json.loads(capsys.readouterr().out)
    assert (
        told["questions"]
        == sum(row["questions"] for row in told["templates"])
        == sum(c.questions for c in committed.clips)
    )
    assert told["sha256"] == told["committed_sha256"] == committed.sha256
    assert (len(told["templates"]), told["differing"]) == (19, [])

    changed = frozen.FrozenSet("0" * 64, committed.clips[1:])
    monkeypatch.setattr(frozen, "freeze", lambda _: changed)
    assert main(["test-set"], world) == 1
    told_text = capsys.readouterr()
    assert "differs from the committed one in 1 clips" in told_text.err
    assert "0" * 64 in told_text.out


@pytest.mark.parametrize(
    ("command", "example"), [("clip", program.CLIP_EXAMPLE), ("test-set", program.TEST_SET_EXAMPLE)]
)
def test_help_has_the_example(command: str, example: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"], world) == 0
    assert example in capsys.readouterr().out


def test_program_runs_as_a_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "stc_export.world", "clip", "nonsense", "--out", "x"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith('error: "nonsense" is not the name of a clip')
