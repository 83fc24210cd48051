"""What goes in and out of a validation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from stc_export.spec.policy import Policy

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Footage(Protocol):
    """Where the frames of a clip come from. It travels to the processes that watch, so it holds no open file."""

    def frames(self) -> Iterator[tuple[NDArray[np.uint8], float]]:
        """Yield frames, uint8 [H, W, 3] RGB, each with its time in seconds, in order.

        Raises:
            VideoError: They cannot be read.
        """
        ...


@dataclass(frozen=True)
class TaskQuestion:
    """A question about a clip.

    Attributes:
        template: Kind of the question.
        group: Group of the question.
        at_s: It is asked after the last frame that is not later; infinite: at the end.
        prompt: What the model is asked, options included.
        right: The right answer, as the scorer understands it.
        scorer: Name of a scorer, see :mod:`stc_export.validate.scorers`.
        max_tokens: Most tokens of the answer.
    """

    template: str
    group: str
    at_s: float
    prompt: str
    right: str
    scorer: str
    max_tokens: int


@dataclass(frozen=True)
class TaskClip:
    """Something to watch and the questions about it, in order of time."""

    name: str
    footage: Footage
    questions: tuple[TaskQuestion, ...]


@dataclass(frozen=True)
class Answered:
    """One question and what was answered.

    Attributes:
        clip: Name of the clip.
        number: Number of the question about the clip.
        template: Kind of the question.
        group: Group of the question.
        right: The right answer.
        given: What the scorer took for the answer; "" if it found none.
        correct: Whether it is right, by the scorer.
        text: The answer as it came, where it was kept.
    """

    clip: str
    number: int
    template: str
    group: str
    right: str
    given: str
    correct: bool
    text: str = ""


@dataclass(frozen=True)
class Work:
    """What a stream cost, summed over all clips.

    Attributes:
        frames: Frames that were pushed.
        full: Frames that were encoded fully.
        selective: Frames that were encoded in part.
        vit_tokens: ViT tokens that exist.
        vit_recomputed: ViT tokens that were computed.
        visual_tokens: Visual tokens before pruning.
        kept_tokens: Visual tokens that reached the LLM.
    """

    frames: int
    full: int
    selective: int
    vit_tokens: int
    vit_recomputed: int
    visual_tokens: int
    kept_tokens: int


def total_work(works: Iterable[Work]) -> Work:
    """Return the sum of the work of several clips."""
    zero = Work(0, 0, 0, 0, 0, 0, 0)
    return Work(*(sum(column) for column in zip(astuple(zero), *map(astuple, works), strict=True)))


@dataclass(frozen=True)
class StageTimes:
    """Milliseconds of each stage, one number per frame that went through it, or per question.

    Attributes:
        frame: Whole frames: the sum of gate, ViT, pruner and prefill.
        gate: Resize, gate and decision.
        vit_full: Vision transformer on frames that were encoded fully.
        vit_selective: The same on frames that were encoded in part.
        pruner: Projector and pruner.
        prefill: The LLM over the kept tokens.
        decode: LLM steps after the first token of an answer.
        first_token: From a question to the first token of its answer.
    """

    frame: tuple[float, ...]
    gate: tuple[float, ...]
    vit_full: tuple[float, ...]
    vit_selective: tuple[float, ...]
    pruner: tuple[float, ...]
    prefill: tuple[float, ...]
    decode: tuple[float, ...]
    first_token: tuple[float, ...]


@dataclass(frozen=True)
class ClipOutcome:
    """What one clip gave under one policy: answers in the order of the questions, cost, and times."""

    clip: str
    answers: tuple[Answered, ...]
    work: Work
    times: StageTimes


#: What a setting runs in: the bundle, or the original model in PyTorch.
Engine = Literal["bundle", "torch"]


@dataclass(frozen=True)
class Setting:
    """A policy that is validated, under the name that results carry.

    Attributes:
        name: Its name.
        policy: Its policy.
        engine: What runs it.
    """

    name: str
    policy: Policy
    engine: Engine = "bundle"


@dataclass(frozen=True)
class Outcome:
    """All answers under one policy, in the order of the questions."""

    answers: tuple[Answered, ...]
    work: Work


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % interval.

    Attributes:
        value: The estimate.
        low: Lower end.
        high: Upper end.
        n: Questions behind it.
    """

    value: float
    low: float
    high: float
    n: int
