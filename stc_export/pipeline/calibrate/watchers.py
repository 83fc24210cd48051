"""Who watches a clip under a policy: one bundle, opened once, in this process, with nothing else beside it.

Times are then those of ``run`` on this device. Processes beside each other would be faster through the search, and slow
down what is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Protocol

from stc_export.spec.errors import VideoError
from stc_export.spec.policy import Policy, named_policies
from stc_export.validate.cuts import FrameShelf
from stc_export.validate.fidelity import watch_pair
from stc_export.validate.paired import PairedStream
from stc_export.validate.recorded import RecordedStream
from stc_export.validate.tasks import Task
from stc_export.validate.types import ClipOutcome, TaskClip
from stc_runtime.model import Model
from stc_runtime.session import StreamSession

#: Room for the frames of clips, and for what the uncompressed model made of them, each.
_ROOM_BYTES = 512 * 1024 * 1024


class Watcher(Protocol):
    """Streams clips."""

    def watch(self, policy: Policy, clip: TaskClip) -> ClipOutcome:
        """Stream a clip under a policy and ask its questions.

        Raises:
            VideoError: The clip cannot be watched.
            StcError: The policy does not fit the bundle.
        """
        ...


class PlainWatcher:
    """Streams clips that know their right answers.

    Args:
        model: An opened bundle.
        task: Where the clips come from.
    """

    def __init__(self, model: Model, task: Task) -> None:
        self._model, self._task = model, task
        self._shelf = FrameShelf(_ROOM_BYTES)

    def watch(self, policy: Policy, clip: TaskClip) -> ClipOutcome:
        """Stream a clip; see :meth:`Watcher.watch`."""
        with StreamSession(self._model, policy) as session:
            return whole(self._task.watch(session, self._shelf.hold(clip), partial(StreamSession, self._model)))


class PairedWatcher:
    """Streams clips without labels beside an uncompressed stream, which is recorded.

    Args:
        model: An opened bundle.
    """

    def __init__(self, model: Model) -> None:
        self._model = model
        self._shelf = FrameShelf(_ROOM_BYTES)
        off = replace(named_policies()["off"], memory=model.manifest.policy.memory)
        self._dense = RecordedStream(StreamSession(model, off), _ROOM_BYTES)

    def watch(self, policy: Policy, clip: TaskClip) -> ClipOutcome:
        """Stream a clip; see :meth:`Watcher.watch`."""
        held = self._shelf.hold(clip)
        with StreamSession(self._model, policy) as session:
            self._dense.begin(clip.name)
            outcome = whole(watch_pair(PairedStream(session, self._dense), held))
            self._dense.finish()
            return outcome


def whole(outcome: ClipOutcome) -> ClipOutcome:
    """Return a clip that was watched to its end.

    Raises:
        VideoError: It was not.
    """
    if outcome.failure:
        raise VideoError(
            f'Clip "{outcome.clip}" could not be watched: {outcome.failure}',
            "Take it out of the data, or copy it again.",
        )
    return outcome


OpenWatcher = Callable[[Model, Task], Watcher]
_WATCHERS: Mapping[str, OpenWatcher] = {"fidelity": lambda model, _task: PairedWatcher(model)}


def open_watcher(model: Model, task: Task) -> Watcher:
    """Return who watches the clips of a task."""
    return _WATCHERS.get(task.name, PlainWatcher)(model, task)
