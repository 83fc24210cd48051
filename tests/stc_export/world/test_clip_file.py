from __future__ import annotations

import json
from pathlib import Path

import av
import numpy as np
import pytest

from stc_export.spec.errors import UsageError
from stc_export.world import clip_file
from stc_export.world.clip_file import write_quiz
from stc_export.world.render import Renderer
from stc_export.world.script import write_clip
from stc_export.world.splits import Quiz, ask_about
from stc_runtime.video import read_frames

#: Clips of 2, 4 and 3 frames per second.
NAMES = ("train/0", "train/3", "train/4")


@pytest.fixture(scope="module")
def quiz() -> Quiz:
    return ask_about(write_clip("train/4"), 6)


def frames_of(quiz: Quiz) -> list[np.ndarray]:
    return list(Renderer(quiz.clip).frames())


def test_clips_of_the_tests_have_every_rate() -> None:
    assert {write_clip(name).fps for name in NAMES} == {2, 3, 4}


@pytest.mark.parametrize("name", NAMES)
def test_video_decodes_to_the_same_bytes(name: str, tmp_path: Path) -> None:
    quiz = ask_about(write_clip(name), 1)
    write_quiz(quiz, tmp_path / "out")
    with av.open(str(tmp_path / "out" / "clip.mkv")) as container:
        decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        assert container.streams.video[0].codec_context.name == "ffv1"
        assert container.streams.video[0].average_rate == quiz.clip.fps
    np.testing.assert_array_equal(np.stack(decoded), np.stack(frames_of(quiz)))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("rate", [None, 1000.0])
def test_runtime_reads_the_same_frames_and_times(name: str, rate: float | None, tmp_path: Path) -> None:
    quiz = ask_about(write_clip(name), 1)
    write_quiz(quiz, tmp_path / "out")
    fps = quiz.clip.fps
    with read_frames(tmp_path / "out" / "clip.mkv", rate or fps) as reader:
        found = list(reader)
        assert not reader.damage.found
    np.testing.assert_array_equal(np.stack([frame for frame, _ in found]), np.stack(frames_of(quiz)))
    for number, (_, time_s) in enumerate(found):
        assert 0 <= number / fps - time_s < 0.001, "milliseconds, rounded down: a frame has come when it is asked about"


def test_questions_file_says_what_was_asked(quiz: Quiz, tmp_path: Path) -> None:
    write_quiz(quiz, tmp_path / "out")
    data = json.loads((tmp_path / "out" / "questions.json").read_text(encoding="utf-8"))
    assert (data["clip"], data["fps"], data["frames"]) == ("train/4", quiz.clip.fps, quiz.clip.frames)
    assert len(data["questions"]) == 6
    for written, question in zip(data["questions"], quiz.questions, strict=True):
        assert written["options"]["ABCD".index(written["right"])] == question.options[question.right]
        assert written["prompt"].startswith(written["question"] + "\nA. " + written["options"][0])
        assert written["group"] == question.group
        assert written["at_s"] * data["fps"] == pytest.approx(question.frame)


def test_same_clip_gives_the_same_files_and_nothing_else(quiz: Quiz, tmp_path: Path) -> None:
    write_quiz(quiz, tmp_path / "a")
    write_quiz(quiz, tmp_path / "b")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]
    for name in ("clip.mkv", "questions.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_existing_clip_is_replaced_only_when_asked(quiz: Quiz, tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_quiz(quiz, out)
    with pytest.raises(UsageError, match="--overwrite"):
        write_quiz(ask_about(quiz.clip, 1), out)
    assert len(json.loads((out / "questions.json").read_text())["questions"]) == 6
    write_quiz(ask_about(quiz.clip, 1), out, overwrite=True)
    assert len(json.loads((out / "questions.json").read_text())["questions"]) == 1
    assert list(tmp_path.iterdir()) == [out]


def test_directory_with_other_files_is_never_replaced(quiz: Quiz, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "diary.txt").write_text("mine")
    with pytest.raises(UsageError, match="new"):
        write_quiz(quiz, out, overwrite=True)
    assert (out / "diary.txt").read_text() == "mine"


@pytest.mark.parametrize("kind", ["file", "link"])
def test_file_or_link_in_the_way_is_never_replaced(kind: str, quiz: Quiz, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.write_text("mine") if kind == "file" else out.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="exists"):
        write_quiz(quiz, out, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("error", [OSError(28, "full"), KeyboardInterrupt()])
def test_failed_write_leaves_what_was_there(
    error: BaseException, quiz: Quiz, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    write_quiz(quiz, out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(clip_file, "_write_video", fail)
    with pytest.raises(type(error)):
        write_quiz(quiz, out, overwrite=True)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert list(tmp_path.iterdir()) == [out]


def test_interrupted_rename_puts_the_old_clip_back(quiz: Quiz, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    write_quiz(quiz, out)
    real = Path.rename

    def rename(self: Path, target: Path) -> Path:
        if target == out and ".partial-" in self.name:
            raise KeyboardInterrupt
        return real(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(KeyboardInterrupt):
        write_quiz(ask_about(quiz.clip, 1), out, overwrite=True)
    assert len(json.loads((out / "questions.json").read_text())["questions"]) == 6
    assert list(tmp_path.iterdir()) == [out]
