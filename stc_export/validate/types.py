"""What goes in and out of a validation."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Answered:
    """One question and what was answered.

    Attributes:
        clip: Name of the clip.
        number: Number of the question about the clip.
        template: Kind of the question.
        group: Group of the question.
        right: The right letter.
        given: First character of the answer, ignoring white space; "" if there is none.
    """

    clip: str
    number: int
    template: str
    group: str
    right: str
    given: str

    @property
    def correct(self) -> bool:
        """Whether the right letter was given."""
        return self.given == self.right


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
