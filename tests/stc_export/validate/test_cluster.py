"""A Ray cluster of two workers on this machine gives what processes give; errors and ends are told."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from stc_export.pipeline.validate.run import validate
from stc_export.pipeline.validate.types import ValidateRequest
from stc_export.spec import codec
from stc_export.spec.errors import BundleError, DeviceError, MissingDependencyError, ResourceError
from stc_export.spec.policy import Policy, PrunerPolicy, named_policies
from stc_export.spec.progress import Silent
from stc_export.validate.cluster import connected, run_parts_on_ray
from stc_export.validate.demo import quiz_clip
from stc_export.validate.parallel import Part
from stc_export.validate.rows import SettingClip
from stc_export.validate.tasks import find_task
from stc_export.validate.types import Setting
from stc_export.world.script import write_clip
from stc_export.world.splits import ask_about

CLIP = quiz_clip(ask_about(write_clip("validation/0", 6), 2))
DEMO = find_task("demo")
A_SETTING = Setting("base", Policy())


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A folder for Ray's files, the same for all clusters, since Ray remembers its key; and the way to our modules."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        yield


@pytest.fixture
def cluster(home: None) -> Iterator[int]:
    """A new cluster of two workers."""
    with connected("local") as cpus:
        yield cpus


def test_no_ray_is_told_with_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with (
        pytest.raises(MissingDependencyError, match=r'--ray needs .* pip install "stc-export\[ray\]"'),
        connected("auto"),
    ):
        pass


def test_an_address_where_nothing_listens_is_told_at_once() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(DeviceError, match=rf'answers at "{address}".* ray start --head'), connected(address):
            pass


@pytest.mark.slow
def test_errors_and_deaths_of_workers_are_told(cluster: int, tiny_bundle: Path) -> None:
    missing = Setting("missing", Policy(pruner=PrunerPolicy(method="missing")))
    with pytest.raises(BundleError, match='no pruner graph "missing"'):
        run_parts_on_ray([Part(tiny_bundle, DEMO, missing, (CLIP,))], cluster, lambda _: None)
    deadly = replace(DEMO, watch=_die)
    with pytest.raises(ResourceError, match=r"has died on the Ray cluster.* fewer --jobs"):
        run_parts_on_ray([Part(tiny_bundle, deadly, A_SETTING, (CLIP,))], cluster, lambda _: None)


def _die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
def test_an_interrupt_ends_the_tasks(cluster: int, tiny_bundle: Path) -> None:
    import ray

    seen: list[SettingClip] = []

    def interrupt(done: SettingClip) -> None:
        seen.append(done)
        raise KeyboardInterrupt

    parts = [Part(tiny_bundle, DEMO, A_SETTING, (CLIP,) * 500)] * 2
    with pytest.raises(KeyboardInterrupt):
        run_parts_on_ray(parts, cluster, interrupt)
    assert len(seen) == 1
    waiting = ray.remote(num_cpus=cluster)(lambda: 1).remote()  # runs once no task has a CPU any more
    assert ray.get(waiting, timeout=60) == 1


@pytest.mark.slow
def test_validate_on_ray_gives_what_processes_give(home: None, tiny_bundle: Path, tmp_path: Path) -> None:
    request = ValidateRequest(
        tiny_bundle, "demo", tmp_path / "local", named_policies()["paper"], ("pruner.keep=0.5",), limit=2, jobs=2
    )
    here = validate(request, Silent())
    there = validate(replace(request, report=tmp_path / "ray", ray="local"), Silent())
    assert (here.workers, there.workers) == ("local", "ray")
    assert there.energy.reason == "clips were streamed on a Ray cluster"
    for one, other in zip(here.settings, there.settings, strict=True):
        assert (one.name, one.policy, one.overall, one.groups, one.work) == (
            other.name,
            other.policy,
            other.overall,
            other.groups,
            other.work,
        )
    assert codec.from_json(type(there), (tmp_path / "ray" / "summary.json").read_text(encoding="utf-8")) == there
