"""MVBench: twenty tasks of 200 short clips."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from stc_export.validate.benchmarks.annotations import (
    Annotated,
    Text,
    bad_entry,
    find_file,
    letter_of,
    read_entries,
)
from stc_export.validate.benchmarks.choices import BEST_OPTION, lettered_question
from stc_export.validate.benchmarks.videos import find_video
from stc_export.validate.footage import PictureFolder, VideoFile
from stc_export.validate.types import TaskClip, TaskQuestion

_SOURCE = "the dataset OpenGVLab/MVBench (json/)"
_PER_TASK = 200
#: Rate of the pictures of ``tvqa/frames_fps3_hq``.
_PICTURE_RATE = 3.0
_SYSTEM = (
    "Carefully watch the video and pay attention to the cause and sequence of events, the detail and movement of "
    "objects, and the action and pose of persons. Based on your observations, select the best option that accurately "
    "addresses the question.\n"
)
#: Folder of the videos of each task.
_FOLDERS: Mapping[str, str] = {
    "action_sequence": "star/Charades_v1_480",
    "action_prediction": "star/Charades_v1_480",
    "action_antonym": "ssv2_video",
    "fine_grained_action": "Moments_in_Time_Raw/videos",
    "unexpected_action": "FunQA_test/test",
    "object_existence": "clevrer/video_validation",
    "object_interaction": "star/Charades_v1_480",
    "object_shuffle": "perception/videos",
    "moving_direction": "clevrer/video_validation",
    "action_localization": "sta/sta_video",
    "scene_transition": "scene_qa/video",
    "action_count": "perception/videos",
    "moving_count": "clevrer/video_validation",
    "moving_attribute": "clevrer/video_validation",
    "state_change": "perception/videos",
    "fine_grained_pose": "nturgbd",
    "character_order": "perception/videos",
    "egocentric_navigation": "vlnqa",
    "episodic_reasoning": "tvqa/frames_fps3_hq",
    "counterfactual_inference": "clevrer/video_validation",
}
#: Tasks whose questions are about a part of a video, and those whose videos are folders of pictures.
_PARTS = ("action_sequence", "action_prediction", "object_interaction", "action_localization", "episodic_reasoning")
_PICTURES = ("episodic_reasoning",)


@dataclass(frozen=True)
class _Entry:
    video: str
    question: str
    candidates: tuple[Text, ...]
    answer: Text
    start: float | None = None
    end: float | None = None


def read(data: Path, fps: float) -> Annotated:
    """Read the twenty tasks.

    Args:
        data: Folder with ``json/action_sequence.json`` and the others, and ``video/``, as the archives unpack.
        fps: Frames to take per second.

    Raises:
        UsageError: A file is missing or not as documented.
    """
    files = {task: find_file(data, (f"json/{task}.json", f"{task}.json"), _SOURCE) for task in _FOLDERS}
    clips = [clip for task, path in files.items() for clip in _clips(data, task, path, fps)]
    counts = dict.fromkeys(_FOLDERS, _PER_TASK)
    return Annotated(tuple(clips), tuple(files.values()), sum(counts.values()), counts)


def _clips(data: Path, task: str, path: Path, fps: float) -> Iterator[TaskClip]:
    for number, entry in enumerate(read_entries(path, _Entry), 1):
        start_s, end_s = _part(path, number, entry) if task in _PARTS else (0.0, math.inf)
        choices = [str(choice) for choice in entry.candidates]
        prompt = _SYSTEM + lettered_question(entry.question, choices) + BEST_OPTION
        right = letter_of(path, number, choices, str(entry.answer))
        question = TaskQuestion(task, task, math.inf, prompt, right, "mvbench", max_tokens=100)
        video = find_video(data, [f"{folder}{_FOLDERS[task]}/{entry.video}" for folder in ("video/", "")])
        footage = (
            PictureFolder(video, _PICTURE_RATE, fps, start_s, end_s)
            if task in _PICTURES
            else VideoFile(video, fps, start_s, end_s)
        )
        yield TaskClip(f"{task}/{number}", footage, (question,))


def _part(path: Path, number: int, entry: _Entry) -> tuple[float, float]:
    if entry.start is None or entry.end is None or not 0.0 <= entry.start < entry.end:
        raise bad_entry(path, number, f"it is about {entry.start} s to {entry.end} s, expected a part of the video")
    return entry.start, entry.end
