"""Bundles for tests, each built once per test run and shared by all workers of pytest-xdist."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from filelock import FileLock

from stc_export.exporter.stand_in import write_stand_in
from stc_export.pipeline.build import run_build
from stc_export.pipeline.types import BuildRequest
from stc_export.spec.files import file_digest
from stc_export.spec.manifest import MANIFEST_NAME, FileEntry, manifest_to_text, read_manifest
from stc_export.spec.policy import MemoryPolicy, Policy
from stc_export.spec.progress import Silent

#: A slot for each of the 1,024 positions of the tiny models, so that any policy runs on the bundle.
ALL_SLOTS = Policy(memory=MemoryPolicy(kv_tokens=900, answer_tokens=124))


def modern_request(checkpoint: Path, out: Path, precision: str) -> BuildRequest:
    """Return what builds a bundle of flavour modern."""
    return BuildRequest(str(checkpoint), out=out, precision=precision, policy=ALL_SLOTS, flavour="modern")


def kv_request(checkpoint: Path, out: Path, flavour: str, precision: str) -> BuildRequest:
    """Keys and values in 8 bits, and a slot for every position of the model."""
    return replace(modern_request(checkpoint, out, f"{precision},kv=int8"), flavour=flavour)


def bf16_request(checkpoint: Path, out: Path) -> BuildRequest:
    """Return what builds a bundle in bf16, for a target that has it."""
    return BuildRequest(str(checkpoint), target="rtx", out=out, precision="bf16", flavour="base")


def modern_bf16_request(checkpoint: Path, out: Path) -> BuildRequest:
    """Return what builds a bundle of flavour modern in bf16."""
    return replace(modern_request(checkpoint, out, "bf16"), target="rtx")


def shared_root(factory: pytest.TempPathFactory) -> Path:
    """Directory that all workers of this run share."""
    base = factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


def built_once(factory: pytest.TempPathFactory, name: str, request: Callable[[Path], BuildRequest]) -> Path:
    """Return the bundle ``name``, building it in the first worker that needs it."""
    return made_once(factory, name, lambda out: run_build(request(out), Silent()))


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """Return the bundle ``name``, made by ``make`` in the first worker that needs it."""
    root = shared_root(factory)
    out = root / f"{name}.stc"
    with FileLock(root / f"{name}.lock"):
        if not out.exists():
            make(out)
    return out


def write_runnable(bundle: Path, out: Path) -> None:
    """Copy a bundle in bf16, with stand-ins in place of its graphs, which a CPU has no kernels for."""
    partial = out.with_suffix(".partial")
    shutil.copytree(bundle, partial)
    manifest = read_manifest(bundle)
    for graph in manifest.graphs:
        stand_in = partial / f"{graph.file}.new"
        write_stand_in(partial / graph.file, stand_in)
        stand_in.replace(partial / graph.file)
    files = tuple(
        FileEntry(entry.path, (partial / entry.path).stat().st_size, file_digest(partial / entry.path))
        for entry in manifest.files
    )
    (partial / MANIFEST_NAME).write_text(manifest_to_text(replace(manifest, files=files)), encoding="utf-8")
    partial.rename(out)
