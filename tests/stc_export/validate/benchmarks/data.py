"""Tiny folders in the official layouts of the benchmarks, with questions of ours and real videos."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import av

from tests.videos import write_moving_square

#: Benchmarks of one file per task.
MLVU_FILES = ("1_plotQA", "2_needle", "3_ego", "4_count", "5_order", "6_anomaly_reco", "7_topic_reasoning")
MVBENCH_FOLDERS: Mapping[str, str] = {
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

OVO: list[dict[str, Any]] = [
    {
        "id": 7,
        "task": "EPM",
        "video": "src/a.mp4",
        "realtime": 2.4,
        "question": "What was on the table?",
        "answer": "A cup",
        "options": ["A plate", "A cup", "Nothing"],
        "gt": 1,
    },
    {
        "id": 8,
        "task": "OCR",
        "video": "src/a.mp4",
        "realtime": 2,
        "question": "Which number {0} is shown?",
        "answer": 3,
        "options": [1, 3],
        "gt": 1,
    },
    {
        "id": 9,
        "task": "REC",
        "video": "src/b.mp4",
        "question": None,
        "options": None,
        "activity": "jump",
        "test_info": [{"realtime": 1.0, "count": 0}, {"realtime": 2.0, "count": 12}],
    },
    {
        "id": 10,
        "task": "SSR",
        "video": "src/b.mp4",
        "tutorial": "tea",
        "test_info": [{"realtime": 1.0, "step": "Boil water", "type": 1}],
    },
    {
        "id": 11,
        "task": "CRR",
        "video": "src/b.mp4",
        "question": "Who comes in?",
        "answer": "A dog",
        "test_info": [{"realtime": 1.0, "type": 0}],
    },
]
STREAMINGBENCH: list[dict[str, Any]] = [
    {
        "time": "[0:00:00 - 0:01:00]",
        "video_categories": "games",
        "video_path": "./videos/sample_1_real.mp4",
        "questions": [
            {
                "task_type": "Object Perception",
                "question": "What is seen now?",
                "time_stamp": stamp,
                "answer": "B",
                "options": options,
                "required_ability": "working memory",
            }
        ],
    }
    for stamp, options in (
        ("00:01:02", ["A. A cup", "B. A box", "C. A dog", "D. A cat"]),
        ("00:00:02", ["A cup", "A box", "A dog", "A cat"]),
    )
]
EGOSCHEMA: list[dict[str, Any]] = [
    {
        "q_uid": name,
        "google_drive_id": "x",
        "question": "What is c doing?",
        **{f"option {n}": f"C does {n}" for n in range(5)},
    }
    for name in ("uid-1", "uid-2", "unanswered")
]
VIDEOMME: list[dict[str, Any]] = [
    {
        "video_id": "001",
        "duration": "short",
        "domain": "Knowledge",
        "sub_category": "Humanity & History",
        "url": "of the video",
        "videoID": "fFjv93ACGo8",
        "question_id": f"001-{n}",
        "task_type": task,
        "question": f"What is {n}?",
        "options": ["A. One.", "B. Two.", "C. Three.", "D. Four."],
        "answer": "ABCD"[n],
    }
    for n, task in enumerate(("Counting Problem", "OCR Problems", "Counting Problem"))
]
REKV: list[dict[str, Any]] = [
    {
        "video_id": "v1",
        "video_path": "/disk/of/others/data/mlvu/videos/3_ego/v1.mp4",
        "duration": 3.0,
        "conversations": [
            {"question": "What?", "choices": ["cup", "box"], "answer": "box", "question_type": "ego"},
            {"question": "How many?", "choices": ["2", "1", "0"], "answer": "1"},
        ],
    },
    {
        "video_id": "v2",
        "video_path": "v2.mp4",
        "duration": "short",
        "conversations": [
            {"question": "Which?", "choices": ["C does 0", "C does 1"], "answer": "1", "question_idx": 3},
            {"question": "Which?", "choices": ["A. One.", "B. Two."], "answer": "A", "question_type": "OCR"},
        ],
    },
]


def write_json(path: Path, value: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def write_video(path: Path, frames: int = 24, fps: int = 8) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_moving_square(path, frames, fps)


def ovo_bench(data: Path) -> None:
    write_json(data / "ovo_bench_new.json", OVO)
    for name in ("7", "8", "9_0", "9_1", "10_0", "11_0"):
        write_video(data / "chunked_videos" / f"{name}.mp4")


def streamingbench(data: Path) -> None:
    write_json(data / "questions_real.json", STREAMINGBENCH)
    write_video(data / "real" / "sample_1" / "video.mp4", frames=65, fps=1)


def egoschema(data: Path) -> None:
    write_json(data / "questions.json", EGOSCHEMA)
    write_json(data / "subset_answers.json", {"uid-2": 3, "uid-1": 0})
    for name in ("uid-1", "uid-2"):
        write_video(data / "videos" / f"{name}.mp4")


def mlvu(data: Path) -> None:
    for name in MLVU_FILES:
        entry = {"video": "one.mp4", "duration": 3.0, "question": "How many?", "question_type": name[2:]}
        write_json(data / "json" / f"{name}.json", [{**entry, "candidates": [4, "2", "many"], "answer": 2}])
        write_video(data / "video" / name / "one.mp4")


def videomme(data: Path) -> None:
    write_json(data / "videomme.json", VIDEOMME)
    write_video(data / "data" / "fFjv93ACGo8.mp4")


def mvbench(data: Path) -> None:
    for task, folder in MVBENCH_FOLDERS.items():
        entry = {"video": "one.mp4", "question": "What?", "candidates": ["cup", "box"], "answer": "cup"}
        write_json(data / "json" / f"{task}.json", [{**entry, "start": 1.0, "end": 2.5}])
        if task != "episodic_reasoning":
            write_video(data / "video" / folder / "one.mp4")
    pictures = data / "video" / "tvqa/frames_fps3_hq" / "one.mp4"
    write_pictures(pictures, 9)


def write_pictures(folder: Path, count: int) -> None:
    """Write grey JPEG files 00001.jpg and so on, each 20 levels brighter than the one before."""
    import numpy as np

    folder.mkdir(parents=True)
    for number in range(1, count + 1):
        with av.open(str(folder / f"{number:05d}.jpg"), "w", format="image2", options={"update": "1"}) as container:
            stream = container.add_stream("mjpeg", rate=1)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
            picture = np.full((48, 64, 3), 20 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode(None))


def rekv(data: Path) -> None:
    write_json(data / "dev_debug_mc.json", REKV)
    write_video(data / "3_ego" / "v1.mp4")
    write_video(data / "v2.mp4")


#: Writers of the folders, by task.
WRITERS: Mapping[str, Callable[[Path], None]] = {
    "ovo_bench": ovo_bench,
    "streamingbench": streamingbench,
    "streamingbench_history": streamingbench,
    "egoschema": egoschema,
    "mlvu": mlvu,
    "videomme": videomme,
    "mvbench": mvbench,
    "rekv": rekv,
}
