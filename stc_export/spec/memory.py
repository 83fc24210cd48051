"""How many tokens a stream's memory holds, and in which sizes graphs see it: what builder and runtime agree on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from stc_export.spec.errors import PolicyError, ResourceError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from stc_export.spec.policy import Budget, MemoryPolicy, PrunerPolicy

#: Visual memory that is kept by default where the model's context allows it.
_DEFAULT_KV_TOKENS = 8192
#: Smallest bucket, and the multiple that all others but the capacity are rounded up to.
_BUCKET_STEP = 64


def kv_budget(memory: MemoryPolicy, context: int) -> int:
    """Return the tokens that the stream's memory may hold.

    By default half of what the context leaves beside the answer, at most 8,192: with as many positions free as tokens
    kept, positions are renumbered at most once per turnover of the memory.

    Raises:
        PolicyError: ``memory.kv_tokens`` does not fit the model's context beside the answer.
        ResourceError: ``memory.answer_tokens`` alone does not fit it.
    """
    room = context - memory.answer_tokens
    if room < 2:
        raise ResourceError(
            f"memory.answer_tokens is {memory.answer_tokens}, the model's context is {context}.",
            "Lower it in the policy.",
        )
    if memory.kv_tokens is None:
        return min(_DEFAULT_KV_TOKENS, room // 2)
    if memory.kv_tokens > room:
        raise PolicyError(
            f"memory.kv_tokens is {memory.kv_tokens}, but the model's context of {context} leaves {room} beside "
            f"{memory.answer_tokens} for the answer.",
            f"Set memory.kv_tokens to at most {room}.",
        )
    return memory.kv_tokens


def kv_slots(memory: MemoryPolicy, context: int) -> int:
    """Return the slots of the KV memory: what is remembered, and a question with its answer behind it.

    Raises:
        PolicyError: See :func:`kv_budget`.
        ResourceError: See :func:`kv_budget`.
    """
    return kv_budget(memory, context) + memory.answer_tokens


def bucket_for(slots: int, capacity: int) -> int:
    """Return the smallest bucket with at least ``slots`` slots: 64, then each 1.25 times the one before, rounded up."""
    bucket = _BUCKET_STEP
    while bucket < slots:
        bucket = -(-bucket * 5 // (4 * _BUCKET_STEP)) * _BUCKET_STEP
    return min(bucket, capacity)


def kept_tokens(total: int, keep: float) -> int:
    """Return K for M = ``total``: rounded down as in the paper, at least 1.

    The product is computed with a little slack, so that 0.3 of 10 is 3 in spite of binary fractions.
    """
    return min(total, max(1, int(total * keep + 1e-9)))


@dataclass(frozen=True)
class BudgetCost:
    """What a budget asks of the device.

    Attributes:
        most: (M, policy) -> most tokens that it gives one frame: what the memory must have room for.
        pruner_runs: Runs of the pruner graph for one frame. A budget that looks at the tokens of a frame needs all of
            them first, and then those that are kept.
    """

    most: Callable[[int, PrunerPolicy], int]
    pruner_runs: int


def _most_of_vidcom2(total: int, pruner: PrunerPolicy) -> int:
    """The share of a frame is below keep * (2 - 1 / F) with F = W + 1 frames, and the remainder adds up to a token."""
    share = pruner.keep * (2 - 1 / (pruner.history + 1))
    return min(total, int(total * share) + 1)


#: Every budget of :data:`stc_export.spec.policy.Budget`.
BUDGET_COSTS: Mapping[Budget, BudgetCost] = {
    "fixed": BudgetCost(lambda total, pruner: kept_tokens(total, pruner.keep), 1),
    "vidcom2": BudgetCost(_most_of_vidcom2, 2),
    "dtd": BudgetCost(lambda total, _pruner: total, 2),
    "evs": BudgetCost(lambda total, _pruner: total, 2),
    "dycoke": BudgetCost(lambda total, _pruner: total, 1),
}
