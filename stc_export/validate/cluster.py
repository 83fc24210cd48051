"""Settings and clips shared out on a Ray cluster. Results are sent here; nothing is written elsewhere."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from stc_export.spec.errors import DeviceError, MissingDependencyError, ResourceError, StcError
from stc_export.validate.parallel import OnClip, Part, watch_part
from stc_export.validate.rows import SettingClip

#: Read by Ray when it is imported: it sends nothing to its makers, and a process may use the GPUs that are there.
_SETTINGS = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}

#: How long a machine may take to accept a connection.
_PATIENCE_S = 10.0


@contextmanager
def connected(address: str) -> Iterator[int]:
    """Connect to a cluster, give the number of its CPUs, and disconnect.

    Args:
        address: ``HOST:PORT``, ``auto`` for the cluster that this machine belongs to, or ``local`` for a new one that
            ends with the connection.

    Raises:
        MissingDependencyError: Ray is not installed.
        DeviceError: No cluster answers.
    """
    ray = _import_ray()
    try:
        _check_listening(address)
        ray.init(address=address, include_dashboard=False if address == "local" else None, log_to_driver=False)
    except (OSError, RuntimeError, ValueError) as error:
        raise DeviceError(
            f'No Ray cluster of this version answers at "{address}": {_first_line(error)}.',
            "Start one with: ray start --head, and name its HOST:PORT.",
        ) from error
    try:
        yield int(ray.cluster_resources().get("CPU", 1))
    finally:
        ray.shutdown()


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "it does not say why").rstrip(".")


def _check_listening(address: str) -> None:
    """Refuse an address where nothing listens at once; Ray tries for minutes."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host.removeprefix("ray://"), int(port)), _PATIENCE_S).close()


def run_parts_on_ray(parts: Sequence[Part], jobs: int, on_clip: OnClip) -> None:
    """Run parts on the cluster that is connected; see :func:`stc_export.validate.parallel.run_parts`.

    Args:
        parts: What to run; every machine of the cluster has the bundles at the same places.
        jobs: Most tasks at a time.
        on_clip: Called here with each clip as it is complete.

    Raises:
        StcError: That of a task, or its process has died.
    """
    ray = _import_ray()
    task = ray.remote(num_cpus=1, max_retries=0, num_returns="streaming")(_work)
    waiting, running = list(parts), list[Any]()
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                running.append(task.remote(waiting.pop(0)))
            for ready in ray.wait(running, num_returns=1)[0]:
                if not _receive(ready, on_clip):
                    running.remove(ready)
    finally:
        for left in running:
            ray.cancel(left, force=True)


def _import_ray() -> Any:
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    try:
        import ray
    except ImportError as error:
        raise MissingDependencyError(
            "--ray needs the Python package ray.", 'Run pip install "stc-export[ray]".'
        ) from error
    return ray


def _receive(results: Any, on_clip: OnClip) -> bool:
    """Take what a task sent; False when it has ended."""
    import ray

    try:
        sent = ray.get(next(results))
    except StopIteration:
        return False
    except (ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError, ray.exceptions.OutOfMemoryError) as error:
        raise ResourceError(
            "A process of the validation has died on the Ray cluster; memory may not suffice.",
            "Run the same command with fewer --jobs: it continues.",
        ) from error
    if isinstance(sent, Exception):
        raise sent
    on_clip(sent)
    return True


def _work(part: Part) -> Iterator[SettingClip | Exception]:
    """Run a part, on the cluster. An error is sent as it is, since Ray would wrap it."""
    try:
        yield from watch_part(part)
    except (StcError, MemoryError, OSError, ImportError) as error:
        yield error
