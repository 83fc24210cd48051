"""From the folder of a benchmark to the clips of a validation, with what differs from its documentation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from stc_export.spec.errors import UsageError
from stc_export.validate.benchmarks.annotations import Annotated, digest
from stc_export.validate.benchmarks.videos import check_videos
from stc_export.validate.types import TaskClip, TaskClips, TaskOptions

#: From a folder and frames per second to all clips of a benchmark.
Reader = Callable[[Path, float], Annotated]


def read_benchmark(reader: Reader, options: TaskOptions) -> TaskClips:
    """Read a benchmark.

    Args:
        reader: Reads its files.
        options: What was asked for; with a folder and a rate.

    Raises:
        UsageError: The folder, a file or all videos are missing, or a file is not as documented.
    """
    data, fps = options.data, options.fps
    if fps is None:
        raise ValueError("a benchmark is read at a rate")
    if data is None or not data.is_dir():
        raise UsageError(f'--data is "{data}", which is no folder.', "Name the folder with the benchmark's files.")
    found = reader(data, fps)
    _check_names(found.clips)
    clips = found.clips[: options.limit]
    check_videos(data, clips)
    return TaskClips(clips, tuple(_differences(found)), digest(found.files), fps)


def _check_names(clips: tuple[TaskClip, ...]) -> None:
    name, count = Counter(clip.name for clip in clips).most_common(1)[0]
    if count > 1:
        raise UsageError(
            f'The annotations have "{name[:80]}" {count} times, expected each once.',
            "Get the files of the benchmark again.",
        )


def _differences(found: Annotated) -> Iterator[str]:
    """Say where the counts are not those that the benchmark documents: its figures do not compare then."""
    counts = Counter(question.template for clip in found.clips for question in clip.questions)
    total = sum(counts.values())
    wrong = [f"{task} {counts[task]} of {n}" for task, n in found.per_task.items() if counts[task] != n]
    if found.questions is not None and (wrong or total != found.questions):
        detail = f" ({', '.join(wrong)})" if wrong else ""
        yield (
            f"the annotations have {total} questions, the benchmark documents {found.questions}{detail}: "
            "figures do not compare with published ones"
        )
