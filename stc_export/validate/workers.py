"""Who does the work of a validation: processes of this machine, or a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

from stc_engines.detect import count_cores
from stc_export.validate.cluster import connected, run_parts_on_ray
from stc_export.validate.meter import EnergyMeter, Meter, NoMeter
from stc_export.validate.parallel import OnClip, Part, run_parts
from stc_export.validate.types import WorkersKind


@dataclass(frozen=True)
class Workers:
    """Somebody to run parts.

    Attributes:
        kind: Where they are.
        jobs: Most parts at a time.
        run: Runs parts, so many at a time, and gives each clip to a receiver in this process.
        meter: Reads the energy that this takes.
    """

    kind: WorkersKind
    jobs: int
    run: Callable[[Sequence[Part], int, OnClip], None]
    meter: Meter


@contextmanager
def _local(_address: str, jobs: int | None) -> Iterator[Workers]:
    yield Workers("local", jobs or count_cores(), run_parts, EnergyMeter())


@contextmanager
def _ray(address: str, jobs: int | None) -> Iterator[Workers]:
    with connected(address) as cpus:
        yield Workers("ray", jobs or cpus, run_parts_on_ray, NoMeter("clips were streamed on a Ray cluster"))


_OPENERS: Mapping[WorkersKind, Callable[[str, int | None], AbstractContextManager[Workers]]] = {
    "local": _local,
    "ray": _ray,
}


def open_workers(ray: str | None, jobs: int | None) -> AbstractContextManager[Workers]:
    """Return workers as a context.

    Args:
        ray: Address of a Ray cluster; ``None``: processes of this machine.
        jobs: Most parts at a time; ``None``: one per core that there is.

    Raises:
        StcError: On entry: there is no such cluster.
    """
    kind: WorkersKind = "local" if ray is None else "ray"
    return _OPENERS[kind](ray or "", jobs)
