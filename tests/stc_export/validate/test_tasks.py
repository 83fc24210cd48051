from __future__ import annotations

from itertools import islice

import pytest

from stc_export.spec.errors import UnsupportedError
from stc_export.validate.demo import quiz_clip
from stc_export.validate.scorers import SCORERS
from stc_export.validate.tasks import TASKS, find_task, read_task
from stc_export.validate.types import TaskOptions
from stc_export.world.splits import draw_test_set


def test_demo_is_the_test_set_of_the_world() -> None:
    read = read_task(find_task("demo"), TaskOptions(limit=3)).clips
    assert read == tuple(quiz_clip(quiz) for quiz in islice(draw_test_set(), 3))
    assert [clip.name for clip in read] == ["test/0", "test/1", "test/2"]


def test_an_unknown_task_is_refused_with_the_nearest() -> None:
    with pytest.raises(UnsupportedError, match='Did you mean "demo"'):
        find_task("dmeo")


def test_every_scorer_belongs_to_a_task_and_every_task_has_known_ones() -> None:
    assert {name for task in TASKS.values() for name in task.scorers} == set(SCORERS)
