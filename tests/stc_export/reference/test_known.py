"""Keys of a policy that the reference does not know."""

from __future__ import annotations

from dataclasses import replace

import pytest

from stc_export.reference import known
from stc_export.reference.known import check_known
from stc_export.spec.errors import UnsupportedError
from stc_export.spec.policy import Policy, PrunerPolicy, named_policies


def test_policies_of_today_are_known() -> None:
    for policy in named_policies().values():
        check_known(policy)


def test_key_that_is_not_known_is_refused_unless_it_has_its_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known, "_KNOWN", {"gate": known._KNOWN["gate"], "cacher": known._KNOWN["cacher"]})
    check_known(Policy())
    with pytest.raises(UnsupportedError, match=r"pruner\.keep is 0\.7, which the original model does not know"):
        check_known(replace(Policy(), pruner=PrunerPolicy(keep=0.7)))
