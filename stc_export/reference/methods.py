"""Methods that cannot be exported, because they do not serve a stream, and why. Standard library only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from stc_export.spec.errors import PolicyError, UnsupportedError
from stc_export.spec.policy import PrunerPolicy


@dataclass(frozen=True)
class ReferenceMethod:
    """A method that runs in the original model only.

    Attributes:
        name: Value of ``pruner.method``.
        reason: What it needs that a stream cannot give, as the rest of a sentence about it.
    """

    name: str
    reason: str


REFERENCE_METHODS: Mapping[str, ReferenceMethod] = {
    row.name: row
    for row in (
        ReferenceMethod("evs_clip", "it ranks the tokens of all frames of a clip together, and a stream has no end"),
        ReferenceMethod("fastv", "it ranks tokens by attention weights of the question, which is not there yet"),
        ReferenceMethod("pdrop", "it ranks tokens by attention weights of the question, which is not there yet"),
        ReferenceMethod("sparsevlm", "words of the question rate the tokens, and they are not there yet"),
        ReferenceMethod("tome", "it merges tokens inside the vision transformer, which leaves no feature cache"),
        ReferenceMethod("vidcom2_clip", "it shares tokens out among all frames of a clip, and a stream has no end"),
    )
}


def check_exportable(method: str) -> None:
    """Check that a method is not one of the reference alone.

    Raises:
        UnsupportedError: It is.
    """
    if method in REFERENCE_METHODS:
        raise UnsupportedError(
            f'pruner.method "{method}" runs in the reference only: {REFERENCE_METHODS[method].reason}.',
            "Add --reference torch.",
        )


def check_budget(pruner: PrunerPolicy) -> None:
    """Check that a method of the reference alone, which says itself what stays of a frame, gets no other budget.

    Raises:
        PolicyError: It does.
    """
    if pruner.method in REFERENCE_METHODS and pruner.budget != "fixed":
        raise PolicyError(
            f'pruner.budget is "{pruner.budget}", but "{pruner.method}" decides itself how many tokens stay.',
            "Leave out pruner.budget.",
        )
