"""A byte of a bundle that is not what it was is seen, wherever it lies."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings

from stc_export.pipeline.inspect import inspect
from stc_export.spec import codec
from stc_export.spec.engines import FOLDER, RECORD_NAME, SCHEMA, EngineEntry, Fingerprint, SealRecord
from stc_export.spec.errors import BundleError
from stc_export.spec.files import file_digest
from stc_export.spec.manifest import MANIFEST_NAME, read_manifest
from tests.stc_export.pipeline.small_bundle import write_small_bundle

PLAN = b"a plan of some bytes" * 10
#: Each example hashes the whole bundle.
many = settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of one's own to damage, with the engines of one graph."""
    copy = Path(shutil.copytree(tiny_bundle, tmp_path_factory.mktemp("damage") / "given.stc"))
    fingerprint = Fingerprint("trt", "10.3.0", "Orin", "8.7", "36.4.3", ())
    folder = copy / FOLDER / fingerprint.key
    folder.mkdir(parents=True)
    (folder / "vit.plan").write_bytes(PLAN)
    entry = EngineEntry("graphs/vit.gate.onnx", "vit.plan", (), len(PLAN), file_digest(folder / "vit.plan"), 1.5)
    record = SealRecord(SCHEMA, "stc-export", fingerprint, (entry,), (), (), "no GPU")
    (folder / RECORD_NAME).write_text(codec.to_json(record), encoding="utf-8")
    return copy


def listed(bundle: Path) -> list[str]:
    """All files that belong to the portable bundle."""
    return [MANIFEST_NAME, *(entry.path for entry in read_manifest(bundle).files)]


def is_damaged(bundle: Path) -> bool:
    """Whether ``inspect`` says so."""
    try:
        return not inspect(bundle).ok
    except BundleError:
        return True


def engines_are_damaged(bundle: Path) -> bool:
    """Whether ``inspect`` says so; the bundle itself is whole without them."""
    result = inspect(bundle)
    assert result.ok
    return not all(row.whole for row in result.engines)


def put(file: Path, data: bytes) -> None:
    """Write over a file, which stays the same file."""
    with file.open("r+b") as stream:
        stream.truncate(len(data))
        stream.write(data)


@many
@given(data=st.data())
def test_any_byte_changed_is_seen_or_harmless(bundle: Path, data: st.DataObject) -> None:
    file = bundle / data.draw(st.sampled_from(listed(bundle)))
    before, manifest = file.read_bytes(), read_manifest(bundle)
    place, mask = data.draw(st.integers(0, len(before) - 1)), data.draw(st.integers(1, 255))
    try:
        put(file, before[:place] + bytes([before[place] ^ mask]) + before[place + 1 :])
        assert is_damaged(bundle) or (file.name == MANIFEST_NAME and read_manifest(bundle) == manifest)
    finally:
        put(file, before)


@many
@given(data=st.data())
def test_any_file_cut_off_or_grown_is_seen_or_harmless(bundle: Path, data: st.DataObject) -> None:
    file = bundle / data.draw(st.sampled_from(listed(bundle)))
    before, manifest = file.read_bytes(), read_manifest(bundle)
    size = data.draw(st.integers(0, len(before) + 100).filter(lambda size: size != len(before)))
    try:
        put(file, before[:size].ljust(size, b" "))
        assert is_damaged(bundle) or (file.name == MANIFEST_NAME and read_manifest(bundle) == manifest)
    finally:
        put(file, before)


def test_undamaged_bundle_has_nothing_to_be_seen(bundle: Path) -> None:
    assert not is_damaged(bundle)
    assert not engines_are_damaged(bundle)


@pytest.mark.parametrize("place", range(0, len(PLAN), 7))
def test_byte_of_a_plan_changed_is_seen(bundle: Path, place: int) -> None:
    (plan,) = bundle.glob(f"{FOLDER}/*/vit.plan")
    try:
        put(plan, PLAN[:place] + b"\0" + PLAN[place + 1 :])
        assert engines_are_damaged(bundle)
    finally:
        put(plan, PLAN)


def test_plan_that_is_a_link_or_a_pipe_is_seen(bundle: Path) -> None:
    (plan,) = bundle.glob(f"{FOLDER}/*/vit.plan")
    plan.rename(bundle.parent / "plan")
    try:
        plan.symlink_to(bundle.parent / "plan")
        assert engines_are_damaged(bundle)
        plan.unlink()
        os.mkfifo(plan)
        assert engines_are_damaged(bundle)
    finally:
        plan.unlink()
        (bundle.parent / "plan").rename(plan)


@pytest.mark.slow
def test_every_byte_of_a_small_bundle_changed_is_seen_or_harmless(tmp_path: Path) -> None:
    small = write_small_bundle(tmp_path / "small.stc")
    manifest = read_manifest(small)
    for path in listed(small):
        before = (small / path).read_bytes()
        for place in range(len(before)):
            put(small / path, before[:place] + bytes([before[place] ^ 1 << place % 8]) + before[place + 1 :])
            assert is_damaged(small) or (path == MANIFEST_NAME and read_manifest(small) == manifest), (path, place)
        put(small / path, before)
