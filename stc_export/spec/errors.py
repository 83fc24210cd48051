"""The exception tree. Every error that a user can cause is one of these, and knows its exit code.

    StcError
      UsageError            (ValueError)    2   a flag or argument that contradicts itself
      UnsupportedError      (LookupError)   2   family, target, method or precision that we do not have
      PolicyError           (ValueError)    2   a policy file or value
      CheckpointError       (OSError)       2   missing, unreadable or inconsistent checkpoint
      BundleError           (OSError)       2   missing, altered or newer bundle
      VideoError            (OSError)       2   a video that cannot be read
      FrameError            (ValueError)    2   a frame of the wrong type, or time that goes backwards
      QuestionError         (ValueError)    2   an empty or too long question
      SessionStateError     (RuntimeError)  2   calls in the wrong order
      ParityError           (RuntimeError)  1   numbers outside their tolerance
      EngineError           (RuntimeError)  1   a graph that a compiler refuses
      MissingDependencyError(ImportError)   3   a package that an extra installs
      DeviceError           (RuntimeError)  3   a device or driver that is not here
      ResourceError         (MemoryError)   4   memory or disk that does not suffice

A message is two sentences: ``problem`` names the user's own value and what was expected, ``fix`` names the next step.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Iterable


class StcError(Exception):
    """Base of all errors meant for users.

    Args:
        problem: One sentence: what is wrong, with the user's value and what was expected.
        fix: One sentence: what to do next.
    """

    exit_code: ClassVar[int] = 2

    def __init__(self, problem: str, fix: str) -> None:
        super().__init__(f"{problem} {fix}")
        self.problem = problem
        self.fix = fix

    def __reduce__(self) -> tuple[type[StcError], tuple[str, str]]:
        """Let the error cross to another process whole; the default keeps the joined text only."""
        return type(self), (self.problem, self.fix)


class UsageError(StcError, ValueError):
    """A flag or argument that is wrong or contradicts another."""


class UnsupportedError(StcError, LookupError):
    """A family, target, method or precision that does not exist here."""


class PolicyError(StcError, ValueError):
    """A policy value outside its range, or a policy file that cannot be read."""


class CheckpointError(StcError, OSError):
    """A checkpoint that is missing, unreadable, or disagrees with its own config."""


class BundleError(StcError, OSError):
    """A bundle that is missing, altered, or written by a newer version."""


class VideoError(StcError, OSError):
    """A video that is missing, empty, truncated or has no picture."""


class FrameError(StcError, ValueError):
    """A frame of the wrong type or shape, or a timestamp that goes backwards."""


class QuestionError(StcError, ValueError):
    """A question that is empty or does not fit the context."""


class SessionStateError(StcError, RuntimeError):
    """A session used in the wrong order, after its end, or from two threads at once."""


class ParityError(StcError, RuntimeError):
    """A graph whose numbers differ from the module it came from."""

    exit_code = 1


class EngineError(StcError, RuntimeError):
    """A graph from which a compiler makes no engine."""

    exit_code = 1


class MissingDependencyError(StcError, ImportError):
    """A package that is not installed; the fix names the command that installs it."""

    exit_code = 3


class DeviceError(StcError, RuntimeError):
    """A device, driver or backend that this machine does not have."""

    exit_code = 3


class ResourceError(StcError, MemoryError):
    """Memory, disk or a declared budget that does not suffice."""

    exit_code = 4


def nearest(name: str, choices: Iterable[str]) -> str:
    """Return a phrase that lists the choices, nearest match first: ``Did you mean "a"? Known: a, b.``."""
    known = list(choices)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f'Did you mean "{close[0]}"? ' if close else ""
    return f"{hint}Known: {', '.join(known) or 'none'}."
