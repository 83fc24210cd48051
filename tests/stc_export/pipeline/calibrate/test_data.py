"""How clips are shared out between the search and the final figures."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from stc_export.pipeline.calibrate.data import split
from stc_export.validate.cuts import HeldFrames
from stc_export.validate.types import TaskClip

LENGTHS = st.lists(st.integers(1, 12), max_size=12)


def films(lengths: list[int]) -> list[tuple[TaskClip, ...]]:
    return [
        tuple(TaskClip(f"{film}/{place}", HeldFrames(()), ()) for place in range(length))
        for film, length in enumerate(lengths)
    ]


def names(clips: tuple[TaskClip, ...]) -> list[str]:
    return [clip.name for clip in clips]


@given(LENGTHS)
def test_every_clip_is_in_one_part_and_the_parts_are_halves(lengths: list[int]) -> None:
    search, held_out = split(films(lengths))
    assert sorted(names(search) + names(held_out)) == sorted(clip.name for film in films(lengths) for clip in film)
    assert len(held_out) == sum(lengths) // 2


@given(LENGTHS)
def test_what_is_held_out_of_a_video_comes_after_what_is_searched(lengths: list[int]) -> None:
    search, held_out = split(films(lengths))
    for film in range(len(lengths)):
        before = [int(name.split("/")[1]) for name in names(search) if name.startswith(f"{film}/")]
        after = [int(name.split("/")[1]) for name in names(held_out) if name.startswith(f"{film}/")]
        assert max(before, default=-1) < min(after, default=len(names(search)) + lengths[film])


def test_the_search_begins_with_a_clip_of_each_video() -> None:
    search, held_out = split(films([4, 4, 4]))
    assert names(search) == ["0/0", "1/0", "2/0", "0/1", "1/1", "2/1"]
    assert names(held_out) == ["0/2", "0/3", "1/2", "1/3", "2/2", "2/3"]


def test_of_videos_with_one_clip_every_other_one_is_held_out() -> None:
    search, held_out = split(films([1, 1, 1, 1, 1]))
    assert names(search) == ["0/0", "2/0", "4/0"]
    assert names(held_out) == ["1/0", "3/0"]
