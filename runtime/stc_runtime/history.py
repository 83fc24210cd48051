"""What a pruning method remembers of earlier frames, kept by the host and fed to the pruner graph."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from stc_export.spec.manifest import PrunerEntry


class PrunerHistory:
    """History of one stream, preallocated, of the kind that the method's manifest entry declares.

    * ``window``: the last W entries in a ring, each weighted ``1 / count`` of those there are.
    * ``mean``: the mean of all n entries, weighted ``n / (n + 1)``; the graph gives the current frame the remaining
      ``1 / (n + 1)``, because the released STC code appends a frame to its history before scoring it.
    * ``last``: the last entry, with weight 1: a window of one row, whatever the policy's W is. It is the previous
      frame's, unless the frame budget says that a frame is not to be remembered (``dycoke``).
    * ``none``: nothing; the graph has no history inputs.

    Before the first entry all weights are zero.
    """

    def __init__(self, entry: PrunerEntry, window: int) -> None:
        """Reserve the memory.

        Args:
            entry: Kind of history and width E of an entry.
            window: W; used by ``window`` only.
        """
        rows = {"none": 0, "mean": 1, "window": window, "last": 1}[entry.history]
        self._kind = entry.history
        self._rows = np.zeros((rows, entry.history_width), np.float32)
        self._weights = np.zeros(rows, np.float32)
        # A float32 mean of millions of frames would stop moving; the sum is kept in double.
        self._sum = np.zeros(entry.history_width if self._kind == "mean" else 0, np.float64)
        self._entries = 0

    @property
    def entries(self) -> int:
        """Entries pushed since the start or the last reset."""
        return self._entries

    @property
    def nbytes(self) -> int:
        """Bytes reserved, the same for life."""
        return self._rows.nbytes + self._weights.nbytes + self._sum.nbytes

    def inputs(self) -> dict[str, NDArray[np.float32]]:
        """Return the graph inputs ``history`` [W, E] ([1, E] for ``mean``) and ``history_weights`` [W].

        Both are the live arrays: the next :meth:`push` changes them in place. Empty for kind ``none``.
        """
        if self._kind == "none":
            return {}
        return {"history": self._rows, "history_weights": self._weights}

    def push(self, entry: NDArray[np.floating]) -> None:
        """Remember a frame's entry [E]; does nothing for kind ``none``.

        Raises:
            ValueError: Another shape.
        """
        if self._kind == "none":
            return
        if entry.shape != self._rows.shape[1:]:
            raise ValueError(f"history entry has shape {entry.shape}, expected {self._rows.shape[1:]}")
        if self._kind == "mean":
            self._push_mean(entry)
        else:
            self._push_window(entry)
        self._entries += 1

    def reset(self) -> None:
        """Forget everything."""
        self._rows.fill(0)
        self._weights.fill(0)
        self._sum.fill(0)
        self._entries = 0

    def _push_window(self, entry: NDArray[np.floating]) -> None:
        window = self._rows.shape[0]
        self._rows[self._entries % window] = entry
        count = min(self._entries + 1, window)
        self._weights[:count] = 1.0 / count

    def _push_mean(self, entry: NDArray[np.floating]) -> None:
        count = self._entries + 1
        self._sum += entry
        self._rows[0] = self._sum / count
        self._weights[0] = count / (count + 1)
