from __future__ import annotations

import importlib

import pytest

from tests.hygiene.sources import module_files, module_name

INITS = [module_name(file) for file in module_files() if file.name == "__init__.py"]
#: Names that scripts of users rely on.
PROMISED = {
    "stc_runtime": {"StreamSession", "Policy"},
    "stc_engines": {"find_target", "load_targets", "check_runnable"},
}


@pytest.mark.parametrize("name", INITS)
def test_public_names_exist_and_are_sorted(name: str) -> None:
    module = importlib.import_module(name)
    names = list(getattr(module, "__all__", []))
    assert names == sorted(names)
    assert [each for each in names if each.startswith("_") or not hasattr(module, each)] == []


@pytest.mark.parametrize("name", sorted(PROMISED))
def test_promised_names_are_public(name: str) -> None:
    assert PROMISED[name] <= set(importlib.import_module(name).__all__)
