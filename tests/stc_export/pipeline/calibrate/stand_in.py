"""Watches clips without a model: answers and work follow from the policy by simple rules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from stc_export.spec.policy import Policy
from stc_export.validate.scorers import answered, settled
from stc_export.validate.types import ClipFidelity, ClipOutcome, StageTimes, TaskClip, Work

#: Frames of a clip, T and M of the tiny models.
FRAMES, TOKENS, VISUAL = 24, 25, 9


def is_faithful(policy: Policy) -> bool:
    """Whether a policy answers as the uncompressed model does: it keeps at least half, and skips nothing."""
    kept = 1.0 if policy.pruner.method == "none" else policy.pruner.keep
    return kept >= 0.5 and policy.gate.mode != "adaptive"


def make_outcome(policy: Policy, clip: TaskClip, *, faithful: bool) -> ClipOutcome:
    """Return what a clip gives: one wrong answer under a policy that is not faithful, times as what is kept."""
    dense = policy.gate.mode == "off"
    full = FRAMES if dense else FRAMES // 4
    kept = VISUAL if policy.pruner.method == "none" else max(1, int(VISUAL * policy.pruner.keep))
    texts = ["no" if number == 0 and not faithful else "yes" for number in range(len(clip.questions))]
    answers = tuple(
        answered(clip.name, number, settled(question, "yes"), text)
        for number, (question, text) in enumerate(zip(clip.questions, texts, strict=True))
    )
    nats = tuple(0.0 if text == "yes" else 0.5 for text in texts)
    computed = full * TOKENS + (FRAMES - full) * 6
    work = Work(FRAMES, full, FRAMES - full, FRAMES * TOKENS, computed, FRAMES * VISUAL, FRAMES * kept)
    times = StageTimes(
        frame=(float(kept + full),) * FRAMES,
        gate=(),
        vit_full=(float(full),) * full,
        vit_selective=(),
        pruner=(),
        prefill=(float(kept),) * FRAMES,
        decode=(),
        first_token=(),
    )
    closeness = ClipFidelity((0.5,) * FRAMES, (0.5,) * FRAMES, (0.5,), (0.5,), (True,), nats)
    return ClipOutcome(clip.name, answers, work, times, fidelity=closeness)


@dataclass
class StandIn:
    """Stands for a watcher; an interrupt can come before a clip.

    Attributes:
        watched: What it was asked for.
        interrupt_at: Number of the clip before which the interrupt comes.
        faithful: Whether a policy answers as the uncompressed model does.
    """

    watched: list[tuple[Policy, str]] = field(default_factory=list)
    interrupt_at: int = -1
    faithful: Callable[[Policy], bool] = is_faithful

    def open(self, _model: object, _task: object) -> StandIn:
        return self

    def watch(self, policy: Policy, clip: TaskClip) -> ClipOutcome:
        if len(self.watched) == self.interrupt_at:
            raise KeyboardInterrupt
        self.watched.append((policy, clip.name))
        return make_outcome(policy, clip, faithful=self.faithful(policy))
