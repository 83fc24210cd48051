"""Clips under candidates: what was watched before is on file, the rest is watched now and written at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from stc_calib.tuning.budgets import Score
from stc_calib.tuning.search import OutOfTimeError
from stc_calib.tuning.space import Candidate
from stc_export.pipeline.calibrate.figures import score
from stc_export.pipeline.calibrate.watchers import Watcher
from stc_export.spec.dims import ModelDims
from stc_export.validate.folder import Rows
from stc_export.validate.rows import SettingClip
from stc_export.validate.types import ClipOutcome, TaskClip

#: Monotonic time in seconds.
Clock = Callable[[], float]
Advance = Callable[[int], None]


class Library:
    """The outcomes of clips under candidates.

    Args:
        watcher: Who watches what is missing.
        rows: What is on file.
        clock: Tells the time.
    """

    def __init__(self, watcher: Watcher, rows: Rows, clock: Clock) -> None:
        self._watcher, self._rows, self._clock = watcher, rows, clock
        self._known = {(row.setting, row.outcome.clip): row.outcome for row in rows.done}

    def now(self) -> float:
        """Return the time in seconds; only differences mean something."""
        return self._clock()

    def outcome(self, candidate: Candidate, clip: TaskClip, until: float) -> ClipOutcome:
        """Return what a clip gave under a candidate, watching it if that was not done before.

        Args:
            candidate: The candidate.
            clip: The clip.
            until: No clip is begun after this time.

        Raises:
            OutOfTimeError: It would have to be begun later.
            StcError: The clip cannot be watched.
        """
        known = self._known.get((candidate.name, clip.name))
        if known is None:
            if self._clock() >= until:
                raise OutOfTimeError
            known = self._watcher.watch(candidate.policy, clip)
            self._rows.append(SettingClip(candidate.name, known))
            self._known[candidate.name, clip.name] = known
        return known

    def outcomes(
        self, candidate: Candidate, clips: Sequence[TaskClip], until: float, advance: Advance
    ) -> list[ClipOutcome]:
        """Return what several clips gave, telling ``advance`` of each; see :meth:`outcome`."""
        found = []
        for clip in clips:
            found.append(self.outcome(candidate, clip, until))
            advance(1)
        return found


@dataclass(frozen=True)
class SearchTrials:
    """The trials of a search (:class:`stc_calib.tuning.search.Trials`).

    Attributes:
        library: What was watched.
        clips: The clips of the search.
        baseline: The uncompressed model.
        dims: Sizes of the model.
        until: No clip is begun after this time.
        advance: Told of every score.
    """

    library: Library
    clips: Sequence[TaskClip]
    baseline: Candidate
    dims: ModelDims
    until: float
    advance: Advance

    def score(self, candidate: Candidate, clips: int) -> Score:
        """Return what a candidate gives on the first ``clips`` clips.

        Raises:
            OutOfTimeError: A clip would have to be watched, and the time is up.
        """
        own, off = (
            self.library.outcomes(one, self.clips[:clips], self.until, _unseen) for one in (candidate, self.baseline)
        )
        self.advance(1)
        return score(candidate.policy, own, off, self.dims)


def _unseen(_amount: int) -> None:
    """The search counts scores, not clips."""
