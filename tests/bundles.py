"""Bundles for tests, each built once per test run and shared by all workers of pytest-xdist."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

from stc_export.pipeline.build import run_build
from stc_export.pipeline.types import BuildRequest
from stc_export.spec.policy import MemoryPolicy, Policy
from stc_export.spec.progress import Silent

#: A slot for each of the 1,024 positions of the tiny models, so that any policy runs on the bundle.
ALL_SLOTS = Policy(memory=MemoryPolicy(kv_tokens=900, answer_tokens=124))


def modern_request(checkpoint: Path, out: Path, precision: str) -> BuildRequest:
    """Return what builds a bundle of flavour modern."""
    return BuildRequest(str(checkpoint), out=out, precision=precision, policy=ALL_SLOTS, flavour="modern")


def shared_root(factory: pytest.TempPathFactory) -> Path:
    """Directory that all workers of this run share."""
    base = factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


def built_once(factory: pytest.TempPathFactory, name: str, request: Callable[[Path], BuildRequest]) -> Path:
    """Return the bundle ``name``, building it in the first worker that needs it."""
    root = shared_root(factory)
    out = root / f"{name}.stc"
    with FileLock(root / f"{name}.lock"):
        if not out.exists():
            run_build(request(out), Silent())
    return out
