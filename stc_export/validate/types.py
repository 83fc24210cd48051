"""What goes in and out of a validation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from stc_export.spec.policy import Policy

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

#: Where the processes run that watch clips: on this machine, or on a Ray cluster.
WorkersKind = Literal["local", "ray"]


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
        right: The right answer, as the scorer understands it; ``None``: only the run tells, see :func:`settled` of
            :mod:`stc_export.validate.scorers`.
        scorer: Name of a scorer, see :mod:`stc_export.validate.scorers`.
        max_tokens: Most tokens of the answer.
    """

    template: str
    group: str
    at_s: float
    prompt: str
    right: str | None
    scorer: str
    max_tokens: int


@dataclass(frozen=True)
class TaskClip:
    """Something to watch and the questions about it, in order of time."""

    name: str
    footage: Footage
    questions: tuple[TaskQuestion, ...]


@dataclass(frozen=True)
class TaskOptions:
    """What was asked for of a task.

    Attributes:
        data: Video, or folder with the files of the task.
        fps: Frames to take per second of video; ``None``: the task's own choice.
        scorer: Name of a scorer; ``None``: the task's own.
        limit: Only so many clips; ``None``: all.
        ask: Questions in place of the task's own.
    """

    data: Path | None = None
    fps: float | None = None
    scorer: str | None = None
    limit: int | None = None
    ask: tuple[str, ...] = ()


@dataclass(frozen=True)
class TaskClips:
    """The clips of a task.

    Attributes:
        clips: The clips.
        notes: Sentences on what differs from the benchmark as it is documented.
        annotations: SHA-256 of the files behind them; "" without any.
        fps: Frames per second that are taken; ``None`` where no video is read.
        asked: Questions that every clip is asked; empty where each has its own.
    """

    clips: tuple[TaskClip, ...]
    notes: tuple[str, ...] = ()
    annotations: str = ""
    fps: float | None = None
    asked: tuple[str, ...] = ()


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
class ClipFidelity:
    """How close a clip's stream stayed to an uncompressed one beside it. Errors are relative: |x - dense| / |dense|.

    Attributes:
        feature_cosine: Of each frame, the mean cosine of its T ViT features with the dense ones. A skipped frame has
            those of the frame before.
        feature_error: Of each frame, the relative error of its ViT features [T, C].
        token_cosine: Of each frame that gave the LLM tokens, the mean cosine of these K projected visual tokens with
            those of the same places of the dense frame.
        token_error: Of the same frames, the relative error of these tokens [K, D].
        same_first: Of each question, whether the first tokens of both answers are equal.
        divergence: Of each question, KL(dense || compressed) of the first token's distribution, in nats.
    """

    feature_cosine: tuple[float, ...]
    feature_error: tuple[float, ...]
    token_cosine: tuple[float, ...]
    token_error: tuple[float, ...]
    same_first: tuple[bool, ...]
    divergence: tuple[float, ...]


@dataclass(frozen=True)
class ClipOutcome:
    """What one clip gave under one policy.

    Attributes:
        clip: Its name.
        answers: In the order of the questions.
        work: What it cost.
        times: How long that took.
        peak_rss_bytes: Largest resident size of the process until then; ``None`` where it is not known.
        failure: Why the clip could not be watched to its end, in which case it has no answers; "" if it could.
        fidelity: How close it stayed to no compression, where the task compares that.
    """

    clip: str
    answers: tuple[Answered, ...]
    work: Work
    times: StageTimes
    peak_rss_bytes: int | None = None
    failure: str = ""
    fidelity: ClipFidelity | None = None


#: What a setting runs in: the bundle, or the original model in PyTorch.
Engine = Literal["bundle", "torch"]


@dataclass(frozen=True)
class Setting:
    """A policy that is validated, under the name that results carry.

    Attributes:
        name: Its name.
        policy: Its policy.
        engine: What runs it.
        bundle: Label of the bundle that runs it; "": the one that was named first.
    """

    name: str
    policy: Policy
    engine: Engine = "bundle"
    bundle: str = ""


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
