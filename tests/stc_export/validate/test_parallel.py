"""Work shared out among processes. That they do it is tested with the command."""

from __future__ import annotations

import multiprocessing
import signal
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stc_export.spec.errors import BundleError, ResourceError
from stc_export.spec.policy import Policy, PrunerPolicy
from stc_export.validate.demo import quiz_clip
from stc_export.validate.parallel import Part, run_parts, share_out
from stc_export.validate.tasks import find_task
from stc_export.validate.types import Setting
from stc_export.world.script import write_clip
from stc_export.world.splits import ask_about

CLIP = quiz_clip(ask_about(write_clip("validation/0", 6), 2))
DEMO = find_task("demo")
A_SETTING = Setting("base", Policy())


@given(st.lists(st.integers(0, 300), max_size=6), st.integers(1, 64))
def test_parts_are_the_work_in_order_and_none_is_too_long(counts: list[int], jobs: int) -> None:
    work = [Part(Path(), DEMO, replace(A_SETTING, name=str(n)), (CLIP,) * count) for n, count in enumerate(counts)]
    parts = share_out(work, jobs)
    assert all(1 <= len(part.clips) <= 32 for part in parts)
    done = [(part.setting.name, quiz) for part in parts for quiz in part.clips]
    assert done == [(part.setting.name, quiz) for part in work for quiz in part.clips]


def test_parts_keep_all_processes_busy() -> None:
    work = [Part(Path(), DEMO, A_SETTING, (CLIP,) * 30)] * 2
    assert [len(part.clips) for part in share_out(work, 8)] == [8, 8, 8, 6] * 2


def test_the_error_of_a_process_is_raised_here(tiny_bundle: Path) -> None:
    missing = Setting("missing", Policy(pruner=PrunerPolicy(method="missing")))
    with pytest.raises(BundleError, match='no pruner graph "missing"'):
        run_parts([Part(tiny_bundle, DEMO, missing, (CLIP,))], 1, lambda _: None)


def test_a_killed_process_is_told_with_what_to_do(tiny_bundle: Path) -> None:
    def kill(_: object) -> None:
        for process in multiprocessing.active_children():
            process.kill()

    with pytest.raises(ResourceError, match=f"ended by signal {signal.SIGKILL:d}.* fewer --jobs"):
        run_parts([Part(tiny_bundle, DEMO, A_SETTING, (CLIP,) * 500)], 1, kill)
    assert multiprocessing.active_children() == []
