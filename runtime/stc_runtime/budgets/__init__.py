"""Frame budgets: how many tokens of each frame are kept. Which they are is the pruning method's choice.

The method ranks in its graph, and the graph takes K from the shape of its carrier. A budget that follows the content
needs the frame's tokens before K is known, so the graph runs twice for a frame: with K = M for the tokens, then with K.
What comes out of the second run is by construction what a fixed K of that size gives, and every method can be combined
with every budget, those that do not rank included.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from stc_export.spec.memory import kept_tokens
from stc_runtime.budgets.base import FixedBudget, FrameBudget, FrameSize, Look
from stc_runtime.budgets.change import ChangedBudget, RankedBudget
from stc_runtime.budgets.dycoke import CycleBudget
from stc_runtime.budgets.vidcom2 import UniquenessBudget

if TYPE_CHECKING:
    from stc_export.spec.policy import Budget, PrunerPolicy

__all__ = ["BUDGETS", "FixedBudget", "FrameBudget", "FrameSize", "Look"]

#: What makes the budget of a policy for one stream.
BUDGETS: Mapping[Budget, Callable[[FrameSize, PrunerPolicy], FrameBudget]] = {
    "fixed": lambda size, policy: FixedBudget(kept_tokens(size.tokens, policy.keep)),
    "vidcom2": lambda size, policy: UniquenessBudget(size, policy.keep, policy.history),
    "dtd": lambda size, policy: ChangedBudget(size, policy.threshold),
    "evs": lambda size, policy: RankedBudget(size, policy.keep, policy.history),
    "dycoke": lambda size, policy: CycleBudget(size, policy.keep),
}
