"""Every benchmark in its official layout: prompts written out by hand, right answers, parts of videos, counts."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from stc_export.spec.errors import UnsupportedError, UsageError
from stc_export.validate.footage import PictureFolder, VideoFile
from stc_export.validate.tasks import TASKS, find_task, read_task
from stc_export.validate.types import TaskClip, TaskClips, TaskOptions
from tests.stc_export.validate.benchmarks.data import WRITERS

OVO_EPM = """
Question: What was on the table?
Options:
A. A plate; B. A cup; C. Nothing;

Respond only with the letter corresponding to your chosen option (e.g., A, B, C).\x20
Do not include any additional text or explanation in your response.
"""
OVO_REC = """
You're watching a video in which people may perform a certain type of action repetively.\x20
The person performing this kind of action are referred to as 'they' in the following statement.
You're task is to count how many times have different people in the video perform this kind of action in total.
One complete motion counts as one.\x20
Now, answer the following question: How many times did they jump?
Provide your answer as a single number (e.g., 0, 1, 2, 3…) indicating the total count.
Do not include any additional text or explanation in your response.
"""
OVO_SSR = """
You're watching a tutorial video which contain a sequential of steps.\x20
The following is one step from the whole procedures:\x20
Boil water
Your task is to determine if the man or woman in the video is currently performing this step.
Answer only with “Yes” or “No”.
Do not include any additional text or explanation in your response.
"""
STREAMINGBENCH = (
    "You are an advanced video question-answering AI assistant. You have been provided with some frames from the video "
    "and a multiple-choice question related to the video. Your task is to carefully analyze the video and provide the "
    "best answer to question, choosing from the four options provided. Respond with only the letter (A, B, C, or D) of "
    "the correct option.\n\nQuestion: What is seen now?\n\nOptions:\nA. A cup\nB. A box\nC. A dog\nD. A cat\n\n"
    "The best option is:"
)


def read(task: str, data: Path, fps: float | None = None, limit: int | None = None) -> TaskClips:
    if not data.exists():
        data.mkdir()
        WRITERS[task](data)
    return read_task(find_task(task), TaskOptions(data, fps, None, limit))


def part(clip: TaskClip) -> tuple[float, float]:
    assert isinstance(clip.footage, (VideoFile, PictureFolder))
    return clip.footage.start_s, clip.footage.end_s


def rights(found: TaskClips) -> list[str]:
    return [question.right for clip in found.clips for question in clip.questions]


@pytest.mark.parametrize("task", WRITERS)
def test_every_clip_has_frames_and_its_task_s_scorer(tmp_path: Path, task: str) -> None:
    found = read(task, tmp_path / "data")
    for clip in found.clips:
        frames = list(clip.footage.frames())
        assert frames
        assert frames[0][1] == 0.0
        assert clip.questions == tuple(sorted(clip.questions, key=lambda one: one.at_s))
        assert {question.scorer for question in clip.questions} == {find_task(task).scorers[0]}
    assert found.fps == find_task(task).fps
    assert len(found.annotations) == 64


def test_the_tasks_are_two_of_ours_and_those_that_have_a_folder_here() -> None:
    assert list(TASKS) == ["demo", "fidelity", *WRITERS]


def test_ovo_bench_has_the_benchmark_s_prompts_videos_and_groups(tmp_path: Path) -> None:
    found = read("ovo_bench", tmp_path / "data")
    assert [clip.name for clip in found.clips] == ["7", "8", "9_0", "9_1", "10_0", "11_0"]
    questions = [clip.questions[0] for clip in found.clips]
    assert [questions[n].prompt for n in (0, 2, 4)] == [OVO_EPM, OVO_REC, OVO_SSR]
    assert "Which number {0} is shown?\nOptions:\nA. 1; B. 3;\n" in questions[1].prompt
    assert "\nWho comes in?\nDecide whether existing visual content, especially latest" in questions[5].prompt
    assert rights(found) == ["B", "B", "0", "12", "Yes", "No"]
    assert [one.group for one in questions] == ["backward", "realtime", "forward", "forward", "forward", "forward"]
    assert [one.template for one in questions] == ["EPM", "OCR", "REC", "REC", "SSR", "CRR"]


def test_counts_that_are_not_the_documented_ones_are_told(tmp_path: Path) -> None:
    (note,) = read("ovo_bench", tmp_path / "data").notes
    assert "6 questions, the benchmark documents 3035 (EPM 1 of 297, ASI 0 of 148" in note
    assert note.endswith("figures do not compare with published ones")
    assert read("rekv", tmp_path / "own choice").notes == ()


def test_documented_counts_add_up_to_the_published_totals() -> None:
    from stc_export.validate.benchmarks import mlvu, ovo_bench

    assert sum(kind.questions for kind in mlvu._KINDS.values()) == 2174
    entries_of_forward_tasks = 82 + 48 + 42
    single = sum(n for task, n in ovo_bench._QUESTIONS.items() if ovo_bench._GROUPS[task] != "forward")
    assert single + entries_of_forward_tasks == 1640


def test_streamingbench_shows_the_minute_before_a_question(tmp_path: Path) -> None:
    found = read("streamingbench", tmp_path / "data")
    assert [part(clip) for clip in found.clips] == [(2.0, 62.0), (0.0, 2.0)]
    assert [len(list(clip.footage.frames())) for clip in found.clips] == [60, 2]
    assert {clip.questions[0].prompt for clip in found.clips} == {STREAMINGBENCH}
    assert {clip.questions[0].at_s for clip in found.clips} == {math.inf}


def test_streamingbench_history_streams_a_video_once(tmp_path: Path) -> None:
    (clip,) = read("streamingbench_history", tmp_path / "data").clips
    assert [question.at_s for question in clip.questions] == [2.0, 62.0]
    assert part(clip) == (0.0, 63.0)
    assert [seconds for _, seconds in clip.footage.frames()] == [float(n) for n in range(63)]


def test_egoschema_asks_what_has_a_published_answer(tmp_path: Path) -> None:
    found = read("egoschema", tmp_path / "data")
    assert [(clip.name, clip.questions[0].right) for clip in found.clips] == [("uid-1", "A"), ("uid-2", "D")]
    assert found.clips[0].questions[0].prompt == (
        "What is c doing?\nA. C does 0\nB. C does 1\nC. C does 2\nD. C does 3\nE. C does 4\n"
        "Answer with the option's letter from the given choices directly."
    )


def test_mlvu_reads_its_seven_tasks(tmp_path: Path) -> None:
    found = read("mlvu", tmp_path / "data")
    assert [clip.questions[0].template for clip in found.clips] == [
        "plotQA",
        "needle",
        "ego",
        "count",
        "order",
        "anomaly_reco",
        "topic_reasoning",
    ]
    assert found.clips[0].questions[0].prompt == (
        "Question: How many?\nOptions:\n(A) 4\n(B) 2\n(C) many\nOnly give the best option.\nBest option: ("
    )
    assert set(rights(found)) == {"B"}


def test_videomme_asks_three_questions_about_one_video(tmp_path: Path) -> None:
    (clip,) = read("videomme", tmp_path / "data").clips
    assert clip.questions[1].prompt == (
        "Select the best answer to the following multiple-choice question based on the video. Respond with only the "
        "letter (A, B, C, or D) of the correct option.\nWhat is 1?\nA. One.\nB. Two.\nC. Three.\nD. Four.\n"
        "The best answer is:"
    )
    assert [(one.right, one.group) for one in clip.questions] == [("A", "short"), ("B", "short"), ("C", "short")]


def test_mvbench_cuts_parts_for_the_tasks_that_have_them(tmp_path: Path) -> None:
    found = read("mvbench", tmp_path / "data", fps=3.0)
    parts = {clip.questions[0].template: part(clip) for clip in found.clips}
    with_parts = {task for task, own in parts.items() if own == (1.0, 2.5)}
    assert with_parts == {
        "action_sequence",
        "action_prediction",
        "object_interaction",
        "action_localization",
        "episodic_reasoning",
    }
    assert (
        found.clips[0]
        .questions[0]
        .prompt.endswith(
            "accurately addresses the question.\nQuestion: What?\nOptions:\n(A) cup\n(B) box\n"
            "Only give the best option.\nBest option: ("
        )
    )
    (pictures,) = [clip for clip in found.clips if isinstance(clip.footage, PictureFolder)]
    levels = [(round(frame.mean() / 20), round(seconds, 3)) for frame, seconds in pictures.footage.frames()]
    assert levels == [(4, 0.0), (5, 0.333), (6, 0.667), (7, 1.0), (8, 1.333)]


def test_rekv_understands_texts_letters_and_indices(tmp_path: Path) -> None:
    found = read("rekv", tmp_path / "data")
    assert rights(found) == ["B", "B", "B", "A"]
    assert [(one.template, one.group) for clip in found.clips for one in clip.questions] == [
        ("ego", "all"),
        ("all", "all"),
        ("all", "short"),
        ("OCR", "short"),
    ]
    assert found.clips[1].questions[1].prompt == (
        "Question: Which?\nOptions:\n(A) A. One.\n(B) B. Two.\nOnly give the best option.\nBest option: ("
    )


def test_fps_and_limit_are_those_asked_for(tmp_path: Path) -> None:
    found = read("ovo_bench", tmp_path / "data", fps=4.0, limit=2)
    assert [len(list(clip.footage.frames())) for clip in found.clips] == [12, 12]
    assert found.fps == 4.0


def test_files_that_are_needed_or_not_are_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="but --data is missing"):
        read_task(find_task("mlvu"), TaskOptions())
    with pytest.raises(UsageError, match='Task "demo" reads no files'):
        read_task(find_task("demo"), TaskOptions(fps=1.0))
    with pytest.raises(UsageError, match="which is no folder"):
        read_task(find_task("mlvu"), TaskOptions(tmp_path / "missing"))
    with pytest.raises(UnsupportedError, match=r'no scorer "mlvu".*in_brackets'):
        read_task(find_task("mlvu"), TaskOptions(tmp_path, scorer="mlvu"))


@pytest.mark.parametrize(
    ("task", "name", "source"),
    [
        ("ovo_bench", "ovo_bench_new.json", "JoeLeelyf/OVO-Bench"),
        ("streamingbench", "questions_real.json", "THUNLP-MT/StreamingBench"),
        ("egoschema", "questions.json", "egoschema/EgoSchema"),
        ("mlvu", "json/1_plotQA.json", "MLVU/MVLU"),
        ("videomme", "videomme.json", "lmms-lab/Video-MME"),
        ("mvbench", "json/action_sequence.json", "OpenGVLab/MVBench"),
        ("rekv", "expected one in the format of ReKV", "Becomebright/ReKV"),
    ],
)
def test_a_missing_file_is_named_with_its_source(tmp_path: Path, task: str, name: str, source: str) -> None:
    with pytest.raises(UsageError) as caught:
        read(task, tmp_path)
    assert f'--data is "{tmp_path}"' in caught.value.problem
    assert name in caught.value.problem
    assert source in caught.value.fix


def test_a_folder_without_any_video_is_told_before_anything_runs(tmp_path: Path) -> None:
    WRITERS["ovo_bench"](tmp_path)
    for video in (tmp_path / "chunked_videos").iterdir():
        video.unlink()
    with pytest.raises(UsageError, match=r"None of the 6 videos .* the first would be .*chunked_videos/7\.mp4"):
        read("ovo_bench", tmp_path)
