"""CUDA graphs of calls that come again: one launch in place of hundreds of kernels and copies."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stc_export.spec.errors import DeviceError

if TYPE_CHECKING:
    from collections.abc import Hashable

    from stc_runtime.backends.cuda import Device

#: Puts something on the stream.
Work = Callable[[], None]
#: Calls that are remembered. A stream has a handful: its state alternates between two places, and sizes are few.
MOST_CALLS = 64


@dataclass(frozen=True)
class Replay:
    """A call that came before.

    Attributes:
        context: The execution context whose work the graph holds: it must stay as it was, so that no other call has it.
        graph: The graph; ``None`` if the call came once, or cannot be captured.
        tried: Whether it was tried to capture it.
    """

    context: Any = None
    graph: int | None = None
    tried: bool = False


class Replays:
    """The calls of an engine that came last."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._known: OrderedDict[Hashable, Replay] = OrderedDict()

    def run(self, call: Hashable, direct: Work, own: Callable[[], tuple[Any, Work]]) -> None:
        """Put a call on the stream: directly at first, then in a context of its own to capture it, then as a graph.

        Args:
            call: What makes it the same as another.
            direct: Puts it on the stream.
            own: Makes a context for this call alone; returns it and what puts the call on the stream in it.
        """
        known = self._known.get(call)
        if known is None or (known.tried and known.graph is None):
            direct()
        elif known.graph is None:
            known = self._captured(*own())
        else:
            self._device.launch(known.graph)
        self._remember(call, known or Replay())

    def _captured(self, context: Any, work: Work) -> Replay:
        work()  # also lets the context settle what it settles at its first run, which cannot be captured
        self._device.wait()
        try:
            return Replay(context, self._device.capture(work), tried=True)
        except DeviceError:
            return Replay(tried=True)

    def _remember(self, call: Hashable, replay: Replay) -> None:
        self._known[call] = replay
        self._known.move_to_end(call)
        if len(self._known) > MOST_CALLS:
            _, oldest = self._known.popitem(last=False)
            if oldest.graph is not None:
                self._device.wait()
                self._device.forget(oldest.graph)
